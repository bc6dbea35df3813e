"""``quantus-miner serve``."""

from __future__ import annotations

import sys
from functools import partial

import click

from quantus_miner.cli.options import load_settings, reload_settings, settings_options, without_secrets


@click.command("serve")
@settings_options
def serve(**given: str | None) -> None:
    """Run the mining service (the default)."""
    from quantus_miner.host.signals import Signals

    signals = Signals()
    try:
        settings = load_settings(given)
        from quantus_miner.host.process_name import rename_process
        from quantus_miner.service import run

        rename_process("quantus-miner", without_secrets(sys.argv[1:]))
        run(settings, signals, partial(reload_settings, given))
    finally:
        signals.ignore()
