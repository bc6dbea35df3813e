"""``quantus-miner pause`` and ``quantus-miner resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantus_miner.cli.options import setting_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.client import Client
    from quantus_miner.settings import Settings
    from quantus_miner.wire.status import PauseReply

Command = TypeVar("Command", bound="Callable[..., Any]")


def miner_options(command: Command) -> Command:
    """Add the options that say which miner to talk to."""
    command = setting_options("port", "bind", "api_token_file", "state_dir")(command)
    return click.option("--url", metavar="URL", help="URL of the miner.  [default: the one of this machine]")(command)


def connect(url: str | None, given: dict[str, Any]) -> Client:
    """Return a client of the miner that the options name. Raises SettingError if they cannot be used."""
    from quantus_miner.cli.installed import find_service, installed_settings

    return client_of(installed_settings(given, find_service().environ), url, given)


def client_of(settings: Settings, url: str | None, given: dict[str, Any]) -> Client:
    """Return a client of the miner or hub at ``url``, or of the one that has ``settings``.

    Another machine gets only a token from a file that the command line names, never the one of this machine.
    """
    from quantus_miner import units
    from quantus_miner.client import Client, is_local
    from quantus_miner.web.control import read_token

    if url is None:
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)  # noqa: S104 - not to bind
        url = f"http://{units.endpoint(address, settings.port)}"
    if given["api_token_file"] or is_local(url):
        return Client(url, settings.api_token or read_token(settings.state_dir))
    return Client(url, None)


def _show(done: str, reply: PauseReply) -> None:
    click.echo(done if reply.changed else f"Nothing to do: {done[0].lower()}{done[1:]} already")
    for pause in reply.pauses:
        click.echo(f"Paused: {pause.device or 'all devices'} ({pause.reason})")


@click.command("pause")
@click.option("--device", metavar="ID", help="Pause only this device, cpu or a GPU as `devices` lists it.")
@miner_options
def pause(device: str | None, url: str | None, **given: str | None) -> None:
    """Stop mining until resume, without ending the miner. A restart also resumes."""
    _show("Paused", connect(url, given).pause(device))


@click.command("resume")
@click.option("--device", metavar="ID", help="Resume only this device.")
@miner_options
def resume(device: str | None, url: str | None, **given: str | None) -> None:
    """Mine again after pause."""
    _show("Resumed", connect(url, given).resume(device))
