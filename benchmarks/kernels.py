"""Every kernel against the baseline of its proof of work, and how one engine scales with workers.

    python -m benchmarks.kernels [--rounds 9] [--seconds 0.5] [--pow qpow-poseidon2] [--cpu 0]

All kernels run in turn, round by round, on one pinned thread, so that drift of the machine's speed hits all alike;
the ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import time

from quantus_miner import native, units
from quantus_miner.bench import measure
from quantus_miner.engines.cpu import CpuEngine, fast_kernels
from quantus_miner.model import MAX, Job, NonceRange, Pow


def hash_rate(kernel: native.Kernel, seconds: float) -> float:
    """Nonces a second of one thread, in slices of about a tenth of ``seconds``."""
    job = native.prepare(Job("bench", kernel.pow, secrets.token_bytes(32), 0, (NonceRange(0, MAX),)))
    control = native.Control()
    start, count = secrets.randbits(500), 1_000
    began = time.perf_counter()
    tested, elapsed = 0, 0.0
    while elapsed < seconds:
        tested += native.search(kernel, job, start + tested, count, control).tested
        elapsed = time.perf_counter() - began
        count = max(1_000, int(tested / elapsed * seconds / 10))
    return tested / elapsed


def compare(pow_: Pow, rounds: int, seconds: float) -> None:
    """Prints a line for each kernel of ``pow_``."""
    kernels = [kernel for kernel in native.kernels() if kernel.pow is pow_ and kernel.supported]
    rates: dict[str, list[float]] = {kernel.name: [] for kernel in kernels}
    for _ in range(rounds):
        for kernel in kernels:
            rates[kernel.name].append(hash_rate(kernel, seconds))
    print(f"{pow_}, one thread")
    for name, own in rates.items():
        ratios = [rate / base for rate, base in zip(own, rates["baseline"], strict=True)]
        spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
        print(
            f"  {name:12} {units.hash_rate(statistics.median(own)):>12}   "
            f"{statistics.median(ratios):7.2f} x baseline   ({spread})"
        )


def scaling(pow_: Pow, rounds: int, seconds: float, workers: int) -> None:
    """Prints what ``workers`` threads do against one, in turn."""
    one, many = (CpuEngine("cpu-fast", count, fast_kernels(None)) for count in (1, workers))
    ratios = []
    for _ in range(rounds):
        alone = measure(one, pow_, seconds, lambda _elapsed, _rate: None).hash_rate
        ratios.append(measure(many, pow_, seconds, lambda _elapsed, _rate: None).hash_rate / alone)
    print(f"{pow_}, kernel {one.kernel(pow_)}: {workers} workers do {statistics.median(ratios):.3f} x one")


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--pow", type=Pow, choices=list(Pow))
    parser.add_argument("--cpu", type=int, help="CPU that the single thread is pinned to")
    options = parser.parse_args()
    allowed = os.sched_getaffinity(0)
    for pow_ in [options.pow] if options.pow else Pow:
        os.sched_setaffinity(0, {min(allowed) if options.cpu is None else options.cpu})
        compare(pow_, options.rounds, options.seconds)
        os.sched_setaffinity(0, allowed)
        if len(allowed) > 1:
            scaling(pow_, options.rounds, options.seconds, len(allowed))


if __name__ == "__main__":
    main()
