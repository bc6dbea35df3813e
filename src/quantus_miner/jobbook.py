"""The life of a job that came over HTTP: accepted, polled, ended, served, forgotten. No I/O; ``now`` in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from quantus_miner.model import Status

MAX_ACTIVE: Final = 1_000
"""Running jobs that are held at once."""
MAX_JOBS: Final = 4_096
"""Jobs that are held at once, ended ones included."""
KEEP_S: Final = 300.0
"""Seconds that an ended job stays readable."""
KEEP_UNSERVED_S: Final = 3600.0
"""Seconds that a completed job stays readable which nobody has read."""

Work = TypeVar("Work")


class Event(Enum):
    """What can happen to a job."""

    SOLVED = "solved"
    EXHAUSTED = "exhausted"
    CANCEL = "cancel"
    EXPIRE = "expire"


TRANSITIONS: Final = {
    (Status.RUNNING, Event.SOLVED): Status.COMPLETED,
    (Status.RUNNING, Event.EXHAUSTED): Status.FAILED,
    (Status.RUNNING, Event.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Event.EXPIRE): Status.CANCELLED,
}
"""Where an event leads. Ended jobs have no events: whatever is not listed is our error and raises KeyError."""


class DuplicateJobError(Exception):
    """A job with this id is known already."""


class BookFullError(Exception):
    """No room for one more job."""


@dataclass(slots=True)
class Record(Generic[Work]):
    """One job of the book. ``work``: what its owner attached. Times in seconds."""

    job_id: str
    work: Work
    polled: float
    status: Status = Status.RUNNING
    ended: float | None = None
    served: bool = False

    def readable_until(self) -> float:
        """When the book may forget this job."""
        if self.ended is None:
            return float("inf")
        unserved = self.status is Status.COMPLETED and not self.served
        return self.ended + (KEEP_UNSERVED_S if unserved else KEEP_S)


class JobBook(Generic[Work]):
    """All jobs by id, in the order in which they came. Not thread-safe: one thread owns it."""

    def __init__(self) -> None:
        self._records: dict[str, Record[Work]] = {}
        self._active: dict[str, Record[Work]] = {}

    @property
    def records(self) -> tuple[Record[Work], ...]:
        """All jobs."""
        return tuple(self._records.values())

    @property
    def active(self) -> tuple[Record[Work], ...]:
        """The running jobs."""
        return tuple(self._active.values())

    def check_room(self, job_id: str) -> None:
        """Raises DuplicateJobError or BookFullError if ``add`` would."""
        if job_id in self._records:
            raise DuplicateJobError
        if len(self._active) >= MAX_ACTIVE or (len(self._records) >= MAX_JOBS and self._dispensable() is None):
            raise BookFullError

    def add(self, job_id: str, work: Work, now: float) -> Record[Work]:
        """A new running job. In a full book the oldest ended job makes room, never a solution nobody has read."""
        self.check_room(job_id)
        if len(self._records) >= MAX_JOBS and (oldest := self._dispensable()) is not None:
            del self._records[oldest]
        record = Record(job_id, work, polled=now)
        self._records[job_id] = self._active[job_id] = record
        return record

    def restore(self, record: Record[Work]) -> None:
        """A job of an earlier run. Raises what ``add`` does."""
        self.check_room(record.job_id)
        self._records[record.job_id] = record
        if record.status is Status.RUNNING:
            self._active[record.job_id] = record

    def get(self, job_id: str) -> Record[Work] | None:
        """The job, if it is known."""
        return self._records.get(job_id)

    def poll(self, record: Record[Work], now: float) -> None:
        """The job's client asks for it, and is about to be served what the job is now."""
        record.polled = now
        record.served = record.served or record.status is Status.COMPLETED

    def happen(self, record: Record[Work], event: Event, now: float) -> None:
        """Ends a running job."""
        record.status, record.ended = TRANSITIONS[record.status, event], now
        del self._active[record.job_id]

    def unpolled_since(self, then: float) -> tuple[Record[Work], ...]:
        """Running jobs that nobody has asked for since ``then``."""
        return tuple(record for record in self._active.values() if record.polled <= then)

    def forget(self, now: float) -> None:
        """Drops what nobody can want any more."""
        for job_id in [record.job_id for record in self._records.values() if record.readable_until() <= now]:
            del self._records[job_id]

    def _dispensable(self) -> str | None:
        """The ended job that became known first and whose solution, if it has one, was read."""
        return next(
            (
                record.job_id
                for record in self._records.values()
                if record.ended is not None and (record.served or record.status is not Status.COMPLETED)
            ),
            None,
        )
