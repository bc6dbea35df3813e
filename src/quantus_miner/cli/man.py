"""The man page, generated from the commands: ``python -m quantus_miner.cli.man > quantus-miner.1``.

The date is that of ``SOURCE_DATE_EPOCH``, so that builds of packages are reproducible.
"""

from __future__ import annotations

import datetime as dt
import inspect
import os
import re
import textwrap
import time
from typing import TYPE_CHECKING, Final

import click

from quantus_miner import __version__
from quantus_miner.cli import cli
from quantus_miner.cli.completion import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CODES: Final = {
    0: "Success: stopped by SIGTERM or SIGINT, command completed, nonce valid.",
    1: (
        "Failure: the port is in use, a vital part has failed, verify found the nonce invalid, doctor found a fault,"
        " or dev-node got invalid work or no answer."
    ),
    2: "A setting or the command line is wrong.",
    3: "Only with --exit-on-refusal: every live source refuses the miner because of its token, certificate or login.",
    4: "verify --block or --rpc: the hash was computed, but no difficulty is known to compare it with.",
    5: (
        "This machine cannot run it as it is set up: an engine is not available,"
        " the limit of file descriptors is too low."
    ),
    130: "bench, devices or verify, interrupted by Ctrl-C.",
}
SPECIAL: Final = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
"""Characters that roff would read as commands, or show as others than those to type."""
WIDTH: Final = 78


def page(date: dt.date) -> str:
    """Return the man page in roff, with the macros of man(7)."""
    context = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    about, _, rest = inspect.cleandoc(cli.help or "").partition(". ")
    lines = [
        f'.TH {_plain(PROGRAM.upper())} 1 {date.isoformat()} "{PROGRAM} {__version__}" "User Commands"',
        ".ad l",
        ".nh",
        ".SH NAME",
        _plain(f"{PROGRAM} - {about[0].lower()}{about[1:]}"),
        ".SH SYNOPSIS",
        *_usage(context),
        ".SH DESCRIPTION",
        *_text(f"{about}. {rest}"),
        ".SH OPTIONS",
        *_options(context, cli.get_params(context)),
        ".SH COMMANDS",
    ]
    for each in _commands(context):
        lines += [f".SS {_plain(each.command_path.removeprefix(PROGRAM + ' '))}", *_command(each)]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f".B {code}", *_text(meaning)]
    return "\n".join(lines) + "\n"


def _commands(parent: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command of a group, and of the groups in it."""
    if isinstance(parent.command, click.Group):
        for name, command in parent.command.commands.items():
            context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
            yield context
            yield from _commands(context)


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield from _usage(context)
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield ".PP"
        yield from _text(paragraph)
    serve = cli.commands["serve"]
    options = command.params
    shared = {parameter.name for parameter in serve.params}
    if command is not serve and shared <= {parameter.name for parameter in options}:
        yield ".PP"
        yield from _text("All options of serve can be given, too.")
        options = [parameter for parameter in options if parameter.name not in shared]
    yield from _options(context, options)


def _usage(context: click.Context) -> Iterator[str]:
    words = " ".join(context.command.collect_usage_pieces(context))
    yield f".B {_plain(context.command_path)}"
    yield _names(words)


def _options(context: click.Context, parameters: list[click.Parameter]) -> Iterator[str]:
    for parameter in parameters:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            yield ".TP"
            yield _names(record[0]).replace("|", r"|\:")  # a long list of choices may be broken there
            yield from _text(record[1])


def _text(text: str) -> Iterator[str]:
    """Yield a paragraph as lines, a new one for each sentence."""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\[])", " ".join(text.split())):
        for line in textwrap.wrap(sentence.translate(SPECIAL), WIDTH, break_long_words=False, break_on_hyphens=False):
            yield rf"\&{line}" if line.startswith(".") else line


def _names(text: str) -> str:
    """Return a usage or option with flags in bold and what to fill in in italics."""
    parts = re.split(r"((?<![\w-])--?[a-z][\w-]*|\b[A-Z][A-Z0-9]*\b)", text)
    fonts = {index: "B" if part.startswith("-") else "I" for index, part in enumerate(parts) if index % 2}
    styled = (f"\\f{fonts[i]}{_plain(part)}\\fR" if i in fonts else _plain(part) for i, part in enumerate(parts))
    return "".join(styled)


def _plain(text: str) -> str:
    return text.translate(SPECIAL)


if __name__ == "__main__":
    stamp = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    click.echo(page(dt.datetime.fromtimestamp(stamp, dt.UTC).date()).encode(), nl=False)
