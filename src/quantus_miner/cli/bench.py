"""``quantus-miner bench``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from quantus_miner import units
from quantus_miner.backends import table
from quantus_miner.cli.options import load_settings, pow_option
from quantus_miner.errors import EngineUnavailableError, MinerError
from quantus_miner.model import Pow

if TYPE_CHECKING:
    from quantus_miner.backends.base import Engine


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
@click.option("--state-dir", metavar="DIR", help="State folder.  [default: the user's]")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86400), default=5.0, show_default=True, help="Seconds for each engine."
)
@click.option("--tune", is_flag=True, help="First find the launch size that suits each GPU best, and save it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def bench(pow_: str, seconds: float, tune: bool, as_json: bool, **given: str | None) -> None:
    """Measure the hash rate of each engine and GPU."""
    settings = load_settings({**given, "log": "warn"})
    import msgspec

    from quantus_miner import bench as bench_
    from quantus_miner.backends.gpu import GpuEngine
    from quantus_miner.backends.registry import create_engines
    from quantus_miner.gpu import tuning
    from quantus_miner.parts.engines import choose_workers, detect_cpus

    proof = Pow(pow_)
    backends = [table.find(name) for name in settings.engine]
    if tune and all(backend.kind == "cpu" for backend in backends):
        gpus = " or ".join(backend.name for backend in table.BACKENDS if backend.kind == "gpu")
        raise click.UsageError(f"--tune goes with --engine {gpus}")
    for backend in backends:
        if proof not in backend.pows:
            raise MinerError(f"--pow: engine {backend.name} has no kernel for {proof}")
    live = sys.stderr.isatty() and not as_json
    count = choose_workers(settings.workers, detect_cpus())
    results = []
    # One at a time: each engine gets all the workers, and none disturbs another's measurement.
    engines: list[Engine] = []
    unavailable = []
    for name in settings.engine:
        try:
            engines += create_engines(replace(settings, engine=(name,)), count)
        except EngineUnavailableError as error:
            unavailable.append(error)
    if not engines:
        raise unavailable[0]
    for reason in unavailable:
        click.echo(f"quantus-miner: {reason}", err=True)
    for part in engines:
        if (fault := part.status().fault) is not None:
            raise MinerError(f"engine {part.name} cannot run {part.kernel(proof)}: {fault}")

        if tune and isinstance(part, GpuEngine):
            blocks = bench_.tune(
                part, seconds, lambda blocks, result: click.echo(bench_.tried(blocks, result), err=True)
            )
            try:
                tuning.save(settings.state_dir, part.name, part.device, blocks)
            except OSError as error:
                raise MinerError(f"--tune: cannot keep it in {settings.state_dir}: {error.strerror}") from None

        def progress(elapsed: float, rate: float, name: str = part.name) -> None:
            if live:
                click.echo(f"\r  {name:22} {units.hash_rate(rate):>12}  {elapsed:4.1f} s ", nl=False, err=True)

        results.append(bench_.measure(part, proof, seconds, progress))
        if live:
            click.echo("\r\x1b[K", nl=False, err=True)
        if not as_json:
            click.echo(bench_.row(results[-1], results))
    if as_json:
        click.echo(msgspec.json.encode(bench_.BenchReport(results)))
