"""``quantus-miner dev-pool``."""

from __future__ import annotations

import sys

import click

from quantus_miner.cli.options import chain_options
from quantus_miner.model import Pow


@click.command("dev-pool")
@click.option(
    "--listen",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="TCP port on 127.0.0.1 to listen on.  [default: start a miner]",
)
@click.option("--tls", is_flag=True, help="Use TLS, with a certificate made for this run.")
@click.option(
    "--share-time",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Target time between shares, in seconds.",
)
@click.option(
    "--share-difficulty",
    type=click.IntRange(1, 2**128),
    default=20_000,
    show_default=True,
    help="Share difficulty of the first job.",
)
@chain_options(12.0, 1_000_000)
@click.option("--shares", type=click.IntRange(1), help="Stop after this many accepted shares.  [default: at Ctrl-C]")
@click.option(
    "--misbehave",
    type=click.Choice(
        [
            "busy",
            "drop",
            "flood",
            "forget",
            "garbage",
            "no-reply",
            "one-job",
            "quiet",
            "refuse-login",
            "refuse-shares",
            "slow-job",
            "stall",
            "wrong-pin",
            "wrong-target",
        ]
    ),
    help="How to misbehave.",
)
def dev_pool(
    listen: int | None,
    tls: bool,
    share_time: float,
    share_difficulty: int,
    block_time: float,
    difficulty: int,
    shares: int | None,
    misbehave: str | None,
) -> None:
    """Play a pool: give miners jobs and check their shares. Their difficulty is adjusted to the share time."""
    from quantus_miner.dev import pool
    from quantus_miner.dev.chain import Chain
    from quantus_miner.dev.misbehaviour import PoolMisbehaviour

    chain = Chain(Pow.POSEIDON2, difficulty, block_time)
    misbehaviour = PoolMisbehaviour(misbehave) if misbehave else None
    if misbehaviour is PoolMisbehaviour.WRONG_PIN and not tls:
        raise click.UsageError("--misbehave wrong-pin goes with --tls")
    sys.exit(pool.run(chain, share_difficulty, share_time, listen, shares, tls=tls, misbehaviour=misbehaviour))
