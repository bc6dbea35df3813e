"""``quantus-miner hub``."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from quantus_miner.cli.completion import complete_path
from quantus_miner.cli.options import load_settings, reload_settings, setting_options, without_secrets
from quantus_miner.setting_table import names_of
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from quantus_miner.hub.roster import Roster


@click.group("hub", invoke_without_command=True)
@setting_options(*names_of("hub"))
@click.pass_context
def hub(context: click.Context, /, **given: str | None) -> None:
    """Run a hub: it takes work from a node or from pools, and passes it on to any number of rigs and stratum miners."""
    if context.invoked_subcommand is not None:
        return
    from quantus_miner.host.signals import Signals

    signals = Signals()
    try:
        settings = load_settings(given, command="hub")
        from quantus_miner.host.process_name import rename_process
        from quantus_miner.hub_service import run

        rename_process("quantus-miner", without_secrets(sys.argv[1:]))
        run(settings, signals, partial(reload_settings, given, command="hub"))
    finally:
        signals.ignore()


def _rig_name(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        return fleet.parse_rig_name(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_state_dir = click.option(
    "--state-dir", metavar="DIR", shell_complete=complete_path, help="State folder of the hub.  [default: the user's]"
)
_name = click.argument("name", callback=_rig_name)


def _roster(state_dir: str | None) -> Roster:
    from quantus_miner.hub.roster import Roster

    return Roster(load_settings({"state_dir": state_dir, "log": "warn"}).state_dir)


@hub.command("invite")
@_name
@click.option(
    "--address", metavar="HOST[:PORT]", help=f"Where the rig finds the hub.  [default: this host, port {fleet.PORT}]"
)
@_state_dir
def invite(name: str, address: str | None, state_dir: str | None) -> None:
    """Let a rig called NAME connect, and print its command. An earlier invitation of that name ends."""
    try:
        host, port = fleet.parse_hub_address(address or socket.gethostname())
    except ValueError as error:
        raise click.BadParameter(f"allowed: {error}", param_hint="--address") from None
    click.echo(f"quantus-miner serve --hub {_roster(state_dir).invite(name, host, port).secret}")


@hub.command("revoke")
@_name
@_state_dir
def revoke(name: str, state_dir: str | None) -> None:
    """End the invitation of the rig called NAME, which is disconnected."""
    _roster(state_dir).revoke(name)
    click.echo(f"{name} is disconnected within seconds, and cannot connect any more.")
