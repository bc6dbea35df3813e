"""Every kernel against the baseline of its proof of work, what a nonce costs, and how one engine scales with workers.

    python -m benchmarks.kernels [--rounds 9] [--seconds 0.5] [--pow qpow-poseidon2] [--cpu 0]

All kernels run in turn, round by round, on one pinned thread, so that drift of the machine's speed hits all alike;
rates are per second of the thread's own time on the processor, and a ratio is the median of the ratios within each
round. So are cycles a nonce: the processor's own counter where it is to be had, else the rate against the core clock
measured in the same round. Instructions a nonce are counted one by one. The ceiling of a vector kernel is how many of
its vector instructions that calculate (neither move, broadcast nor load) this processor does a cycle if none waits for
another, see ``benchmarks.ceilings``. Nonces of qpow-poseidon2 come in walks, as a source without a range has them
searched.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha3_512
from typing import TYPE_CHECKING, Final

from benchmarks.ceilings import Form, cycles_per_instruction, mixed
from benchmarks.counting import Counting, Instructions, NotCountedError
from quantus_miner import native, units
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.bench import measure
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow
from quantus_miner.pow import sha3
from quantus_miner.pow.order import fastest_order

if TYPE_CHECKING:
    from collections.abc import Callable

_START_BITS: Final = {Order.COUNTING: 500, Order.WALK: 270}  # early nonces of qpow-sha3 have short exponents
STEPPED: Final = "Python ints"


@dataclass
class Series:
    """One contender: nonces a second and core cycles a nonce of each round."""

    rates: list[float] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)


def hash_rate(kernel: native.Kernel, seconds: float, clock: Callable[[], float]) -> float:
    """Nonces a second by ``clock`` of one thread, in slices of about a tenth of ``seconds``, in the fastest order."""
    order = fastest_order(kernel.pow)
    job = native.prepare(Job("bench", kernel.pow, secrets.token_bytes(32), 0, (NonceRange(0, MAX),), order))
    control = native.NativeControl()
    start = secrets.randbits(_START_BITS[order])

    def run(tested: int, count: int) -> None:
        native.search(kernel, job, start + tested, count, control)

    return _rate(run, seconds, clock)


def stepped_rate(seconds: float, clock: Callable[[], float]) -> float:
    """Nonces of qpow-sha3 a second of a Python loop: y = y m mod n, its SHA3-512, distance, comparison."""
    m, n = sha3.modulus(secrets.token_bytes(32))
    y, limit = secrets.randbelow(n), 0
    zero = int.from_bytes(sha3_512(secrets.randbelow(n).to_bytes(64)).digest())

    def run(_tested: int, count: int) -> None:
        nonlocal y
        for _ in range(count):
            y = y * m % n
            if zero ^ int.from_bytes(sha3_512(y.to_bytes(64)).digest()) <= limit:
                raise AssertionError("no distance is zero")

    return _rate(run, seconds, clock)


def _rate(run: Callable[[int, int], None], seconds: float, clock: Callable[[], float]) -> float:
    """Calls ``run(nonces before, nonces)`` until ``seconds`` are over."""
    began = clock()
    tested, elapsed, count = 0, 0.0, 1_000
    while elapsed < seconds:
        run(tested, count)
        tested += count
        elapsed = clock() - began
        count = max(1_000, int(tested / elapsed * seconds / 10))
    return tested / elapsed


def compare(pow_: Pow, rounds: int, seconds: float, counting: Counting | None) -> None:
    """Prints a line for each kernel of ``pow_``, and for qpow-sha3 what stepped Python integers do."""
    kernels = [kernel for kernel in native.kernels() if kernel.pow is pow_ and kernel.supported]
    contenders = {kernel.name: _timed(kernel, seconds) for kernel in kernels}
    if pow_ is Pow.SHA3:
        contenders[STEPPED] = lambda: stepped_rate(seconds, time.thread_time)
    series = {name: Series() for name in contenders}
    for _ in range(rounds):
        for name, rate in contenders.items():
            own = series[name]
            if counting:
                measured, clock = counting.clocked(rate)
                own.cycles.append(clock / measured)
            else:
                measured = rate()
            own.rates.append(measured)
    print(f"{pow_}, one thread")
    for name, own in series.items():
        line = f"  {name:12} {units.hash_rate(statistics.median(own.rates)):>12}   {_ratio(own, series['baseline'])}"
        if STEPPED in series:
            line += f" {_ratio(own, series[STEPPED], STEPPED)}"
        print(line)
    if counting:
        _costs(kernels, series, counting)


def _timed(kernel: native.Kernel, seconds: float) -> Callable[[], float]:
    return lambda: hash_rate(kernel, seconds, time.thread_time)


def _ratio(own: Series, other: Series, name: str = "baseline") -> str:
    ratios = [rate / base for rate, base in zip(own.rates, other.rates, strict=True)]
    return f"{statistics.median(ratios):7.2f} x {name} ({min(ratios):.2f} .. {max(ratios):.2f})"


def _costs(kernels: list[native.Kernel], series: dict[str, Series], counting: Counting) -> None:
    """Prints cycles and instructions a nonce of each kernel."""
    for kernel in kernels:
        cycles = statistics.median(series[kernel.name].cycles)
        line = f"  {kernel.name:12} {cycles:12,.0f} cycles a nonce"
        try:
            counted = counting.instructions(kernel)
        except NotCountedError as error:
            print(f"{line}; {error}")
            continue
        print(f"{line} {counted.total:12,.0f} instructions a nonce", flush=True)
        if counted.mix:
            _ceiling(cycles, counted, counting)


def _ceiling(cycles: float, counted: Instructions, counting: Counting) -> None:
    """Prints how close a vector kernel comes to the ceiling of its mix, and the ceilings of the mix's parts."""
    ceiling = cycles_per_instruction(mixed(counted.mix), counting.clocked)
    print(
        f"               {counted.vector:,.0f} vector calculations a nonce, {counted.vector / cycles:.2f} a cycle; "
        f"without dependencies {1 / ceiling:.2f}: the kernel reaches {ceiling * counted.vector / cycles:.2f} of that"
    )
    kinds: defaultdict[str, dict[Form, float]] = defaultdict(dict)
    for form, count in counted.mix.items():
        if count >= 1:
            kinds[form.kind][form] = count
    for kind, mix in sorted(kinds.items(), key=lambda item: -sum(item[1].values())):
        alone = cycles_per_instruction(mixed(mix), counting.clocked)
        print(f"               {kind:18} {sum(mix.values()):8,.0f} a nonce, alone {1 / alone:.2f} a cycle", flush=True)


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
    counting = None
    try:
        counting = Counting()
    except NotCountedError as error:
        print(f"no cycles and instructions: {error}")
    for pow_ in [options.pow] if options.pow else Pow:
        os.sched_setaffinity(0, {min(allowed) if options.cpu is None else options.cpu})
        compare(pow_, options.rounds, options.seconds, counting)
        os.sched_setaffinity(0, allowed)
        if len(allowed) > 1:
            scaling(pow_, options.rounds, options.seconds, len(allowed))


if __name__ == "__main__":
    main()
