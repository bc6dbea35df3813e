"""A thread of an engine, and what it is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.backends.base import Control, Engine
from quantus_miner.backoff import Backoff
from quantus_miner.mining.stats import GpuStats, WorkerStats

if TYPE_CHECKING:
    from quantus_miner.mining.search import Search
    from quantus_miner.mining.thread import WorkerThread
    from quantus_miner.model import NonceRange, Pow

FIRST_SPEED: Final = 1_000.0
"""Nonces a second assumed before a worker is measured: a first slice of a few milliseconds."""
GROWTH: Final = 8.0
"""Largest factor by which the assumed speed grows from one slice to the next."""
SMALLEST_SLICE_S: Final = 0.001
"""Slices shrink toward the end of a range, so that all workers end together, but not below this."""
STALL_S: Final = 10.0
"""Seconds without a nonce tested after which a worker that has work is stuck, and not just waiting for its CPU."""


class Worker:
    """All but ``control``, and ``lost`` and ``backoff``, which are its thread's, is guarded by the miner's lock."""

    def __init__(self, index: int, engine: Engine, now: float) -> None:
        self.index = index
        self.engine = engine
        status = engine.status()
        self.device = status.device
        self.control = Control()
        self.thread: WorkerThread | None = None
        self.ended = False  # its thread, which calls the engine no more
        self.leaving = False  # takes no more slices
        self.affinity: frozenset[int] | None = None  # the CPUs that it keeps to from its next slice on; None: any
        self.search: Search | None = None
        self.slice: NonceRange | None = None  # under way
        self.slice_started = 0.0
        self._speeds: dict[Pow, float] = {}  # nonces a second
        self.interrupted = False
        self.done = 0
        self.alive = True
        self.lost = status.fault is not None  # its device, for now
        self.backoff = Backoff()
        self._mark: tuple[float, int] | None = None
        self._moved = now

    @property
    def key(self) -> tuple[str, int]:
        """What it is in the statistics of jobs. No two that search have the same one."""
        return self.engine.name, self.index

    @property
    def hashes(self) -> int:
        """Nonces tested, in all."""
        return self.done + (self.control.hashes if self.search else 0)

    def begin(self, search: Search, piece: NonceRange, now: float) -> None:
        """Take on a slice."""
        self.control.reset()
        self.search, self.slice, self.slice_started, self.interrupted = search, piece, now, False

    def interrupt(self) -> None:
        """End the slice under way; what is left of it comes next."""
        self.interrupted = True
        self.control.stop()

    def slice_size(self, pow_: Pow, chunk_s: float, even_share: int) -> int:
        """Return how many nonces to give it: ``chunk_s`` seconds of work, or fewer if ``even_share`` is less."""
        speed = self._speeds.get(pow_, FIRST_SPEED)
        return max(1, min(int(speed * chunk_s), max(even_share, int(speed * SMALLEST_SLICE_S))))

    def measure(self, pow_: Pow, tested: int, seconds: float) -> None:
        """Learn its speed from a slice."""
        # Behind a hit a GPU has some of the slice done already, which makes it look faster than it is.
        fastest = GROWTH * self._speeds.get(pow_, FIRST_SPEED)
        self._speeds[pow_] = min(tested / max(seconds, 1e-6), fastest)

    def stats(self, now: float) -> WorkerStats:
        """Return what it is and does."""
        gpu, device = None, self.device
        if device is not None:
            false_positives = self.engine.status().false_positives
            gpu = GpuStats(device.id, self.engine.name, device.name, device.pci, self.works, false_positives)
        return WorkerStats(
            self.index,
            self.engine.name,
            self.hashes,
            busy=self.search is not None,
            works=self.works,
            failed=not self.alive,
            stalled=self.stalled(now),
            gpu=gpu,
        )

    def look(self, now: float) -> None:
        """Remembers when it last moved: began a slice, tested a nonce, or had no work. Sleep is part of some work."""
        mark = None if self.search is None or self.control.sleeping else (self.slice_started, self.control.hashes)
        if mark is None or mark != self._mark:
            self._mark, self._moved = mark, now

    def stalled(self, now: float) -> bool:
        """Whether it has not moved for STALL_S, as ``look`` saw it."""
        return now - self._moved >= STALL_S

    def can(self, pow_: Pow) -> bool:
        """Whether it is one for ``pow_``, now or when its device is back."""
        return self.alive and self.engine.kernel(pow_) is not None

    @property
    def works(self) -> bool:
        """Whether it would take work now."""
        return self.alive and not self.lost and not self.leaving
