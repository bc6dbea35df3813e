"""The settings of the miner that runs on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from quantus_miner import unit
from quantus_miner.cli.options import load_settings
from quantus_miner.cli.serve import serve
from quantus_miner.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantus_miner.settings import Settings


def find_service() -> unit.Host:
    """Return the host with the installed service, if there is one, and the environment that it runs in."""
    properties = unit.unit_properties()
    return unit.Host(unit.service_environment(os.environ, properties), properties)


def installed_settings(given: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings of the service that has ``environ``. ``given``: flags, which win if they are set.

    Raises SettingError.
    """
    try:
        extra = serve.make_context("serve", unit.extra_flags(environ)).params
    except click.UsageError as error:
        raise SettingError(f"EXTRA_MINER_FLAGS: {error.format_message()}") from None
    flags = {name: text for part in (extra, given) for name, text in part.items() if text}
    return load_settings({"log": "warn"} | flags, environ)
