"""Engines and callbacks for tests of the miner."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantus_miner.backends.base import EngineStatus
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Job, NonceRange, Order, Pow, Solution
from quantus_miner.native import Outcome
from quantus_miner.pow.order import positions_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.backends.base import Control, Engine
    from quantus_miner.mining.search import Search


HEADER = bytes(range(32))
WAIT_S = 30.0


def job(ranges: Sequence[NonceRange], *, target: int = 0, job_id: str = "a", pow_: Pow = Pow.POSEIDON2) -> Job:
    return Job(job_id, pow_, HEADER, target, tuple(ranges))


class RecordingEngine:
    """Says what it was asked to search; ends some slices early at random, as a stopped engine does."""

    name = "recording"

    def __init__(self, workers: int, seed: int = 0) -> None:
        self.workers = workers
        self.tested: list[tuple[int, int]] = []
        self.closed = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def status(self) -> EngineStatus:
        return EngineStatus()

    def kernel(self, pow: Pow) -> str | None:
        return "recording" if pow is Pow.POSEIDON2 else None

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        with self._lock:
            tested = self._random.choice((count, count, count, (count + 1) // 2, 0))
            if tested:
                self.tested.append((start, tested))
            return Outcome(tested, None)

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        return None

    def close(self) -> None:
        self.closed += 1


class BlockingEngine(RecordingEngine):
    """Every search lasts until it is stopped, and then says that it tested ``tested`` nonces."""

    tested_before_stop = 0

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.begun = threading.Semaphore(0)
        self.jobs: list[str] = []

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        self.jobs.append(job.id)
        self.begun.release()
        assert control.sleep(WAIT_S)
        return Outcome(min(self.tested_before_stop, count), None)


class LyingEngine(RecordingEngine):
    """Claims a hit at every first nonce of a slice."""

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        return Outcome(1, start)


class BrokenEngine(RecordingEngine):
    """Raises, as an engine does that has lost its device."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.called = threading.Event()

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        self.called.set()
        raise RuntimeError("device lost")


class Ends:
    """Collects the ends of searches and lets a test wait for them."""

    def __init__(self) -> None:
        self._done = threading.Semaphore(0)
        self.searches: list[Search] = []

    def __call__(self, search: Search) -> None:
        self.searches.append(search)
        self._done.release()

    def wait(self) -> Search:
        assert self._done.acquire(timeout=WAIT_S)
        return self.searches[-1]


class Solutions:
    """Collects what a search that goes on finds."""

    def __init__(self) -> None:
        self._found = threading.Semaphore(0)
        self.of: list[tuple[Search, Solution]] = []

    def __call__(self, search: Search, solution: Solution) -> None:
        self.of.append((search, solution))
        self._found.release()

    def wait(self, count: int) -> list[tuple[Search, Solution]]:
        for _ in range(count):
            assert self._found.acquire(timeout=WAIT_S)
        return list(self.of)


@contextmanager
def running(
    *engines: Engine, chunk_s: float = 0.05, on_job_solved: Sequence[Callable[[], None]] = ()
) -> Iterator[Miner]:
    miner = Miner(engines, chunk_s=chunk_s, on_job_solved=on_job_solved)
    miner.start()
    try:
        yield miner
    finally:
        assert miner.close(WAIT_S)


def live_job(job_id: str = "live", target: int = 0) -> Job:
    return Job(job_id, Pow.POSEIDON2, HEADER, target, positions_from(Order.WALK, b"\1\2\3\4", 5), Order.WALK)
