"""``quantus-miner top``."""

from __future__ import annotations

import os

import click

from quantus_miner.cli.control import connect, miner_options
from quantus_miner.errors import MinerError


@click.command("top")
@click.argument("address", metavar="[URL]", required=False)
@click.option("--once", is_flag=True, help="Print the status once, as plain text.")
@miner_options
def top(address: str | None, once: bool, url: str | None, **given: str | None) -> None:
    """Show a running miner or hub in the terminal, and pause or resume it. Without a URL, the miner of this machine."""
    if address and url:
        raise click.UsageError("URL and --url are both given; give one of them")
    client = connect(address or url, given)
    if once:
        from quantus_miner.top import faces

        click.echo(faces.plain(client.status()), nl=False)
        return
    try:
        import textual  # noqa: F401 - whether it is there
    except ImportError:
        message = "top needs the extra top: pip install 'quantus-miner[top]'; --once works without it"
        raise MinerError(message) from None
    if not all(map(os.isatty, range(3))) or os.environ.get("TERM") == "dumb":
        raise click.UsageError("top needs a terminal that it can draw on; use --once to print the status as text")
    from quantus_miner.top.app import Top

    Top(client).show()
