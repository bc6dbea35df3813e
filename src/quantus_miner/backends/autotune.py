"""Which kernel is the fastest on this very processor: measured once, remembered in the state directory."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from typing import TYPE_CHECKING, Final

from quantus_miner import __version__, native
from quantus_miner.host import files
from quantus_miner.host.cpus import processor_name
from quantus_miner.model import MAX, Job, NonceRange, Pow

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("miner.autotune")

ROUNDS: Final = 5
SAMPLE_S: Final = 0.006
"""Seconds of one measurement: with two proofs of work and three kernels each, under 300 ms in all."""
FIRST_NONCE: Final = 2**511
"""Far from 0, where qpow-sha3 has short exponents."""
MARGIN: Final = 1.04
"""The static choice stays unless another kernel is faster by this factor, more than noise does to a median."""


def fastest_kernels(state_file: Path) -> dict[Pow, native.Kernel]:
    """The fastest kernel of each proof of work here, from ``state_file`` or else measured and written there."""
    usable = {pow_: [k for k in native.kernels() if k.pow is pow_ and k.supported] for pow_ in Pow}
    identity = _identity(usable)
    chosen = _load(state_file, identity, usable)
    if chosen is None:
        began = time.perf_counter()
        chosen = {pow_: _measure(kernels) for pow_, kernels in usable.items()}
        names = {str(pow_): kernel.name for pow_, kernel in chosen.items()}
        log.info("Fastest kernels here: %s (measured in %.0f ms)", names, 1000 * (time.perf_counter() - began))
        _save(state_file, identity, names)
    return chosen


def _identity(usable: dict[Pow, list[native.Kernel]]) -> str:
    """Changes with whatever may change the answer: processor, version, kernels."""
    parts = [processor_name(), __version__, *(f"{k.pow}/{k.name}" for kernels in usable.values() for k in kernels)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _measure(kernels: list[native.Kernel]) -> native.Kernel:
    """The static choice is the last; only the one before it can be a match for it."""
    static = kernels[-1]
    rivals = [kernel for kernel in kernels if kernel.name != "baseline"][-2:]
    if len(rivals) < 2:
        return static
    speeds: dict[native.Kernel, list[float]] = {kernel: [] for kernel in rivals}
    for _ in range(ROUNDS):
        for kernel in rivals:
            speeds[kernel].append(speed(kernel))
    # Ratios within a round: what disturbs the machine for longer than that disturbs both sides.
    gains = {
        kernel: statistics.median(own / base for own, base in zip(samples, speeds[static], strict=True))
        for kernel, samples in speeds.items()
    }
    best = max(gains, key=gains.__getitem__)
    return best if gains[best] > MARGIN else static


def speed(kernel: native.Kernel) -> float:
    """Nonces a second of one thread, in a measurement of SAMPLE_S seconds."""
    task = native.prepare(Job("autotune", kernel.pow, bytes(range(32)), 0, (NonceRange(0, MAX),)))
    control = native.NativeControl()
    began = time.perf_counter()
    tested, count = 0, 512
    while (elapsed := time.perf_counter() - began) < SAMPLE_S:
        tested += native.search(kernel, task, FIRST_NONCE + tested, count, control).tested
        count *= 2
    return tested / elapsed


def _load(path: Path, identity: str, usable: dict[Pow, list[native.Kernel]]) -> dict[Pow, native.Kernel] | None:
    """What was measured before; None where that is missing, damaged, or of another machine."""
    try:
        document = json.loads(files.read(path, 10_000))
        if document["identity"] != identity:
            return None
        names = document["kernels"]
        return {pow_: next(k for k in kernels if k.name == names[pow_]) for pow_, kernels in usable.items()}
    except (OSError, ValueError, LookupError, TypeError, StopIteration, RecursionError):
        return None


def _save(path: Path, identity: str, names: dict[str, str]) -> None:
    try:
        files.replace(path, json.dumps({"identity": identity, "kernels": names}))
    except OSError as error:
        log.debug("Cannot keep the fastest kernels in %s: %s; they are measured at each start", path, error)
