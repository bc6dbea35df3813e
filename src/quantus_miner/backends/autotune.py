"""Measure which kernel is the fastest on this processor, once, and remember it in the state directory."""

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
SAMPLE_S: Final = 0.003
"""Seconds of one measurement: with two proofs of work and four kernels each, 120 ms in all."""
RIVALS: Final = 4
"""Kernels of a proof of work that are compared, the last in the order of ``native.kernels``."""
FIRST_NONCE: Final = 2**511
"""Far from 0, because qpow-sha3 has short exponents near 0."""
MARGIN: Final = 1.04
"""Factor by which another kernel must be faster than the static choice. Noise changes a median by less."""


def fastest_kernels(state_file: Path) -> dict[Pow, native.Kernel]:
    """Return the fastest kernel of each proof of work. It is read from ``state_file``, or measured and saved there."""
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
    """Return a hash of all that may change the answer: processor, version, kernels."""
    parts = [processor_name(), __version__, *(f"{k.pow}/{k.name}" for kernels in usable.values() for k in kernels)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _measure(kernels: list[native.Kernel]) -> native.Kernel:
    """Return the fastest of the last kernels. The very last is the static choice."""
    static = kernels[-1]
    rivals = [kernel for kernel in kernels if kernel.name != "baseline"][-RIVALS:]
    if len(rivals) < 2:
        return static
    speeds: dict[native.Kernel, list[float]] = {kernel: [] for kernel in rivals}
    for _ in range(ROUNDS):
        for kernel in rivals:
            speeds[kernel].append(speed(kernel))
    # Compare within a round: a longer disturbance slows both kernels equally.
    gains = {
        kernel: statistics.median(own / base for own, base in zip(samples, speeds[static], strict=True))
        for kernel, samples in speeds.items()
    }
    best = max(gains, key=gains.__getitem__)
    return best if gains[best] > MARGIN else static


def speed(kernel: native.Kernel) -> float:
    """Measure for SAMPLE_S seconds. Return the hash rate of one thread, in nonces a second."""
    task = native.prepare(Job("autotune", kernel.pow, bytes(range(32)), 0, (NonceRange(0, MAX),)))
    control = native.NativeControl()
    began = time.perf_counter()
    tested, count = 0, 512
    while (elapsed := time.perf_counter() - began) < SAMPLE_S:
        tested += native.search(kernel, task, FIRST_NONCE + tested, count, control).tested
        count *= 2
    return tested / elapsed


def _load(path: Path, identity: str, usable: dict[Pow, list[native.Kernel]]) -> dict[Pow, native.Kernel] | None:
    """Return the saved kernels, or None if the file is missing, damaged, or from another machine."""
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
