"""The command ``quantus-miner``, with one file for each subcommand."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from quantus_miner import __version__, logs
from quantus_miner.cli.bench import bench
from quantus_miner.cli.completion import PROGRAM, VARIABLE, completion
from quantus_miner.cli.control import pause, resume
from quantus_miner.cli.dev_fleet import dev_fleet
from quantus_miner.cli.dev_node import dev_node
from quantus_miner.cli.dev_pool import dev_pool
from quantus_miner.cli.devices import devices
from quantus_miner.cli.doctor import doctor
from quantus_miner.cli.fleet import FLEET_COMMANDS
from quantus_miner.cli.history import history
from quantus_miner.cli.hub import hub
from quantus_miner.cli.serve import serve
from quantus_miner.cli.service import service
from quantus_miner.cli.top import top
from quantus_miner.cli.verify import verify
from quantus_miner.errors import MinerError, explain

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Group(click.Group):
    """Runs ``serve`` if no subcommand is given, so that the command line of a service needs none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {*self.commands, *ctx.help_option_names, "--version"}
        # Without any word, a shell that completes the line looks for a command.
        if (not args and not ctx.resilient_parsing) or (args and args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands, and options of ``serve``, which needs no command."""
        found = super().shell_complete(ctx, incomplete)
        with serve.make_context("serve", [], parent=ctx, resilient_parsing=True) as context:
            more = serve.shell_complete(context, incomplete)
        known = {item.value for item in found}
        return [*found, *(item for item in more if item.value not in known)]

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of the output is gone. click would exit with code 1.
            ctx.exit(0)


@click.group(cls=_Group, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """External proof-of-work miner for the Quantus network. Without a command, run the mining service (serve)."""


COMMANDS = (
    serve, hub, top, pause, resume, bench, verify, devices, doctor, service, history, completion,
    dev_node, dev_pool, dev_fleet,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)
for command in FLEET_COMMANDS:
    hub.add_command(command)


def main() -> None:
    """Run the command line. Every error becomes one line on stderr and an exit code."""
    message, code = "", 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape characters that the locale cannot show, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli(standalone_mode=False, prog_name=PROGRAM, complete_var=VARIABLE) or 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except click.ClickException as error:
        message, code = error.format_message(), 2
    except MinerError as error:
        message, code = str(error), error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        logging.getLogger("miner").debug("Traceback", exc_info=error)
        message, code = explain(error), 1
    if message:
        logs.report(f"quantus-miner: {message}")
    for stream in (sys.stdout, sys.stderr):
        _give_up_unwritable(stream)
    _end(code)


def _end(code: int) -> NoReturn:
    """End the process, without what Python and C++ do at the end if threads are left: one in a driver would abort."""
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit would leave them out
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


def _give_up_unwritable(stream: TextIO | None) -> None:
    """Empty the buffer of a stream that cannot be written. Otherwise Python would fail at exit, with exit code 120."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
