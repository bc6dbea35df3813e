"""``quantus-miner history``."""

from __future__ import annotations

import click

from quantus_miner.cli.completion import complete_path
from quantus_miner.cli.options import load_settings


@click.command("history")
@click.option("--state-dir", metavar="DIR", shell_complete=complete_path, help="State folder.  [default: the user's]")
@click.option(
    "--last", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Number of entries to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each entry instead.")
def history(state_dir: str | None, last: int, as_json: bool) -> None:
    """Show the blocks and shares that this miner has found."""
    settings = load_settings({"state_dir": state_dir, "log": "warn"})
    from quantus_miner.store import history as history_

    entries = history_.latest(settings.state_dir, last)
    for line in history_.json_lines(entries) if as_json else history_.lines(entries):
        click.echo(line)
