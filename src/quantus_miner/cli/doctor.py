"""``quantus-miner doctor``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from quantus_miner.cli.options import load_settings, settings_options
from quantus_miner.cli.output import echo_json, json_option
from quantus_miner.cli.serve import serve
from quantus_miner.errors import SettingError

if TYPE_CHECKING:
    from quantus_miner.settings import Settings


@click.command("doctor")
@json_option
@settings_options
def doctor(as_json: bool, **given: str | None) -> None:
    """Check for common faults of the service. The exit code is 1 if something is wrong."""
    from quantus_miner import doctor as doctor_
    from quantus_miner import unit

    properties = unit.unit_properties()
    environ = unit.service_environment(os.environ, properties)

    def settings() -> Settings:
        try:
            extra = serve.make_context("serve", unit.extra_flags(environ)).params
        except click.UsageError as error:
            raise SettingError(f"EXTRA_MINER_FLAGS: {error.format_message()}") from None
        flags = {name: text for part in (extra, given) for name, text in part.items() if text}
        return load_settings({"log": "warn"} | flags, environ)

    findings = list(doctor_.examine(unit.Host(environ, properties), settings))
    if as_json:
        echo_json(doctor_.report(findings))
    else:
        for line in (line for finding in findings for line in finding.lines()):
            click.echo(line)
    sys.exit(any(finding.verdict == "wrong" for finding in findings))
