"""Keeps the job book of the HTTP source on the disk: tells the store what changed, brings the book back at a start."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from quantus_miner.jobbook import BookFullError, DuplicateJobError, JobBook, Record
from quantus_miner.mining.search import Search
from quantus_miner.model import Progress, Status
from quantus_miner.store.rows import Find, StoredJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from quantus_miner.mining.miner import Miner
    from quantus_miner.store.writer import Store

log = logging.getLogger("miner.http")

MAX_WAIT_S: Final = 2.0
"""Seconds that a reply waits for the disk at most: one that hangs is no better than a full one."""


class Bookkeeper:
    """Mirrors ``book`` in ``store``; owned by the thread that owns the book. ``clock``: that of both."""

    def __init__(self, store: Store, miner: Miner, book: JobBook[Search], clock: Callable[[], float]) -> None:
        self._store = store
        self._miner = miner
        self._book = book
        self._clock = clock
        self._commits: dict[str, Future[None]] = {}
        self._saved: WeakKeyDictionary[Search, int] = WeakKeyDictionary()  # nonces tested, as last written

    def restore(self, jobs: list[StoredJob], submit: Callable[[StoredJob], Search]) -> None:
        """Fills the empty book with the jobs of an earlier run; ``submit`` lets a running one go on."""
        now = self._clock()
        for stored in jobs:
            try:
                self._book.check_room(stored.job.id)
            except (BookFullError, DuplicateJobError):
                continue
            if stored.ended is None:
                # Its client gets the whole time to come back.
                record = Record(stored.job.id, submit(stored), polled=now)
            else:
                ended = min(now, stored.ended)
                solution = stored.solution
                search = Search.over(stored.job, stored.progress, stored.status, solution, stored.engine, ended)
                record = Record(stored.job.id, search, now, stored.status, ended, stored.served)
            self._book.restore(record)
        self._book.forget(now)
        self._retain()
        if records := self._book.records:
            log.info("Jobs of the last run: %d, of which %d go on", len(records), len(self._book.active))

    def accepted(self, record: Record[Search]) -> None:
        """``record`` is new."""
        job = record.work.job
        self._commits[job.id] = self._store.put(StoredJob(job, Progress(job.ranges), Status.RUNNING))

    def ended(self, record: Record[Search]) -> None:
        """``record`` has ended."""
        find = None
        job, solution = record.work.job, record.work.solution
        if record.status is Status.COMPLETED and solution is not None:
            find = Find(time.time_ns(), "http", job.id, job.pow, job.header, solution)
        self._commits[job.id] = self._store.put(self._ended(record), find)

    def served(self, record: Record[Search]) -> None:
        """The solution of ``record`` has been read."""
        self._store.put(self._ended(record))

    async def written(self, job_id: str) -> None:
        """Waits until the last change of a job is on the disk, or it is clear that the disk does not take it."""
        commit = self._commits.get(job_id)
        if commit is not None and not commit.done():
            await asyncio.wait((asyncio.wrap_future(commit),), timeout=MAX_WAIT_S)

    def save_progress(self) -> None:
        """Writes how far the running jobs are."""
        for record in self._book.active:
            search = record.work
            tested = search.tested
            if self._saved.get(search) == tested:
                continue
            progress = self._miner.progress(search)
            # If it has ended meanwhile its hit is no longer to do, and is not written before its end is.
            if search.status is Status.RUNNING:
                self._store.put(StoredJob(search.job, progress, Status.RUNNING))
                self._saved[search] = tested

    def tick(self) -> None:
        """To be called once a second, after the book has forgotten what is too old."""
        self.save_progress()
        self._retain()
        for job_id in [job_id for job_id, commit in self._commits.items() if commit.done()]:
            del self._commits[job_id]

    def _retain(self) -> None:
        self._store.retain({record.job_id for record in self._book.records})

    def _ended(self, record: Record[Search]) -> StoredJob:
        search = record.work
        progress = Progress((), self._miner.hashes(search), self._miner.elapsed(search))
        solution = search.solution if record.status is Status.COMPLETED else None
        return StoredJob(search.job, progress, record.status, solution, search.engine, record.ended, record.served)
