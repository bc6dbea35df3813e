"""``quantus-miner bench``: the hash rate of engines, with nothing between kernel and clock."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from quantus_miner import units
from quantus_miner.backends import table
from quantus_miner.backends.base import Control
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.registry import create_engines
from quantus_miner.errors import DevicePausedError, EngineUnavailableError, MinerError
from quantus_miner.gpu import tuning
from quantus_miner.model import Job, Pow
from quantus_miner.pow.order import fastest_order, positions_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantus_miner.backends.base import Engine
    from quantus_miner.settings import Settings

PROGRESS_S: Final = 0.1
SLICE: Final = 2**63
MARGIN: Final = 1.005
"""A smaller gain is noise."""
PAUSE_S: Final = 1.0
"""Seconds between two tries of a device that is too hot."""


class BenchResult(msgspec.Struct, frozen=True):
    """One measurement. ``hashes``: nonces of all workers; ``hash_rate``: ``hashes / seconds``.

    ``seconds``: the time that they worked. ``paused``: seconds that the device was too hot for its limit.
    """

    engine: str
    kernel: str
    pow: str
    workers: int
    hashes: int
    seconds: float
    hash_rate: float
    paused: float


class BenchReport(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    results: list[BenchResult]


class Watcher(Protocol):
    """What is told of a benchmark while it runs."""

    def unavailable(self, reason: EngineUnavailableError) -> None:
        """Hear that an engine is left out."""

    def tried(self, blocks: int, result: BenchResult) -> None:
        """Hear the result of one try of ``tune``."""

    def progress(self, engine: str, elapsed_s: float, hash_rate: float) -> None:
        """Hear the hash rate so far, about ten times a second."""


def run(
    settings: Settings, pow_: Pow, workers: int, seconds: float, watcher: Watcher, *, tuned: bool
) -> Iterator[BenchResult]:
    """Measure the engines of ``settings`` one after the other, each with all ``workers``, for ``seconds``.

    ``tuned``: first find the launch size that suits each GPU best, and save it. Engines that are not available are left
    out. Raises MinerError if none is left or one cannot run ``pow_``.
    """
    for name in settings.engine:
        if pow_ not in table.find(name).pows:
            raise MinerError(f"--pow: engine {name} has no kernel for {pow_}")
    for engine in _create(settings, workers, watcher):
        if (fault := engine.status().fault) is not None:
            raise MinerError(f"engine {engine.name} cannot run {engine.kernel(pow_)}: {fault}")
        if tuned and isinstance(engine, GpuEngine):
            blocks = tune(engine, seconds, watcher.tried)
            try:
                tuning.save(settings.state_dir, engine.name, engine.device, blocks)
            except OSError as error:
                raise MinerError(f"--tune: cannot keep it in {settings.state_dir}: {error.strerror}") from None
        yield measure(engine, pow_, seconds, partial(watcher.progress, engine.name))


def _create(settings: Settings, workers: int, watcher: Watcher) -> list[Engine]:
    """Return the engines that are available. Raises EngineUnavailableError if there is none."""
    # One at a time: each engine gets all the workers, and none disturbs another's measurement.
    engines: list[Engine] = []
    unavailable = []
    for name in settings.engine:
        try:
            engines += create_engines(replace(settings, engine=(name,)), workers)
        except EngineUnavailableError as error:
            unavailable.append(error)
    if not engines:
        raise unavailable[0]
    for reason in unavailable:
        watcher.unavailable(reason)
    return engines


def measure(engine: Engine, pow_: Pow, seconds: float, progress: Callable[[float, float], None]) -> BenchResult:
    """Run all workers of ``engine`` for ``seconds``, on a random header and a target that nothing meets.

    ``progress(elapsed, hash_rate)`` is called about ten times a second. Raises DeviceLostError, and DevicePausedError
    if the device was too hot all the time.
    """
    header = secrets.token_bytes(32)
    controls = [Control() for _ in range(engine.workers)]
    ready = threading.Barrier(engine.workers + 1)
    failures: list[Exception] = []
    worked, paused = [0.0] * engine.workers, [0.0] * engine.workers

    def work(index: int) -> None:
        control, order = controls[index], fastest_order(pow_)
        # Each worker keeps to nonces that begin with its own byte.
        ranges = positions_from(order, bytes([index % 256]), secrets.randbits(200))
        job = Job("bench", pow_, header, 0, ranges, order)
        ready.wait()
        while True:
            began, hashes = time.perf_counter(), control.hashes
            try:
                engine.search(job, ranges[0].start + hashes, SLICE, control)
            except DevicePausedError:
                if control.hashes > hashes:
                    worked[index] += time.perf_counter() - began
                    began = time.perf_counter()
                control.sleep(PAUSE_S)
                paused[index] += time.perf_counter() - began
            except Exception as error:
                failures.append(error)
                return
            else:
                worked[index] += time.perf_counter() - began
            if control.stopped:
                return

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(engine.workers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds and not failures:
        progress(elapsed, sum(control.hashes for control in controls) / elapsed)
        time.sleep(min(PROGRESS_S, seconds - elapsed))
    for control in controls:
        control.stop()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    kernel = engine.kernel(pow_) or ""
    hashes, took = sum(control.hashes for control in controls), max(worked)
    if not hashes and max(paused):
        raise DevicePausedError(
            f"engine {engine.name} did not run {kernel}: it was too hot for --gpu-temp-limit all the time;"
            " let it cool down, raise the limit or measure for longer"
        )
    return BenchResult(engine.name, kernel, pow_, engine.workers, hashes, took, hashes / took, max(paused))


def tune(engine: GpuEngine, seconds: float, progress: Callable[[int, BenchResult], None]) -> int:
    """Set the number of blocks a multiprocessor gets to the fastest of the candidates, and return it.

    Each is measured for ``seconds``; ``progress(blocks, result)`` is called after each. Of two numbers the smaller one
    stays unless the larger one is faster by MARGIN.
    """
    best, best_rate = engine.blocks, 0.0
    for blocks in tuning.CANDIDATES:
        engine.blocks = blocks
        result = measure(engine, Pow.POSEIDON2, seconds, lambda *_: None)
        progress(blocks, result)
        if result.hash_rate > MARGIN * best_rate:
            best, best_rate = blocks, result.hash_rate
    engine.blocks = best
    return best


def tried(blocks: int, result: BenchResult) -> str:
    """Return one try of ``tune`` as a line for people."""
    return f"  {blocks:4} blocks a multiprocessor {units.hash_rate(result.hash_rate):>12}"


def row(result: BenchResult, results: list[BenchResult]) -> str:
    """Return ``result`` as a line for people, with its ratio to the baseline engine if that is among ``results``."""
    baseline = next((other.hash_rate for other in results if other.engine == table.BASELINE), None)
    hot = f" of work, {result.paused:.1f} s too hot" if result.paused else ""
    ratio = f"  {result.hash_rate / baseline:6.2f} x {table.BASELINE}" if baseline else ""
    return (
        f"  {result.engine:22} {units.hash_rate(result.hash_rate):>12}{ratio}"
        f"  ({result.pow}, kernel {result.kernel}, {result.workers} workers, {result.seconds:.1f} s{hot})"
    )
