"""A thread of an engine, and what it is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.backends.base import Control, Engine
from quantus_miner.backoff import Backoff
from quantus_miner.mining.stats import RateMeter

if TYPE_CHECKING:
    from quantus_miner.mining.search import Search
    from quantus_miner.model import NonceRange, Pow

STALL_S: Final = 10.0
"""Seconds without a nonce tested after which a worker that has work is stuck, and not just waiting for its CPU."""


class Worker:
    """All but ``control`` is guarded by the miner's lock."""

    def __init__(self, index: int, engine: Engine, now: float) -> None:
        self.index = index
        self.engine = engine
        status = engine.status()
        self.device = status.device
        self.control = Control()
        self.search: Search | None = None
        self.slice: NonceRange | None = None  # under way
        self.slice_started = 0.0
        self.speeds: dict[Pow, float] = {}
        self.interrupted = False
        self.done = 0
        self.meter = RateMeter(now)
        self.alive = True
        self.lost = status.fault is not None  # its device, for now
        self.backoff = Backoff()
        self._mark: tuple[float, int] | None = None
        self._moved = now

    @property
    def hashes(self) -> int:
        """Nonces tested, in all."""
        return self.done + (self.control.hashes if self.search else 0)

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
        return self.alive and not self.lost
