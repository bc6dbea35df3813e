"""``quantus-miner service``."""

from __future__ import annotations

import click


@click.group(invoke_without_command=True)
@click.pass_context
def service(context: click.Context) -> None:
    """Set up the systemd service."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)


@service.command("print")
@click.option("--shared", is_flag=True, help="For a machine that also runs a node.")
@click.option("--dedicated", is_flag=True, help="For a machine that only mines.")
def service_print(shared: bool, dedicated: bool) -> None:
    """Print a drop-in for systemd, fitted to the CPUs of this machine."""
    from quantus_miner import drop_in
    from quantus_miner.host import cpus

    if shared == dedicated:
        raise click.UsageError(f"{'only ' if shared else ''}one of --shared and --dedicated is needed")
    write = drop_in.shared if shared else drop_in.dedicated
    for line in write(cpus.detect().cpus):
        click.echo(line)
