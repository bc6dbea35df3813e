"""``quantus-miner verify``."""

from __future__ import annotations

import sys
from typing import Any

import click

from quantus_miner.model import Pow


@click.command("verify")
@click.option(
    "--pow", "pow_", type=click.Choice([pow_.value for pow_ in Pow]), help="Default: by --difficulty or --threshold."
)
@click.option("--header", metavar="HEX", help="Mining hash, 64 hex digits.")
@click.option("--nonce", metavar="HEX", help="Nonce, 1 to 128 hex digits.")
@click.option("--difficulty", metavar="N", help="Decimal; qpow-poseidon2: valid if hash < (2^512 - 1) / difficulty.")
@click.option("--threshold", metavar="N", help="Decimal; qpow-sha3: valid if distance <= threshold.")
@click.option("--block", metavar="FILE", help="JSON file with a sealed block or its header, as nodes reply with it.")
@click.option("--rpc", metavar="URL", help="A node's JSON-RPC server, http or https: take the block from there.")
@click.option("--height", metavar="N", type=click.IntRange(0, 2**32 - 1), help="With --rpc: the number of the block.")
def verify(**given: Any) -> None:  # noqa: ANN401 - click's values
    """Check a nonce or a sealed block with the reference implementation.

    Exit code 0: valid; 1: not valid; 4: no difficulty is known to compare the hash with.
    """
    from quantus_miner.verify import verdict

    result = verdict(**given)
    for line in result.lines():
        click.echo(line)
    sys.exit(result.exit_code)
