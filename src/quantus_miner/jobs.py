"""The jobs that come over HTTP: an entry for each, with its state, its search and its stored form."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import TransitionError
from quantus_miner.mining.stats import JobStats
from quantus_miner.model import Progress, Status, achieved_difficulty
from quantus_miner.store.rows import Find, StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from quantus_miner.mining.miner import Miner
    from quantus_miner.mining.search import Search
    from quantus_miner.model import Job
    from quantus_miner.store.writer import Store

log = logging.getLogger("miner.http")

MAX_ACTIVE: Final = 1_000
"""Running jobs that are held at once."""
MAX_JOBS: Final = 4_096
"""Jobs that are held at once, ended ones included."""
MAX_SHOWN: Final = 256
"""Jobs that have statistics, at most. Each takes a dozen series of the exporter."""
KEEP_S: Final = 300.0
"""Seconds that an ended job stays readable."""
KEEP_UNSERVED_S: Final = 3600.0
"""Seconds that a completed job stays readable if nobody has read it."""


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
"""The state that follows a state and an event. Nothing can happen to an ended job."""

SEARCH_ENDS: Final = {Status.COMPLETED: Event.SOLVED, Status.FAILED: Event.EXHAUSTED}
"""The event that follows from the status of a search that has ended by itself."""


class DuplicateJobError(Exception):
    """Raised when a job with this id is already known."""


class TooManyJobsError(Exception):
    """Raised when there is no room for another job."""


@dataclass(slots=True)
class Entry:
    """One job.

    ``stored``: its status and its result or progress, as last passed to the store. ``search``: None if the job ended
    in an earlier run. ``polled``: when its client last asked for it, in seconds. ``commit``: done once its status is on
    the disk or the disk has failed; None if the job was loaded from the disk.
    """

    stored: StoredJob
    search: Search | None
    polled: float
    commit: Future[None] | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.stored.job.id

    @property
    def status(self) -> Status:
        """The job's state. It may lag a moment behind the state of its search."""
        return self.stored.status

    @property
    def unserved(self) -> bool:
        """True if there is a solution that no client has read."""
        return self.status is Status.COMPLETED and not self.stored.served

    def readable_until(self) -> float:
        """Return the time, in seconds, after which the job may be forgotten."""
        if self.stored.ended is None:
            return float("inf")
        return self.stored.ended + (KEEP_UNSERVED_S if self.unserved else KEEP_S)


def _fields(job: Job) -> dict[str, object]:
    """Return the log fields of a job."""
    return {"job": job.id, "source": "http", "difficulty": achieved_difficulty(job.target)}


def next_status(status: Status, event: Event) -> Status:
    """Return the next state. Raises TransitionError if the event is impossible in this state."""
    if (status, event) not in TRANSITIONS:
        raise TransitionError("a job", status, event.value)
    return TRANSITIONS[status, event]


class Jobs:
    """All jobs by id, in the order in which they came, mirrored in ``store``.

    One thread owns it; others may use only ``stats`` and ``ended``. ``call_soon`` is called from any thread and makes
    the owner call a function. ``expiry_s``: seconds without a poll after which a running job is cancelled.
    ``priority``: that of its jobs among those of other sources. ``clock``: that of miner and store, in seconds.
    """

    def __init__(
        self,
        miner: Miner,
        store: Store,
        *,
        expiry_s: float,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[Search], None], Search], object],
        priority: int = 0,
    ) -> None:
        self._miner = miner
        self._store = store
        self.expiry_s = expiry_s
        self._clock = clock
        self._call_soon = call_soon
        self._priority = priority
        self._entries: dict[str, Entry] = {}
        self._running: dict[str, Entry] = {}
        self.ended: Counter[tuple[str, str]] = Counter()
        """Jobs that ended since the start, by engine and status: completed, failed, cancelled, expired."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All jobs."""
        return tuple(self._entries.values())

    def prioritize(self, priority: int) -> None:
        """Give all jobs another priority among those of other sources, from their next slices on."""
        self._priority = priority
        for entry in self._running.values():
            if entry.search is not None:
                entry.search.priority = priority

    def restore(self, jobs: Iterable[StoredJob]) -> None:
        """Restore the jobs of an earlier run. Called before any others come."""
        now = self._clock()
        for stored in jobs:
            # Leave out what does not fit: a version with larger limits may have written it.
            with contextlib.suppress(DuplicateJobError, TooManyJobsError):
                self._make_room(stored.job.id)
                if stored.ended is None:
                    # Its client has the full expiry time to come back.
                    self._add(Entry(stored, self._search(stored.job, stored.progress), polled=now))
                else:
                    self._add(Entry(replace(stored, ended=min(now, stored.ended)), None, polled=now))
        self._forget(now)
        if self._entries:
            log.info("Jobs restored from the last run: %d, still running: %d", len(self._entries), len(self._running))

    def submit(self, job: Job) -> Entry:
        """Start a job. Raises DuplicateJobError or TooManyJobsError.

        If there are MAX_JOBS already, the oldest ended one is forgotten, but never one whose solution was not read.
        """
        self._make_room(job.id)
        stored = StoredJob(job, Progress(job.ranges), Status.RUNNING)
        # This thread handles the end of the search later, when the entry has been added.
        entry = Entry(stored, self._search(job), polled=self._clock(), commit=self._store.put(stored))
        self._add(entry)
        log.debug("Job %s accepted: %s, header %s", job.id, job.pow, job.header.hex(), extra=_fields(job))
        return entry

    def get(self, job_id: str) -> Entry | None:
        """Return the job in its present state, or None if it is not known."""
        entry = self._entries.get(job_id)
        if entry is not None:
            self._update(entry)
        return entry

    def poll(self, entry: Entry) -> None:
        """Record that the client is being told the job's present state."""
        entry.polled = self._clock()
        if entry.unserved:
            entry.stored = replace(entry.stored, served=True)
            self._store.put(entry.stored)

    def cancel(self, entry: Entry) -> None:
        """Cancel a job if it is still running."""
        if self._stop(entry, Event.CANCEL):
            log.info("Job %s cancelled", entry.id, extra=_fields(entry.stored.job))

    def figures(self, entry: Entry) -> tuple[int, float]:
        """Return how many nonces were tested for a job and for how many seconds, until now or until its end."""
        if entry.search is None or entry.status is not Status.RUNNING:
            return entry.stored.progress.hashes, entry.stored.progress.elapsed
        return self._miner.hashes(entry.search), self._miner.elapsed(entry.search)

    def tick(self) -> None:
        """Cancel jobs that are not polled, forget old ones, and save the others. Called once a second."""
        now = self._clock()
        for entry in [entry for entry in self._running.values() if entry.polled <= now - self.expiry_s]:
            if self._stop(entry, Event.EXPIRE):
                text = "Job %s was not polled for %g s: cancelled as expired"
                log.warning(text, entry.id, self.expiry_s, extra=_fields(entry.stored.job))
        self._forget(now)
        self.save()

    def save(self) -> None:
        """Pass to the store the progress of running jobs, and the results of those that have ended since."""
        for entry in tuple(self._running.values()):
            self._update(entry)
            search = entry.search
            if search is None or search.tested == entry.stored.progress.hashes:
                continue
            progress = self._miner.progress(search)
            # If it has ended meanwhile, its progress excludes the nonce of its solution and must not be stored.
            if search.status is Status.RUNNING:
                entry.stored = replace(entry.stored, progress=progress)
                self._store.put(entry.stored)

    def stats(self) -> tuple[JobStats, ...]:
        """Return a snapshot of MAX_SHOWN jobs: the newest ones, but running ones before ended ones."""
        running = tuple(self._running.values())[-MAX_SHOWN:]
        ended = (entry for entry in reversed(self.entries) if entry.status is not Status.RUNNING)
        entries = (*reversed(tuple(islice(ended, MAX_SHOWN - len(running)))), *running)
        engine = self._miner.engine_names
        return tuple(
            JobStats(entry.id, engine, entry.status, self._miner.thread_stats(entry.search) if entry.search else ())
            for entry in entries
        )

    # --- the entries ---

    def _make_room(self, job_id: str) -> None:
        """Make room for one more job. Raises DuplicateJobError or TooManyJobsError."""
        if job_id in self._entries:
            raise DuplicateJobError
        if len(self._running) >= MAX_ACTIVE:
            raise TooManyJobsError
        if len(self._entries) >= MAX_JOBS:
            entries = self._entries.values()
            oldest = next((entry for entry in entries if entry.stored.ended is not None and not entry.unserved), None)
            if oldest is None:
                raise TooManyJobsError
            del self._entries[oldest.id]

    def _add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        if entry.status is Status.RUNNING:
            self._running[entry.id] = entry

    def _forget(self, now: float) -> None:
        for entry in [entry for entry in self._entries.values() if entry.readable_until() <= now]:
            del self._entries[entry.id]
        self._store.retain(self._entries.keys())

    # --- their searches ---

    def _search(self, job: Job, progress: Progress | None = None) -> Search:
        return self._miner.submit(job, self._post_end, priority=self._priority, progress=progress)

    def _post_end(self, search: Search) -> None:
        """Let the thread that owns the jobs handle the end of a search. Called from a worker's thread."""
        # Its loop is already closed if a worker is the last to end with the service.
        with contextlib.suppress(RuntimeError):
            self._call_soon(self._handle_end, search)

    def _handle_end(self, search: Search) -> None:
        entry = self._entries.get(search.job.id)
        # If this job was forgotten meanwhile, a later one may have its id.
        if entry is not None and entry.search is search:
            self._update(entry)

    def _update(self, entry: Entry) -> None:
        """Handle the end of a search that has ended by itself, if it has."""
        search = entry.search
        if entry.status is not Status.RUNNING or search is None or (event := SEARCH_ENDS.get(search.status)) is None:
            return
        self._end(entry, search, event)
        found = "range exhausted" if search.solution is None else f"nonce {search.solution.nonce:x}"
        text, figures = "Job %s %s: %s, %d hashes in %.3f s", self.figures(entry)
        log.info(text, entry.id, entry.status, found, *figures, extra=_fields(search.job))

    def _stop(self, entry: Entry, event: Event) -> bool:
        """End a running job. Return False if it had already ended by itself."""
        if entry.search is not None:
            self._miner.cancel(entry.search)
        # If it was solved or exhausted just before, keep that result.
        self._update(entry)
        if entry.status is not Status.RUNNING or entry.search is None:
            return False
        self._end(entry, entry.search, event)
        return True

    def _end(self, entry: Entry, search: Search, event: Event) -> None:
        status, job, solution = next_status(entry.status, event), search.job, search.solution
        progress = Progress((), self._miner.hashes(search), self._miner.elapsed(search))
        find = None if solution is None else Find.now("http", job, solution)
        entry.stored = StoredJob(job, progress, status, solution, search.engine, self._clock())
        # Use one transaction, so that every stored solution has its line of history.
        entry.commit = self._store.put(entry.stored, find)
        del self._running[entry.id]
        label = "expired" if event is Event.EXPIRE else str(status)
        self.ended[search.engine or self._miner.engine_names, label] += 1
