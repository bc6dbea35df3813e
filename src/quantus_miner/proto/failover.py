"""Which of several live sources is mined, and which are connected at all. No I/O; ``now`` in seconds.

Sources are numbered in the user's order, 0 the first choice. Those up to a level are connected; a failing level brings
in the next. What is mined changes at once when it is lost, and goes back to a better source that has long been well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FAILED_CONNECTS: Final = 3
"""Connections in a row without a job after which a source is failing."""
FIRST_JOB_S: Final = 3.0
"""Seconds without any job after which a source is failing: nothing stays idle while another source may be up."""
STALLED_S: Final = 60.0
"""Seconds after its last job for which a source is taken to be alive, where there is another."""
WELL_S: Final = 60.0
"""Seconds of health after which a better source is returned to."""


@dataclass(slots=True)
class _Source:
    job_at: float | None = None  # of the last job on the present connection
    well_since: float | None = None  # since when jobs have come without a break
    idle_since: float = 0.0
    failures: int = 0
    refused: bool = False

    def fresh(self, now: float) -> bool:
        return self.job_at is not None and now - self.job_at < STALLED_S

    def failing(self, now: float) -> bool:
        if self.fresh(now):
            return False
        tired = self.failures >= FAILED_CONNECTS or now - self.idle_since >= FIRST_JOB_S
        return self.refused or tired or self.job_at is not None


class Failover:
    """The choice among ``count`` (>= 1) sources. Call ``update`` after events and about once a second."""

    def __init__(self, count: int, now: float) -> None:
        self._sources = [_Source(idle_since=now) for _ in range(count)]
        self._level = 0
        self.current: int | None = None
        """The source whose jobs are mined; None where none has a job."""

    @property
    def wanted(self) -> tuple[int, ...]:
        """The sources that are to be connected, or tried."""
        return tuple(i for i in range(self._level + 1) if not self._sources[i].refused)

    @property
    def hopeless(self) -> bool:
        """Whether every source has refused us for good."""
        return all(source.refused for source in self._sources)

    def job(self, index: int, now: float) -> None:
        """A source has sent a job."""
        source = self._sources[index]
        if not source.fresh(now):
            source.well_since = now
        source.job_at, source.failures = now, 0
        self.update(now)

    def no_job(self, index: int, now: float) -> None:
        """A source has withdrawn its job, or its connection has ended."""
        source = self._sources[index]
        if source.job_at is not None:
            source.idle_since = now
        source.job_at = source.well_since = None
        self.update(now)

    def lost(self, index: int, now: float) -> None:
        """A connection has ended, or could not be made."""
        source = self._sources[index]
        if source.job_at is None:
            source.failures += 1
        self.no_job(index, now)

    def refused(self, index: int, now: float) -> None:
        """A source will never take us; it is not tried again."""
        self._sources[index].refused = True
        self.lost(index, now)

    def update(self, now: float) -> None:
        """Chooses anew."""
        self.current = self._choose(now)
        if self.current is not None and self._well(self.current, now):
            self._level = self.current
        while self._level + 1 < len(self._sources) and all(s.failing(now) for s in self._sources[: self._level + 1]):
            self._level += 1
            before = self._sources[self._level]
            self._sources[self._level] = _Source(idle_since=now, refused=before.refused)

    def _choose(self, now: float) -> int | None:
        having = [i for i in range(self._level + 1) if self._sources[i].job_at is not None]
        usable = [i for i in having if self._sources[i].fresh(now)] or having
        if self.current not in usable:
            return min(usable, default=None)
        return min((i for i in usable if i < self.current and self._well(i, now)), default=self.current)

    def _well(self, index: int, now: float) -> bool:
        source = self._sources[index]
        return source.fresh(now) and source.well_since is not None and now - source.well_since >= WELL_S
