"""The store: a copy of the jobs and of a hub's outbox, in memory and on the disk. One thread writes the file.

The owner of the jobs (``jobs``) reports each new state. Changes that come while a commit is under way go into the next
one. If the disk fails or the file is removed, everything is written again from memory.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.events import ShareJudged, SolutionSent
from quantus_miner.store.database import FILE, DamagedError, Database, NewerError
from quantus_miner.store.ownership import LockedError
from quantus_miner.store.rows import Find

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from quantus_miner.events import Event
    from quantus_miner.store.rows import StoredJob, StoredPoint, StoredSolution

log = logging.getLogger("miner.store")

RETRY_S: Final = 1.0
"""Seconds between two attempts to write to a disk that fails."""
CHECK_S: Final = 1.0
"""Seconds between two checks that the file is still in place."""
IDLE_S: Final = 0.05
"""Seconds without changes after which a long log is moved into the database."""
SAVE_S: Final = 60.0
"""Maximum seconds between two commits, which also save the running time."""
RESERVE_S: Final = 60.0
"""Seconds between two checks of the room that is reserved."""
MAX_WAITING: Final = 10_000
"""Finds that wait for the disk. If there are more, the oldest are forgotten."""


MAX_WAITING_POINTS: Final = 1_000
"""Points of the plots that wait for the disk. If there are more, the oldest are forgotten."""


class Store:
    """Jobs, finds and the outbox in the state folder.

    Methods may be called from any thread. Only ``start`` and ``close`` wait.

    ``history_days``: days of running time for which finds are kept. ``clock``: the clock of the jobs. ``retry_s``:
    shorter in tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        history_days: int,
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_S,
    ) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._history_days = history_days
        self._clock = clock
        self._retry_s = retry_s
        self._ready = threading.Condition()
        self._jobs: dict[str, StoredJob] = {}
        self._changed: dict[str, None] = {}  # in this order
        self._outbox: dict[tuple[bytes, int], StoredSolution] = {}
        self._outbox_changed: dict[tuple[bytes, int], None] = {}
        self._finds: deque[Find] = deque(maxlen=MAX_WAITING)
        self._verdicts: deque[tuple[str, int, str]] = deque(maxlen=MAX_WAITING)
        self._points: deque[StoredPoint] = deque(maxlen=MAX_WAITING_POINTS)
        self._commit = _future()
        self._under_way = _done()  # that of the transaction which is being written
        self._ok = True
        self._closing = False
        # The writer's own:
        self._database: Database | None = None
        self._on_disk: set[str] = set()
        self._outbox_on_disk: set[tuple[bytes, int]] = set()
        self._written = 0.0  # when the last commit was
        self._reserved = 0.0  # when it was looked at last
        self._roomy = True
        self.loaded: Future[list[StoredJob]] = _future()
        """The jobs of the last run, in the order in which they came."""
        self.earlier_points: list[StoredPoint] = []
        """The points of the last runs, in the order in which they came. Complete once ``loaded`` is done."""
        self.outbox: list[StoredSolution] = []
        """The solutions of the last run, once ``loaded`` is done."""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def keep_history(self, days: int) -> None:
        """Keep finds for ``days`` days of running time from now on."""
        self._history_days = days
        if self._database is not None:
            self._database.history_days = days

    @property
    def ok(self) -> bool:
        """Return True if changes are written to the disk."""
        return self._ok

    def start(self) -> list[StoredJob]:
        """Start the writer. Return the jobs of the last run, in the order in which they came; wait for them."""
        self.begin()
        return self.loaded.result()

    def begin(self) -> None:
        """Start the writer. What it reads first comes with ``loaded``."""
        self._thread.start()

    def put(self, job: StoredJob, find: Find | None = None) -> Future[None]:
        """Store the new state of a job. The future is done when it is on the disk, or when the disk has failed."""
        with self._ready:
            if self._closing:
                return _done()
            self._jobs[job.job.id] = job
            self._changed[job.job.id] = None
            if find is not None:
                self._finds.append(find)
            self._ready.notify()
            return self._commit if self._ok else _done()

    def retain(self, ids: Collection[str]) -> None:
        """Forget all jobs but these."""
        with self._ready:
            if self._closing:
                return
            gone = self._jobs.keys() - ids
            for job_id in gone:
                del self._jobs[job_id]
            self._changed |= dict.fromkeys(gone)
            if gone:
                self._ready.notify()

    def keep(self, solution: StoredSolution) -> Future[None]:
        """Put a solution into the outbox, or store its new state. The future is as that of ``put``."""
        with self._ready:
            if self._closing:
                return _done()
            self._outbox[solution.key] = solution
            self._outbox_changed[solution.key] = None
            self._ready.notify()
            return self._commit if self._ok else _done()

    def settle(self, keys: Collection[tuple[bytes, int]]) -> None:
        """Remove solutions from the outbox. ``keys``: header and nonce of each."""
        with self._ready:
            for key in keys:
                if self._outbox.pop(key, None) is not None:
                    self._outbox_changed[key] = None
            self._ready.notify()

    def on_event(self, event: Event) -> None:
        """Keep solutions that were sent, and what pools said of them, as history."""
        if isinstance(event, SolutionSent):
            job = event.job
            self.found(Find(time.time_ns(), event.source, job.id, job.pow, job.header, event.solution))
        elif isinstance(event, ShareJudged):
            self.judged(event.source, event.nonce, event.judgement)

    def found(self, find: Find) -> None:
        """Add a block or share to the history."""
        with self._ready:
            self._finds.append(find)
            self._ready.notify()

    def judged(self, source: str, nonce: int, verdict: str) -> None:
        """Add a pool's verdict to a share in the history."""
        with self._ready:
            self._verdicts.append((source, nonce, verdict))
            self._ready.notify()

    def keep_point(self, point: StoredPoint) -> None:
        """Store a point of the plots with the next commit, within SAVE_S. It replaces one of the same step and time."""
        with self._ready:
            self._points.append(point)

    def close(self, timeout: float) -> None:
        """Write what is left and end the writer, within ``timeout`` seconds."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("What happened last could not be written to %s in time", self._path)

    # --- the writer's thread ---

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except LockedError:
            log.warning("Another miner uses %s: jobs of this one are kept in memory only", self._folder)
        except NewerError as error:
            log.error("Cannot use %s: %s; it is left as it is, jobs are kept in memory only", self._path, error)  # noqa: TRY400
        except Exception:
            log.exception("The store has failed: jobs are kept in memory only until a restart")
        with self._ready:
            self._ok, self._closing = self._ok and self._closing, True
            commit, self._commit = self._commit, _done()
        # Nobody may wait for ever.
        for future in (commit, self._under_way):
            if not future.done():
                future.set_result(None)
        if not self.loaded.done():
            self.loaded.set_result([])
        self._close_database()

    def _write_until_closed(self) -> None:
        jobs = self._first_load()
        self._on_disk = {stored.job.id for stored in jobs}
        self._jobs = {stored.job.id: stored for stored in jobs}
        self._outbox = {solution.key: solution for solution in self.outbox}
        self._outbox_on_disk = set(self._outbox)
        self._reserve()
        self._written = self._clock()
        self.loaded.set_result(jobs)
        closing = False
        while not closing:
            with self._ready:
                idle = not self._ready.wait_for(self._has_work, self._wait_s())
                if not self._ok and not self._closing:
                    # Give the disk time before the next attempt.
                    self._ready.wait_for(lambda: self._closing, self._retry_s)
            self._check_in_place()
            if idle and self._database is not None:
                self._database.tidy()
            with self._ready:
                if self._database is not None and not self._has_work() and self._clock() < self._written + SAVE_S:
                    continue
                closing = self._closing
                changed, self._changed = self._changed, {}
                jobs = [self._jobs[job_id] for job_id in changed if job_id in self._jobs]
                gone = changed.keys() - self._jobs.keys()
                due, self._outbox_changed = self._outbox_changed, {}
                solutions = [self._outbox[key] for key in due if key in self._outbox]
                settled = due.keys() - self._outbox.keys()
                finds, verdicts, points = list(self._finds), list(self._verdicts), list(self._points)
                self._finds.clear()
                self._verdicts.clear()
                self._points.clear()
                self._under_way, self._commit = self._commit, _future()
            if not self._write(jobs, gone, finds, verdicts, points, solutions, settled):
                with self._ready:
                    self._finds = deque([*finds, *self._finds], MAX_WAITING)
                    self._verdicts = deque([*verdicts, *self._verdicts], MAX_WAITING)
                    self._points = deque([*points, *self._points], MAX_WAITING_POINTS)
            self._under_way.set_result(None)
            if time.monotonic() > self._reserved + RESERVE_S:
                self._reserve()

    def _wait_s(self) -> float:
        """Return how long to wait for work before the next look at the file."""
        if not self._ok:
            return self._retry_s
        return IDLE_S if self._database is not None and self._database.untidy else CHECK_S

    def _has_work(self) -> bool:
        changed = self._changed or self._outbox_changed
        return bool(self._closing or changed or self._finds or self._verdicts)

    def _first_load(self) -> list[StoredJob]:
        try:
            try:
                return self._load()
            except DamagedError as error:
                self._set_aside(error)
                return self._load()
        except (OSError, sqlite3.Error, DamagedError) as error:
            self._failed(error)
            return []

    def _load(self) -> list[StoredJob]:
        database = self._open()
        jobs = database.load()
        self.earlier_points, self.outbox = database.load_points(), database.load_outbox()
        return jobs

    def _check_in_place(self) -> None:
        if self._database is not None and not self._database.is_in_place():
            log.error("%s was removed or replaced while the miner ran: all that is known is written again", self._path)
            self._start_over()

    def _write(
        self,
        jobs: list[StoredJob],
        gone: set[str],
        finds: list[Find],
        verdicts: list[tuple[str, int, str]],
        points: list[StoredPoint],
        solutions: list[StoredSolution],
        settled: set[tuple[bytes, int]],
    ) -> bool:
        """Return True if it is on the disk."""
        try:
            try:
                self._open().write(jobs, gone, finds, verdicts, points, solutions, settled)
            except DamagedError as error:
                self._set_aside(error)
                with self._ready:
                    jobs, solutions = list(self._jobs.values()), list(self._outbox.values())
                self._open().write(jobs, (), finds, verdicts, points, solutions)
        except (OSError, ValueError, MemoryError, sqlite3.Error, DamagedError, LockedError, NewerError) as error:
            self._failed(error)
            return False
        self._written = self._clock()
        self._on_disk -= gone
        self._on_disk |= {job.job.id for job in jobs}
        self._outbox_on_disk -= settled
        self._outbox_on_disk |= {solution.key for solution in solutions}
        recovered, self._ok = not self._ok, True
        if recovered:
            log.warning("%s can be written again", self._path)
        return True

    def _reserve(self) -> None:
        """Reserve room for when the disk is full. Being unable to is not a failure yet."""
        if self._database is None:
            return
        self._reserved = time.monotonic()
        try:
            self._database.reserve()
            self._roomy = True
        except (OSError, sqlite3.Error) as error:
            if self._roomy:
                reason = error.strerror if isinstance(error, OSError) else error
                log.warning("Cannot reserve room in %s: %s; jobs take what was reserved before", self._folder, reason)
            self._roomy = False

    def _open(self) -> Database:
        if self._database is None:
            self._database = Database(self._folder, self._history_days, self._clock)
            self._database.prepare()
        return self._database

    def _set_aside(self, why: DamagedError) -> None:
        if self._database is not None:
            kept = self._database.set_aside()
            self._database = None
            self._on_disk.clear()
            self._outbox_on_disk.clear()
            log.error("%s is damaged: %s; set aside as %s, begun anew", self._path, why, kept.name)

    def _failed(self, error: Exception) -> None:
        self._start_over()
        failed, self._ok = self._ok, False
        if failed:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            log.error("Cannot write %s: %s; jobs are kept in memory only until it can be written", self._path, reason)

    def _start_over(self) -> None:
        """Close the database. Everything, written before or not, has to be written to the next one."""
        self._close_database()
        with self._ready:
            self._changed = dict.fromkeys([*self._jobs, *self._on_disk])
            self._outbox_changed = dict.fromkeys([*self._outbox, *self._outbox_on_disk])
        self._reserved = -RESERVE_S

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _future() -> Future[Any]:
    """Return a future that several can wait for and none of them can cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _done() -> Future[None]:
    future: Future[None] = _future()
    future.set_result(None)
    return future
