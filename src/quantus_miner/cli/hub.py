"""``quantus-miner hub``."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from quantus_miner.cli.completion import complete_path
from quantus_miner.cli.options import load_settings, reload_settings, setting_options, without_secrets
from quantus_miner.setting_table import names_of
from quantus_miner.wire import fleet
from quantus_miner.wire.commands import ALL, parse_tag
from quantus_miner.wire.nats_url import PORT, parse_nats_url, parse_servers

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.hub.roster import Roster
    from quantus_miner.hub.tags import Tags

Value = TypeVar("Value")


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


def _parsed(option: str, parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(f"allowed: {error}", param_hint=option) from None


def _rig_name(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        return fleet.parse_rig_name(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_state_dir = click.option(
    "--state-dir", metavar="DIR", shell_complete=complete_path, help="State folder of the hub.  [default: the user's]"
)
_nats = click.option(
    "--nats", "nats", metavar="URL", envvar="MINER_NATS", help="NATS servers of the hub, if it does not start one."
)
_name = click.argument("name", callback=_rig_name)


def _roster(state_dir: str | None) -> Roster:
    from quantus_miner.hub.roster import Roster

    return Roster(load_settings({"state_dir": state_dir, "log": "warn"}).state_dir)


def _tag_names(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(map(parse_tag, texts)))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _tags(roster: Roster) -> Tags:
    from quantus_miner.hub.tags import Tags

    return Tags(roster.folder)


@hub.command("invite")
@_name
@click.option(
    "--address",
    metavar="HOST[:PORT][,...]",
    help=f"Where the rig finds the hub, or its NATS servers.  [default: those of --nats, else this host, port {PORT}]",
)
@_nats
@click.option("--tag", "tags", metavar="TAG", multiple=True, callback=_tag_names, help="Tag it. May be repeated.")
@_state_dir
def invite(name: str, address: str | None, nats: str | None, tags: tuple[str, ...], state_dir: str | None) -> None:
    """Let a rig called NAME connect, and print its command. An earlier invitation of that name ends.

    With --nats, include what `hub nats-config` prints then in the configuration of the servers.
    """
    if name == ALL:
        raise click.BadParameter(f"{ALL} stands for all rigs, so none can have this name", param_hint="NAME")
    url = None if nats is None else _parsed("--nats", parse_nats_url, nats)
    servers = url.servers if url else ((socket.gethostname(), PORT),)
    if address is not None:
        servers = _parsed("--address", parse_servers, address)
    roster = _roster(state_dir)
    if tags:
        _tags(roster).set(name, tags)
    invitation = roster.invite(name, servers, roster.fingerprint() if url is None else url.pin)
    click.echo(f"quantus-miner serve --hub {invitation.secret}")
    _remind(roster)


@hub.command("nats-config")
@_state_dir
def nats_config(state_dir: str | None) -> None:
    """Print the account of the hub and its rigs for the configuration of existing NATS servers.

    Every server has to include it, and to read it again (nats-server --signal reload) after each invite and revoke.
    """
    from quantus_miner.hub.nats_server import cluster_config

    roster = _roster(state_dir)
    roster.certificate()
    click.echo(cluster_config(roster.hub_key()[1], roster.load()), nl=False)


@hub.command("revoke")
@_name
@_state_dir
def revoke(name: str, state_dir: str | None) -> None:
    """End the invitation of the rig called NAME, which is disconnected."""
    roster = _roster(state_dir)
    roster.revoke(name)
    _tags(roster).set(name, ())
    click.echo(f"{name} is disconnected within seconds, and cannot connect any more.")
    _remind(roster)


def _remind(roster: Roster) -> None:
    """Say that the servers of a cluster have to be told."""
    if roster.has_key:
        click.echo(
            "The NATS servers have to know: give them what `quantus-miner hub nats-config` prints now.", err=True
        )


@hub.command("tag")
@_name
@click.argument("tags", metavar="[TAG]...", nargs=-1, callback=_tag_names)
@_state_dir
def tag(name: str, tags: tuple[str, ...], state_dir: str | None) -> None:
    """Give the rig called NAME these tags in place of its earlier ones, or none."""
    _tags(_roster(state_dir)).set(name, tags)
    click.echo(f"Tags of {name}: {', '.join(tags) or 'none'}")
