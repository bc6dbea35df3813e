"""``quantus-miner verify``."""

from __future__ import annotations

import sys
from typing import Any

import click

from quantus_miner.cli.completion import complete_path
from quantus_miner.model import Pow


@click.command("verify")
@click.option(
    "--pow",
    "pow_",
    type=click.Choice([pow_.value for pow_ in Pow]),
    help="Proof of work.  [default: by --difficulty or --threshold]",
)
@click.option("--header", metavar="HEX", help="Mining hash, 64 hex digits.")
@click.option("--nonce", metavar="HEX", help="Nonce, 1 to 128 hex digits.")
@click.option("--difficulty", metavar="N", help="qpow-poseidon2: decimal; valid if hash < (2^512 - 1) / difficulty.")
@click.option("--threshold", metavar="N", help="qpow-sha3: decimal; valid if distance <= threshold.")
@click.option(
    "--block",
    metavar="FILE",
    shell_complete=complete_path,
    help="JSON file with a sealed block or its header, as returned by a node.",
)
@click.option("--rpc", metavar="URL", help="Fetch the block from this JSON-RPC server of a node, http or https.")
@click.option("--height", metavar="N", type=click.IntRange(0, 2**32 - 1), help="With --rpc: number of the block.")
def verify(**given: Any) -> None:  # noqa: ANN401 - click's values
    """Check a nonce or a sealed block with the reference.

    The exit code is 0 if it is valid, 1 if it is not, and 4 if no difficulty is known to compare the hash with.
    """
    from quantus_miner.verify import check

    result = check(**given)
    for line in result.lines():
        click.echo(line)
    sys.exit(result.exit_code)
