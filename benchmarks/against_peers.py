"""Our kernels against a plain search on the network's own hash crate, in one interleaved run on one core.

    make bench-peers

The peer in ``peers/`` increments, hashes 96 bytes and compares, as the network's plain CPU miner does. Before anything
is timed, both sides have to hash the same.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.kernels import hash_rate
from quantus_miner import native, units
from quantus_miner import pow as reference
from quantus_miner.model import MAX, Pow

PEER = Path(__file__).parent / "peers" / "target" / "release" / "quantus-miner-peer"


def run_peer(*arguments: str) -> str:
    """What the peer prints; it runs on the CPU that this process is pinned to."""
    return subprocess.run([PEER, *arguments], capture_output=True, text=True, check=True).stdout


def check_same_hash() -> None:
    """Raises AssertionError unless peer and reference agree on random and extreme nonces."""
    for nonce in (0, MAX, *(secrets.randbits(512) for _ in range(20))):
        header = secrets.token_bytes(32)
        theirs = int(run_peer(header.hex(), "hash", f"{nonce:0128x}"), 16)
        assert theirs == reference.evaluate(Pow.POSEIDON2, header, nonce), f"{header.hex()} {nonce:x}"


def peer_rate(seconds: float) -> float:
    """Nonces a second of the peer."""
    hashes, taken = run_peer(secrets.token_hex(32), str(seconds)).split()
    return int(hashes) / float(taken)


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    check_same_hash()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kernels = [kernel for kernel in native.kernels() if kernel.pow is Pow.POSEIDON2 and kernel.supported]
    peer: list[float] = []
    ours: dict[str, list[float]] = {kernel.name: [] for kernel in kernels}
    for _ in range(options.rounds):
        peer.append(peer_rate(options.seconds))
        for kernel in kernels:
            ours[kernel.name].append(hash_rate(kernel, options.seconds, time.perf_counter))
    print(f"peer (qp-poseidon-core)   {units.hash_rate(statistics.median(peer)):>12}   1.00 x")
    for name, rates in ours.items():
        ratios = [rate / base for rate, base in zip(rates, peer, strict=True)]
        print(
            f"{name:25} {units.hash_rate(statistics.median(rates)):>12}   {statistics.median(ratios):.2f} x the peer"
            f"   ({min(ratios):.2f} .. {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
