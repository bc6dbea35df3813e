"""``quantus-miner dev-node``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from quantus_miner.cli.options import blocks_option, chain_options, pow_option
from quantus_miner.model import Pow


@click.command("dev-node")
@click.option("--miner", metavar="URL", help="URL of a running miner's job API.  [default: start a miner]")
@click.option("--api-token", metavar="TOKEN", envvar="MINER_API_TOKEN", help="Bearer token of that miner's job API.")
@pow_option
@chain_options(3.0, 100_000)
@blocks_option
@click.option(
    "--poll-ms", type=click.IntRange(1, 60_000), default=500, show_default=True, help="Milliseconds between polls."
)
@click.option("--quic", is_flag=True, help="Play a node that miners connect to over QUIC.")
@click.option(
    "--listen",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="With --quic: UDP port to listen on.  [default: start a miner]",
)
@click.option(
    "--base-path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --quic: folder for the node's token and certificate.  [default: a temporary folder]",
)
@click.option(
    "--misbehave",
    type=click.Choice(["drop", "garbage", "slow-job", "stall", "wrong-pin"]),
    help="With --quic: how to misbehave.",
)
def dev_node(
    miner: str | None,
    api_token: str | None,
    pow_: str,
    block_time: float,
    difficulty: int,
    blocks: int | None,
    poll_ms: int,
    quic: bool,
    listen: int | None,
    base_path: Path | None,
    misbehave: str | None,
) -> None:
    """Play a node: give a miner headers and check the blocks it finds. The difficulty is adjusted to the block time."""
    from quantus_miner.dev import http_node
    from quantus_miner.dev.chain import Chain

    chain = Chain(Pow(pow_), difficulty, block_time)
    if quic:
        if miner is not None or chain.pow is not Pow.POSEIDON2:
            raise click.UsageError(
                f"--quic goes with --pow {Pow.POSEIDON2} and without --miner, for miners connect to it"
            )
        from quantus_miner.dev import quic_node

        sys.exit(quic_node.run(chain, base_path, listen, blocks, misbehave))
    if listen is not None or base_path is not None or misbehave is not None:
        raise click.UsageError("--listen, --base-path and --misbehave go with --quic")
    sys.exit(http_node.run(chain, miner, api_token, blocks, poll_ms / 1000))
