"""``quantus-miner hub pause`` and the other commands that a running hub passes on to its rigs."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantus_miner.cli.options import load_settings, setting_options
from quantus_miner.errors import printable
from quantus_miner.host.user import user_name
from quantus_miner.wire.commands import CommandRequest, parse_target
from quantus_miner.wire.fleet import MAX_NAME, MAX_POOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.client import Client
    from quantus_miner.wire.commands import Action

Command = TypeVar("Command", bound="Callable[..., Any]")


def _hub_options(command: Command) -> Command:
    """Add the options that say which hub to talk to."""
    command = setting_options("port", "bind", "api_token_file", "state_dir")(command)
    return click.option("--url", metavar="URL", help="URL of the hub.  [default: the one of this machine]")(command)


def _target_names(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(map(parse_target, texts)))
    except ValueError as error:
        raise click.BadParameter(f"allowed: {error}") from None


_targets = click.argument("targets", metavar="TARGET...", nargs=-1, required=True, callback=_target_names)


def _connect(url: str | None, given: dict[str, Any]) -> Client:
    from quantus_miner.cli.control import client_of

    return client_of(load_settings({"log": "warn"} | given), url, given)


def _send(
    client: Client, action: Action, targets: tuple[str, ...], pools: tuple[str, ...] = (), wallet: str = ""
) -> None:
    reply = client.command(
        CommandRequest(action, list(targets), printable(user_name())[:MAX_NAME], list(pools), wallet)
    )
    later = f", {reply.offline} of them once they are back" if reply.offline else ""
    click.echo(f"{action}: {reply.rigs} rigs{later}")
    if reply.exceptions:
        names = ", ".join(map(printable, reply.exceptions))
        click.echo(f"Something else was said for these or their tags, and counts (hub clear ends it): {names}")


def _simple(action: Action, help_text: str) -> click.Command:
    @click.command(action, help=help_text)
    @_targets
    @_hub_options
    def command(targets: tuple[str, ...], url: str | None, **given: str | None) -> None:
        _send(_connect(url, given), action, targets)

    return command


@click.command("set-pools")
@_targets
@click.option(
    "--pool", "pools", metavar="URL", multiple=True, help=f"A pool. May be repeated, up to {MAX_POOLS} times."
)
@click.option("--wallet", metavar="ADDRESS", default="", help="Address that the pools pay to.")
@_hub_options
def set_pools(
    targets: tuple[str, ...], pools: tuple[str, ...], wallet: str, url: str | None, **given: str | None
) -> None:
    """Set the pools that rigs use while the hub is away. Without --pool, each rig uses its own again.

    TARGET is the name of a rig, tag:NAME for all rigs with a tag, or all.
    """
    _send(_connect(url, given), "set-pools", targets, pools, wallet)


@click.command("log")
@_hub_options
def hub_log(url: str | None, **given: str | None) -> None:
    """Show the last commands to the rigs: when, who, what, for which rigs, and what came of it."""
    for entry in _connect(url, given).commands():
        time = dt.datetime.fromtimestamp(entry.time).astimezone().isoformat(" ", "seconds")
        click.echo("  ".join(map(printable, (time, entry.by, entry.what, entry.target, entry.result))))


_TARGETS = "TARGET is the name of a rig, tag:NAME for all rigs with a tag, or all."
FLEET_COMMANDS = (
    _simple("pause", f"Have rigs stop mining until resume, also those that are offline now.\n\n{_TARGETS}"),
    _simple("resume", f"Have rigs mine again after pause.\n\n{_TARGETS}"),
    _simple("reload", f"Have rigs read their settings again.\n\n{_TARGETS}"),
    _simple("restart", f"Have rigs restart that are services of systemd.\n\n{_TARGETS}"),
    set_pools,
    _simple("clear", f"Forget pause, resume and pools of a target: its tag's or all's count again.\n\n{_TARGETS}"),
    hub_log,
)
