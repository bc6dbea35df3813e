"""``quantus-miner completion``, and what the command line completes beyond click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM: Final = "quantus-miner"
VARIABLE: Final = "_QUANTUS_MINER_COMPLETE"
"""Environment variable with which the scripts call the program."""
SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands and options."""
    from click import shell_completion

    kinds = (shell_completion.BashComplete, shell_completion.ZshComplete, shell_completion.FishComplete)
    kind = next(kind for kind in kinds if kind.name == shell)
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE)
    # Without source(), which would run bash to warn of an old one. Packages are built elsewhere.
    click.echo(script.source_template % script.source_vars())


def complete_path(_: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave the value of an option to the shell if its metavar is FILE or DIR. Other values are not completed."""
    from click.shell_completion import CompletionItem

    kind = {"FILE": "file", "DIR": "dir"}.get(parameter.metavar or "")
    return [CompletionItem(incomplete, kind)] if kind else []
