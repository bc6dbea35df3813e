"""``quantus-miner bench``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from quantus_miner import units
from quantus_miner.backends import table
from quantus_miner.cli.completion import complete_path
from quantus_miner.cli.options import load_settings, pow_option
from quantus_miner.model import Pow

if TYPE_CHECKING:
    from quantus_miner.bench import BenchResult
    from quantus_miner.errors import EngineUnavailableError


@click.command("bench")
@click.option(
    "--engine",
    metavar="NAME[,NAME]",
    default=f"{table.BASELINE},{table.FAST}",
    show_default=True,
    help="Engines to measure.",
)
@click.option("--kernel", metavar="NAME", help="CPU kernel of the fast engines.  [default: the fastest]")
@pow_option
@click.option("--workers", metavar="N", help="Number of CPU workers.  [default: as the service]")
@click.option("--gpu-devices", metavar="ID[,ID]", help="GPUs to measure: indices or PCI addresses.  [default: all]")
@click.option("--state-dir", metavar="DIR", shell_complete=complete_path, help="State folder.  [default: the user's]")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86400), default=5.0, show_default=True, help="Seconds for each engine."
)
@click.option("--tune", is_flag=True, help="First find the launch size that suits each GPU best, and save it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def bench(pow_: str, seconds: float, tune: bool, as_json: bool, **given: str | None) -> None:
    """Measure the hash rate of each engine and GPU."""
    settings = load_settings({**given, "log": "warn"})
    import msgspec

    from quantus_miner import bench as procedure
    from quantus_miner.parts.engines import choose_workers, detect_cpus

    if tune and all(table.find(name).kind == "cpu" for name in settings.engine):
        gpus = " or ".join(backend.name for backend in table.BACKENDS if backend.kind == "gpu")
        raise click.UsageError(f"--tune goes with --engine {gpus}")
    screen = _Screen(live=sys.stderr.isatty() and not as_json)
    workers = choose_workers(settings.workers, detect_cpus())
    results: list[BenchResult] = []
    for result in procedure.run(settings, Pow(pow_), workers, seconds, screen, tuned=tune):
        results.append(result)
        screen.clear()
        if not as_json:
            click.echo(procedure.row(result, results))
    if as_json:
        click.echo(msgspec.json.encode(procedure.BenchReport(results)))


class _Screen:
    """Shows the progress of the benchmark on stderr. ``live``: with a line that is updated during a measurement."""

    def __init__(self, *, live: bool) -> None:
        self._live = live

    def unavailable(self, reason: EngineUnavailableError) -> None:
        click.echo(f"quantus-miner: {reason}", err=True)

    def tried(self, blocks: int, result: BenchResult) -> None:
        from quantus_miner import bench as procedure

        click.echo(procedure.tried(blocks, result), err=True)

    def progress(self, engine: str, elapsed_s: float, hash_rate: float) -> None:
        if self._live:
            click.echo(f"\r  {engine:22} {units.hash_rate(hash_rate):>12}  {elapsed_s:4.1f} s ", nl=False, err=True)

    def clear(self) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
