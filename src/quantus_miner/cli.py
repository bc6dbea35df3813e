"""The command ``quantus-miner``: flags from the settings table, one module a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantus_miner import __version__, logs
from quantus_miner.errors import MinerError
from quantus_miner.settings import SETTINGS, Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")


class _Group(click.Group):
    """Runs ``serve`` where no subcommand is given, so that a service's command line needs none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, "--help", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def settings_options(command: Command) -> Command:
    """Adds every row of the settings table as an option, and --config."""
    for setting in reversed(SETTINGS):
        default = "unset" if setting.default is None else setting.default
        command = click.option(
            *filter(None, (setting.short, setting.flag)),
            setting.name,
            metavar=setting.metavar,
            help=f"{setting.help}  [env: {', '.join(setting.environment)}; default: {default}]",
        )(command)
    return click.option("--config", metavar="FILE", help="TOML file with settings, named as the flags.")(command)


def load_settings(given: dict[str, str | None]) -> Settings:
    """The settings from the given flags, the environment and the config file; the log is set up by them."""
    config = given.pop("config", None)
    flags = {name: text for name, text in given.items() if text is not None}
    settings = load(flags, os.environ, Path(config) if config else None)
    logs.configure(settings.log, settings.log_format)
    return settings


@click.group(cls=_Group, context_settings={"max_content_width": 120})
@click.version_option(__version__, prog_name="quantus-miner")
def cli() -> None:
    """External proof-of-work miner for the Quantus network. Without a command: serve."""


@cli.command()
@settings_options
def serve(**given: str | None) -> None:
    """Run the mining service (the default)."""
    settings = load_settings(given)
    from quantus_miner import service

    service.run(settings)


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        message, code = error.format_message(), 2
    except MinerError as error:
        message, code = str(error), error.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.stderr.write(f"quantus-miner: {message}\n")
    sys.exit(code)
