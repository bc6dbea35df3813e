"""``quantus-miner devices``."""

from __future__ import annotations

import click


@click.command("devices")
def devices() -> None:
    """Show the processor, its kernels, and which engines can run here."""
    from quantus_miner.devices import describe

    for line in describe():
        click.echo(line)
