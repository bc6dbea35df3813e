"""Settings as command-line options, shared by several commands."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from quantus_miner import logs
from quantus_miner.cli.completion import complete_path
from quantus_miner.model import Pow
from quantus_miner.setting_table import BY_NAME, SETTINGS, names_of
from quantus_miner.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from quantus_miner.setting import CommandName


Command = TypeVar("Command", bound="Callable[..., Any]")

pow_option: Final = click.option(
    "--pow",
    "pow_",
    type=click.Choice([pow_.value for pow_ in Pow]),
    default=Pow.POSEIDON2.value,
    show_default=True,
    help="Proof of work.",
)
blocks_option: Final = click.option(
    "--blocks", type=click.IntRange(1), help="Stop after this many blocks.  [default: at Ctrl-C]"
)


def chain_options(block_time: float, difficulty: int) -> Callable[[Command], Command]:
    """Add --block-time, in seconds, and --difficulty of a development chain, with these defaults."""

    def add(command: Command) -> Command:
        command = click.option(
            "--difficulty",
            type=click.IntRange(1, 2**128),
            default=difficulty,
            show_default=True,
            help="Difficulty of block 1.",
        )(command)
        return click.option(
            "--block-time",
            type=click.FloatRange(0.05, 3600),
            default=block_time,
            show_default=True,
            help="Target time between blocks, in seconds.",
        )(command)

    return add


def settings_options(command: Command) -> Command:
    """Add the settings of ``serve`` as options, and --config."""
    return setting_options(*names_of("serve"))(command)


def setting_options(*names: str) -> Callable[[Command], Command]:
    """Return a decorator that adds these rows of the settings table as options, and --config."""
    return partial(_add_options, names)


def _add_options(names: Sequence[str], command: Command) -> Command:
    for setting in (BY_NAME[name] for name in reversed(names)):
        default = "unset" if setting.default is None else setting.default
        command = click.option(
            *filter(None, (setting.short, f"{setting.flag}/{setting.opposite}" if setting.switch else setting.flag)),
            setting.name,
            metavar=setting.metavar or None,
            multiple=setting.many,
            default=None,
            callback=_on_or_off if setting.switch else None,
            shell_complete=complete_path,
            help=f"{setting.help}  [env: {', '.join(setting.environment)}; default: {default}]",
        )(command)
    return click.option(
        "--config", metavar="FILE", shell_complete=complete_path, help="TOML file with settings, named like the flags."
    )(command)


def _on_or_off(_context: click.Context, _option: click.Parameter, given: bool | None) -> str | None:
    return None if given is None else "on" if given else "off"


def load_settings(
    given: Mapping[str, Any], environ: Mapping[str, str] = os.environ, *, command: CommandName = "serve"
) -> Settings:
    """Return the settings of a command from flags, environment and config file, and set up the log with them."""
    settings, warnings = _read_settings(given, environ, command)
    logs.configure(settings.log, settings.log_format)
    _warn(warnings)
    return settings


def reload_settings(given: Mapping[str, Any], *, command: CommandName = "serve") -> Settings:
    """Return the settings after reading their files again. Flags and environment stay the same."""
    settings, warnings = _read_settings(given, os.environ, command)
    _warn(warnings)
    return settings


def _read_settings(
    given: Mapping[str, Any], environ: Mapping[str, str], command: CommandName
) -> tuple[Settings, list[str]]:
    config = given.get("config")
    flags = {
        name: ",".join(text) if isinstance(text, tuple) else text
        for name, text in given.items()
        if name != "config" and text is not None and text != ()
    }
    warnings: list[str] = []
    return load(flags, environ, Path(config) if config else None, warnings.append, command=command), warnings


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        logging.getLogger("miner").warning("%s", warning)


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Return the command line with ``***`` in place of secrets, for users who list processes."""
    secrets = {setting.flag for setting in SETTINGS if setting.secret}
    shown = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        flag, equals, _ = argument.partition("=")
        shown.append("***" if before in secrets else f"{flag}=***" if equals and flag in secrets else argument)
    return shown
