"""Open, check, read and write the SQLite file, which one process owns. For use by one thread."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import sqlite3
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantus_miner.store import schema
from quantus_miner.store.ownership import identity, take
from quantus_miner.store.rows import (
    JOB_COLUMNS,
    Find,
    StoredJob,
    StoredPoint,
    StoredSolution,
    encode_id,
    encode_nonce,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

log = logging.getLogger("miner.store")

FILE: Final = "jobs.db"
"""Its name in the state folder. SQLite keeps ``jobs.db-wal`` and ``jobs.db-shm``, or ``jobs.db-journal``, beside it."""
MAX_FINDS: Final = 50_000
"""Found blocks and shares that are kept."""
PRUNE_EVERY: Final = 1_000
"""New finds after which old ones are pruned."""
MAX_POINTS: Final = 400
"""Points of each step length that are kept for the plots of hash rates."""
RESERVE_BYTES: Final = 6 * 2**20
"""Room that is kept in the database and in its log for when the disk is full: twice what the most jobs need."""
CHECKPOINT_PAGES: Final = 500
"""Pages of 4 KiB in the log at which a commit moves it into the database. A transaction of 4 MB still fits behind
them."""
CHECKPOINT_ROWS: Final = 100
"""Changed rows after which ``tidy`` moves the log into the database. They take about 170 pages of the log."""

PUT: Final = "INSERT INTO jobs ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}".format(  # noqa: S608 - our own names
    ", ".join(JOB_COLUMNS),
    ", ".join("?" * len(JOB_COLUMNS)),
    ", ".join(f"{name} = excluded.{name}" for name in JOB_COLUMNS[1:]),
)
LOAD: Final = "SELECT {} FROM jobs ORDER BY number".format(", ".join(JOB_COLUMNS))  # noqa: S608 - our own names

PRUNE_POINTS: Final = (
    "DELETE FROM points WHERE step_s = :step_s AND number <="
    " (SELECT number FROM points WHERE step_s = :step_s ORDER BY number DESC LIMIT 1 OFFSET :most)"
)

WRITE_VERSION: Final = 18
"""Offset of the byte in the file that says how it is written: 1 is a rollback journal, 2 is WAL."""
NO_SHARED_MEMORY: Final = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR_SHMLOCK,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_READONLY_CANTINIT,
    }
)
"""Errors of SQLite if ``jobs.db-shm`` cannot be created, mapped or locked. Some of them have other causes as well."""


class NewerError(Exception):
    """The file was written by a newer version and is left as it is."""

    def __init__(self) -> None:
        super().__init__("it was written by a newer version of quantus-miner")


class DamagedError(Exception):
    """The file is damaged or not a database of the miner. The message says why."""


class Database:
    """``jobs.db`` in ``folder``, which this process owns until ``close``. Call ``prepare`` before anything else.

    Ages are counted in running time: the seconds for which miners had the file open. ``clock`` measures it, from any
    origin; the file keeps the sum. The wall clock may be wrong or jump, so it is only displayed. Times of jobs are
    seconds of ``clock`` here, and seconds of running time in the file.

    ``history_days``: days of running time for which finds are kept. Raises OSError or LockedError.
    """

    def __init__(self, folder: Path, history_days: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / FILE
        self.history_days = history_days
        self._clock = clock
        self._unpruned = PRUNE_EVERY
        self._wal = True
        self._tidied = 0  # rows that were changed before the last ``tidy``
        self._files: list[tuple[int, int] | None] = []
        self._as_written: tuple[int, int] | None = None
        self._offset = 0.0  # running time less ``clock``
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = take(self._path)
        try:
            self._db = self._connect()
        except BaseException:
            os.close(self._descriptor)
            raise

    def prepare(self) -> None:
        """Open the database, check all of it, and upgrade its tables to VERSION.

        Raises sqlite3.Error, DamagedError, NewerError.
        """
        try:
            self._prepare("WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in NO_SHARED_MEMORY:
                raise
            self._db.close()
            self._db = self._connect()
            # Without shared memory, this is the only way to read a log.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._prepare("TRUNCATE")
            log.info("%s has no shared memory maps: commits to %s take longer", self._path.parent, FILE)
        own = os.fstat(self._descriptor)
        self._files = [(own.st_dev, own.st_ino), *self._identify()[1:]]
        self._as_written = self._state()

    def _connect(self) -> sqlite3.Connection:
        # We begin and end transactions ourselves. Only a reader can make us wait, and only without WAL.
        db = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
        # Bytes that are not text do not make a valid job, which is detected when they are read as one.
        db.text_factory = lambda text: text.decode(errors="replace")
        return db

    def _prepare(self, journal_mode: str) -> None:
        db = self._db
        with damage():
            # Before anything is written, so that a file of another program stays as it is.
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if version > schema.VERSION:
                raise NewerError
            if version < 0 or (version == 0) != (tables == 0):
                raise DamagedError(f"its schema has version {version}")
            # SQLite reads a file of a later format, but refuses to write it as if that were not permitted. This reads
            # through our descriptor, because closing another one would release SQLite's locks.
            if os.pread(self._descriptor, 1, WRITE_VERSION) > b"\2":
                raise DamagedError("its format is unknown")
            (mode,) = db.execute(f"PRAGMA journal_mode = {journal_mode}").fetchone()
            self._wal = mode == "wal"
            db.execute("PRAGMA locking_mode = NORMAL")
            # A commit is on the disk when it returns, and survives a power failure.
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {2 * RESERVE_BYTES}")
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            # Without shared memory maps, WAL may fail here for the first time.
            db.executescript("BEGIN IMMEDIATE; ROLLBACK")
            try:
                schema.upgrade(db, version)
            except (sqlite3.DataError, sqlite3.IntegrityError) as error:  # rows that the table does not allow
                raise DamagedError(str(error)) from None
            if not schema.is_complete(db):
                raise DamagedError("its tables are not those of a miner")
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise DamagedError(" ".join(str(verdict).split()))
            (ran,) = db.execute("SELECT max(ran) FROM clock").fetchone()
            if ran is None or not 0 <= ran < math.inf:
                raise DamagedError(f"its running time is {ran} seconds")
            self._offset = ran - self._clock()

    def is_in_place(self) -> bool:
        """Return False if a file that is in use was removed or replaced, or written to by others."""
        return self._files == self._identify() and self._as_written == self._state()

    def _state(self) -> tuple[int, int] | None:
        """Return the size of the file and the time of its last change, or None if they cannot be read."""
        try:
            status = os.fstat(self._descriptor)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def _identify(self) -> list[tuple[int, int] | None]:
        suffixes = ("", "-wal", "-shm") if self._wal else ("",)
        return [identity(self._path.with_name(FILE + suffix)) for suffix in suffixes]

    def load(self) -> list[StoredJob]:
        """Return all jobs in the order in which they came. Raises sqlite3.Error, DamagedError."""
        try:
            with damage():
                rows = self._db.execute(LOAD).fetchall()
            return [_shifted(StoredJob.of(row), -self._offset) for row in rows]
        except (ValueError, TypeError) as error:
            raise DamagedError(str(error)) from None

    def load_points(self) -> list[StoredPoint]:
        """Return all points in the order in which they came. Raises sqlite3.Error, DamagedError."""
        with damage():
            rows = self._db.execute("SELECT step_s, time, body FROM points ORDER BY number").fetchall()
        return [StoredPoint(*row) for row in rows]

    def load_outbox(self) -> list[StoredSolution]:
        """Return the solutions of the outbox. Raises sqlite3.Error, DamagedError."""
        try:
            with damage():
                return [StoredSolution.of(row) for row in self._db.execute("SELECT * FROM outbox").fetchall()]
        except (ValueError, TypeError) as error:
            raise DamagedError(str(error)) from None

    def reserve(self) -> None:
        """Make both files so large that RESERVE_BYTES can be written to them when the disk is full.

        Free pages stay in the database, and the log is overwritten from its beginning. (This has no effect on file
        systems that never overwrite a block, such as btrfs and ZFS.) Raises OSError and sqlite3.Error.
        """
        (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
        sizes = [4096 * pages]
        if self._wal:
            sizes.append(self._path.with_name(f"{FILE}-wal").stat().st_size)
        if min(sizes) >= RESERVE_BYTES:
            return
        # Don't begin what may not be finished: a log that cannot be moved into the database only grows.
        if shutil.disk_usage(self._path.parent).free < 4 * RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # In two transactions, because pages that are free at the end of a transaction are not written. A third more
        # than needed, or the next job would be a reason to do it again.
        self._db.executescript(
            f"DROP TABLE IF EXISTS reserve; CREATE TABLE reserve AS SELECT zeroblob({RESERVE_BYTES * 4 // 3}) AS room;"
            "DROP TABLE reserve"
        )
        self._as_written = self._state()

    @property
    def untidy(self) -> bool:
        """Return True if ``tidy`` has something to do."""
        return self._wal and self._db.total_changes >= self._tidied + CHECKPOINT_ROWS

    def tidy(self) -> None:
        """Move the log into the database if it is long, so that a later commit need not. Call it when there is time.

        A failure is that of the next commit, which finds the log as long as before.
        """
        if self.untidy:
            self._tidied = self._db.total_changes
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._as_written = self._state()

    def write(
        self,
        jobs: Iterable[StoredJob],
        gone: Iterable[str],
        finds: list[Find],
        verdicts: Iterable[tuple[str, int, str]],
        points: Sequence[StoredPoint] = (),
        solutions: Iterable[StoredSolution] = (),
        settled: Iterable[tuple[bytes, int]] = (),
    ) -> None:
        """Write one transaction, which is on the disk when this returns. ``verdicts``: source, nonce and verdict.

        A point replaces one with the same step and time. ``solutions``: for the outbox. ``settled``: header and nonce
        of those that leave it.
        """
        ran = self._clock() + self._offset
        with damage():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("DELETE FROM jobs WHERE id = ?", [(encode_id(job_id),) for job_id in gone])
                self._db.executemany(PUT, [_shifted(job, self._offset).columns() for job in jobs])
                self._db.executemany(
                    "INSERT INTO finds VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [(*find.columns(), ran) for find in finds],
                )
                self._db.executemany(
                    "UPDATE finds SET verdict = ? WHERE source = ? AND nonce = ? AND verdict IS NULL",
                    [(verdict, source, encode_nonce(nonce)) for source, nonce, verdict in verdicts],
                )
                self._db.executemany(
                    "DELETE FROM outbox WHERE header = ? AND nonce = ?",
                    [(header, encode_nonce(nonce)) for header, nonce in settled],
                )
                self._db.executemany(
                    "REPLACE INTO outbox VALUES (?, ?, ?, ?)", [solution.columns() for solution in solutions]
                )
                unpruned = self._unpruned + len(finds)
                if unpruned >= PRUNE_EVERY:
                    self._prune(ran)
                    unpruned = 0
                self._db.executemany("INSERT OR REPLACE INTO points VALUES (NULL, ?, ?, ?)", points)
                for step_s in {point.step_s for point in points}:
                    self._db.execute(PRUNE_POINTS, {"step_s": step_s, "most": MAX_POINTS})
                self._db.execute("UPDATE clock SET ran = ?", (ran,))
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        self._unpruned = unpruned
        self._as_written = self._state()

    def _prune(self, ran: float) -> None:
        self._db.execute("DELETE FROM finds WHERE ran < ?", (ran - self.history_days * 86_400,))
        self._db.execute("DELETE FROM finds WHERE number <= (SELECT max(number) FROM finds) - ?", (MAX_FINDS,))

    def set_aside(self) -> Path:
        """Close, rename the file and those that belong to it, and return the new name. Raises OSError."""
        # Close SQLite first, which still writes. Release our lock last, so that nobody else renames the next file.
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = self._path.with_name(f"{FILE}.damaged-{stamp}")
        number = 1
        while target.exists():
            number += 1
            target = self._path.with_name(f"{FILE}.damaged-{stamp}-{number}")
        for suffix in ("-wal", "-shm", "-journal", ""):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(FILE + suffix).rename(target.with_name(target.name + suffix))
        os.close(self._descriptor)
        return target

    def close(self) -> None:
        """Close the file and release its lock. Never raises."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        os.close(self._descriptor)


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Turn the errors that SQLite raises for a damaged file into DamagedError."""
    try:
        yield
    except UnicodeDecodeError:  # a message of SQLite with a name from the file
        raise DamagedError("it has names that make no sense") from None
    except MemoryError:  # a size from the file
        raise DamagedError("it has sizes that make no sense") from None
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # A table that is missing or has other columns is an OperationalError with code 1.
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise DamagedError(str(error)) from None
        raise


def _shifted(job: StoredJob, seconds: float) -> StoredJob:
    return job if job.ended is None else replace(job, ended=job.ended + seconds)
