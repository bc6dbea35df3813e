"""``quantus-miner dev-fleet``."""

from __future__ import annotations

import sys

import click

from quantus_miner.cli.options import blocks_option, chain_options
from quantus_miner.model import Pow


@click.command("dev-fleet")
@click.option("--rigs", type=click.IntRange(0, 100), default=3, show_default=True, help="Number of rigs.")
@chain_options(3.0, 100_000)
@blocks_option
def dev_fleet(rigs: int, block_time: float, difficulty: int, blocks: int | None) -> None:
    """Play a fleet: run a node, a hub, rigs and a stratum miner on this machine, and show what each of them says."""
    from quantus_miner.dev import fleet
    from quantus_miner.dev.chain import Chain

    sys.exit(fleet.run(Chain(Pow.POSEIDON2, difficulty, block_time), rigs, blocks))
