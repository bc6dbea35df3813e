"""Every kernel against the scalar one over many nonces at low difficulty: the hits have to be identical.

    python -m benchmarks.exactness [--nonces 100000000] [--difficulty 4096] [--pow qpow-poseidon2] [--order walk]

The scalar kernel is itself tested against the baseline and the plain Python reference on all vectors; a hundredth of
the nonces is compared with the baseline here too. Runs on all CPUs, for some minutes.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

from quantus_miner import native, units
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow, target_from_difficulty
from quantus_miner.pow.order import STEP_BITS, fastest_order


def hits(kernel: native.Kernel, task: native.NativeJob, start: int, count: int) -> list[int]:
    """All valid nonces of the positions from ``start`` on, one search after the other."""
    control, found, end = native.NativeControl(), [], start + count
    while start < end:
        outcome = native.search(kernel, task, start, end - start, control)
        start += outcome.tested
        if outcome.nonce is not None:
            found.append(start - 1)
    return found


def run(pow_: Pow, order: Order, nonces: int, difficulty: int) -> None:
    """Compares all kernels of ``pow_`` on the same nonces, in parts that cross the ends of spans."""
    header = secrets.token_bytes(32)
    target = target_from_difficulty(difficulty)
    task = native.prepare(Job("exactness", pow_, header, target, (NonceRange(0, MAX),), order))
    kernels = {k.name: k for k in native.kernels() if k.pow is pow_ and k.supported}
    reference = kernels.pop("scalar")
    parts = 64
    size = nonces // parts
    # Every part begins near the end of a span, at a random place of the nonce space.
    span = 2**STEP_BITS if order is Order.WALK else 2**32
    starts = [secrets.randbits(250) * span + span - secrets.randbelow(size) - 1 for _ in range(parts)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def all_hits(kernel: native.Kernel, count: int) -> list[list[int]]:
            return list(pool.map(lambda start: hits(kernel, task, start, count), starts))

        expected = all_hits(reference, size)
        print(f"{pow_} {order} scalar: {size * parts:,} nonces, {sum(map(len, expected)):,} hits")
        for name, kernel in kernels.items():
            count = size // 100 if name == "baseline" else size
            wanted = [
                [position for position in part if position < start + count]
                for start, part in zip(starts, expected, strict=True)
            ]
            began = time.perf_counter()
            found = all_hits(kernel, count)
            rate = units.hash_rate(count * parts / (time.perf_counter() - began))
            missed = sum(len(set(want) - set(have)) for want, have in zip(wanted, found, strict=True))
            false = sum(len(set(have) - set(want)) for want, have in zip(wanted, found, strict=True))
            print(f"{pow_} {order} {name}: {count * parts:,} nonces, {missed} missed, {false} false hits ({rate})")
            assert found == wanted


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nonces", type=int, default=100_000_000)
    parser.add_argument("--difficulty", type=int, default=4096)
    parser.add_argument("--pow", type=Pow, choices=list(Pow))
    parser.add_argument("--order", type=Order, choices=list(Order))
    options = parser.parse_args()
    for pow_ in [options.pow] if options.pow else Pow:
        for order in [options.order] if options.order else Order:
            if order in (Order.COUNTING, fastest_order(pow_)):
                run(pow_, order, options.nonces, options.difficulty)


if __name__ == "__main__":
    main()
