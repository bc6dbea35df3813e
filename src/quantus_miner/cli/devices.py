"""``quantus-miner devices``."""

from __future__ import annotations

import click

from quantus_miner.cli.output import echo_json, json_option


@click.command("devices")
@json_option
def devices(as_json: bool) -> None:
    """Show the processor, its kernels, and which engines can run here."""
    from quantus_miner import devices as devices_

    report = devices_.look()
    if as_json:
        echo_json(report)
        return
    for line in devices_.lines(report):
        click.echo(line)
