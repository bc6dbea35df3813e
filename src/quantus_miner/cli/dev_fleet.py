"""``quantus-miner dev-fleet``."""

from __future__ import annotations

import sys

import click

from quantus_miner.model import Pow


@click.command("dev-fleet")
@click.option("--rigs", type=click.IntRange(0, 100), default=3, show_default=True, help="Number of rigs.")
@click.option(
    "--block-time",
    type=click.FloatRange(0.05, 3600),
    default=3.0,
    show_default=True,
    help="Target time between blocks, in seconds.",
)
@click.option(
    "--difficulty", type=click.IntRange(1, 2**128), default=100_000, show_default=True, help="Difficulty of block 1."
)
@click.option("--blocks", type=click.IntRange(1), help="Stop after this many blocks.  [default: at Ctrl-C]")
def dev_fleet(rigs: int, block_time: float, difficulty: int, blocks: int | None) -> None:
    """Play a fleet: run a node, a hub, rigs and a stratum miner on this machine, and show what each of them says."""
    from quantus_miner.dev import fleet
    from quantus_miner.dev.chain import Chain

    sys.exit(fleet.run(Chain(Pow.POSEIDON2, difficulty, block_time), rigs, blocks))
