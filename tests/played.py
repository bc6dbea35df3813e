"""Failover that a test plays through."""

from __future__ import annotations

from quantus_miner.sources.failover import Failing, Failover


class Played:
    """A ``Failover`` that is looked at every second, as the live source does."""

    def __init__(self, count: int) -> None:
        self.failover = Failover(range(count), 0.0)
        self.now = 0.0
        self.mined: list[int | None] = [None]

    def until(self, then: float, *alive: int) -> None:
        """Time passes; the sources in ``alive`` give a job every second."""
        while self.now < then:
            self.now = min(self.now + 1.0, then)
            for index in alive:
                self.failover.job(index, self.now)
            self.failover.update(self.now)
            self._note()

    def job(self, index: int) -> None:
        self.failover.job(index, self.now)
        self._note()

    def lost(self, index: int, unanswered: int = 0) -> float:
        wait_s = self.failover.lost(index, self.now, 0.0, unanswered=unanswered)
        self._note()
        return wait_s

    def login_refused(self, index: int) -> float:
        wait_s = self.failover.login_refused(index, self.now, 0.0)
        self._note()
        return wait_s

    def set_sources(self, *keys: int) -> None:
        self.failover.set_sources(keys, self.now)
        self._note()

    def failing(self, index: int) -> Failing | None:
        return self.failover.failing(index, self.now)

    @property
    def current(self) -> int | None:
        return self.failover.current

    @property
    def wanted(self) -> tuple[int, ...]:
        return tuple(self.failover.wanted)

    def _note(self) -> None:
        if self.current != self.mined[-1]:
            self.mined.append(self.current)
