"""The state of one worker, a thread of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.backends.base import Control, Engine
from quantus_miner.backoff import Backoff
from quantus_miner.mining.pauses import CPU
from quantus_miner.mining.stats import GpuStats, WorkerStats

if TYPE_CHECKING:
    from quantus_miner.mining.search import Search
    from quantus_miner.mining.thread import WorkerThread
    from quantus_miner.model import NonceRange, Pow

FIRST_SPEED: Final = 1_000.0
"""Nonces a second assumed before a worker is measured. Its first slice then takes a few milliseconds."""
GROWTH: Final = 8.0
"""Largest factor by which the assumed speed grows from one slice to the next."""
SMALLEST_SLICE_S: Final = 0.001
"""Seconds of the smallest slice. Slices shrink toward the end of a range, so that all workers end together."""
STALL_S: Final = 10.0
"""Seconds without progress after which a worker that has work counts as stuck, and not just as waiting for a CPU."""


class Worker:
    """One worker. The miner's lock guards all but ``control``; ``lost`` and ``backoff`` belong to the thread."""

    def __init__(self, index: int, engine: Engine, now: float) -> None:
        self.index = index
        self.engine = engine
        status = engine.status()
        self.device = status.device
        self.control = Control()
        self.thread: WorkerThread | None = None
        self.ended = False  # its thread has ended and no longer calls the engine
        self.leaving = False  # takes no more slices
        self.paused = False  # takes no slices for now
        self.affinity: frozenset[int] | None = None  # the CPUs to use from its next slice on; None: any
        self.search: Search | None = None
        self.slice: NonceRange | None = None  # under way
        self.slice_started = 0.0
        self._speeds: dict[Pow, float] = {}  # nonces a second
        self.interrupted = False
        self.done = 0
        self.alive = True
        self.lost = status.fault is not None  # its device cannot be used now
        self.backoff = Backoff()
        self._mark: tuple[float, int] | None = None
        self._moved = now

    @property
    def key(self) -> tuple[str, int]:
        """What it is in the statistics of jobs. No two that search have the same one."""
        return self.engine.name, self.index

    @property
    def device_id(self) -> str:
        """Id of the device that it drives, CPU for a CPU thread."""
        return CPU if self.device is None else self.device.id

    @property
    def hashes(self) -> int:
        """Nonces tested in all."""
        return self.done + (self.control.hashes if self.search else 0)

    def begin(self, search: Search, piece: NonceRange, now: float) -> None:
        """Begin a slice."""
        self.control.reset()
        self.search, self.slice, self.slice_started, self.interrupted = search, piece, now, False

    def interrupt(self) -> None:
        """Stop the slice under way. The untested rest comes next."""
        self.interrupted = True
        self.control.stop()

    def slice_size(self, pow_: Pow, chunk_s: float, even_share: int) -> int:
        """Return how many nonces to give it: enough for ``chunk_s`` seconds, but about ``even_share`` at most."""
        speed = self._speeds.get(pow_, FIRST_SPEED)
        return max(1, min(int(speed * chunk_s), max(even_share, int(speed * SMALLEST_SLICE_S))))

    def measure(self, pow_: Pow, tested: int, seconds: float) -> None:
        """Update its speed from a slice."""
        # After a hit, a GPU has already done part of the next slice, which makes it look faster than it is.
        fastest = GROWTH * self._speeds.get(pow_, FIRST_SPEED)
        self._speeds[pow_] = min(tested / max(seconds, 1e-6), fastest)

    def stats(self, now: float) -> WorkerStats:
        """Return its statistics."""
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
            paused=self.paused,
            gpu=gpu,
        )

    def look(self, now: float) -> None:
        """Remember when it last advanced: began a slice, tested a nonce, had no work, or slept as its engine wants."""
        mark = None if self.search is None or self.control.sleeping else (self.slice_started, self.control.hashes)
        if mark is None or mark != self._mark:
            self._mark, self._moved = mark, now

    def stalled(self, now: float) -> bool:
        """Return True if it has not advanced for STALL_S, as far as ``look`` has seen."""
        return now - self._moved >= STALL_S

    def can(self, pow_: Pow) -> bool:
        """Return True if it can search for ``pow_``, now or once its device is back."""
        return self.alive and self.engine.kernel(pow_) is not None

    @property
    def works(self) -> bool:
        """True if it can take work now, unless it is paused."""
        return self.alive and not self.lost and not self.leaving
