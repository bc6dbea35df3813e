"""The SQLite file: opened, checked, read, written. Used by one thread."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from quantus_miner.store.rows import JOB_COLUMNS, Find, StoredJob, encode_id, encode_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FILE: Final = "jobs.db"
"""Its name in the state folder; beside it SQLite keeps ``jobs.db-wal`` and ``jobs.db-shm``."""
LOCK: Final = "jobs.lock"
VERSION: Final = 1
"""Of the schema; a file with another one is set aside."""
MAX_FINDS: Final = 50_000
"""Found blocks and shares that are kept."""
PRUNE_EVERY: Final = 1_000
"""New finds after which old ones are pruned."""
RESERVE_BYTES: Final = 6 * 2**20
"""Kept free in the database, and in its log, for when the disk is full: twice what all jobs that are held take."""
CHECKPOINT_PAGES: Final = 500
"""Pages of 4 KiB in the log at which it goes into the database: a transaction of 4 MB still fits behind them."""

SCHEMA: Final = f"""
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    pow TEXT NOT NULL,
    header BLOB NOT NULL CHECK (length(header) = 32),
    goal BLOB NOT NULL CHECK (length(goal) = 64),
    positions TEXT NOT NULL,
    ranges BLOB NOT NULL CHECK (length(ranges) % 128 = 0),
    todo BLOB NOT NULL CHECK (length(todo) % 128 = 0),
    hashes INTEGER NOT NULL CHECK (hashes >= 0),
    elapsed REAL NOT NULL,
    status TEXT NOT NULL,
    nonce BLOB CHECK (length(nonce) = 64),
    value BLOB CHECK (length(value) = 64),
    engine TEXT,
    ended REAL,
    served INTEGER NOT NULL
) STRICT;
CREATE TABLE finds (
    number INTEGER PRIMARY KEY,
    time_ns INTEGER NOT NULL,
    source TEXT NOT NULL,
    job_id BLOB NOT NULL,
    pow TEXT NOT NULL,
    header BLOB NOT NULL,
    nonce BLOB NOT NULL CHECK (length(nonce) = 64),
    difficulty TEXT NOT NULL,
    verdict TEXT
) STRICT;
CREATE INDEX finds_by_nonce ON finds (nonce);
PRAGMA user_version = {VERSION};
"""

PUT: Final = "INSERT INTO jobs ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}".format(  # noqa: S608 - our own names
    ", ".join(JOB_COLUMNS),
    ", ".join("?" * len(JOB_COLUMNS)),
    ", ".join(f"{name} = excluded.{name}" for name in JOB_COLUMNS[1:]),
)
LOAD: Final = "SELECT {} FROM jobs ORDER BY number".format(", ".join(JOB_COLUMNS))  # noqa: S608 - our own names


WRITE_VERSION: Final = 18
"""Where in the file SQLite says how it is written: 1 rollback journal, 2 WAL."""
STATEMENTS: Final = "SELECT type, name, sql FROM sqlite_schema"


class LockedError(Exception):
    """Another process has the state folder."""


class DamagedError(Exception):
    """The file is no database, or not one of ours; says why."""


class Database:
    """The open file. ``history_days``: how long finds are kept. Raises OSError, sqlite3.Error, DamagedError."""

    def __init__(self, folder: Path, history_days: int) -> None:
        self._history_days = history_days
        self._unpruned = PRUNE_EVERY
        self._log = folder / f"{FILE}-wal"
        folder.mkdir(parents=True, exist_ok=True)
        # Transactions are begun and ended by us. No waiting: the lock says that nobody else writes.
        self._path = folder / FILE
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
        # What is no text makes no job, which is found out when it is read as one.
        self._db.text_factory = lambda text: text.decode(errors="replace")
        try:
            self._prepare()
        except MemoryError:  # a size from the file
            self.close()
            raise DamagedError("it has sizes that make no sense") from None
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with damage():
            # First of all, so that a file of others is left as it is.
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if version != VERSION and (version, tables) != (0, 0):
                raise DamagedError(f"its schema has version {version}, not {VERSION}")
            with self._path.open("rb") as file:
                head = file.read(WRITE_VERSION + 1)
            # SQLite reads a file of a later format, but fails to write it as if that were not allowed.
            if head[WRITE_VERSION:] > b"\2":
                raise DamagedError("its format is unknown")
            self._db.execute("PRAGMA journal_mode = WAL")
            # A commit is on the disk when it returns, also for a loss of power.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(f"PRAGMA journal_size_limit = {2 * RESERVE_BYTES}")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            if tables == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
            elif not set(_statements()) <= set(self._db.execute(STATEMENTS)):
                raise DamagedError("its tables are not those of a miner")

    def load(self) -> list[StoredJob]:
        """All jobs, in the order in which they came; the file is checked as a whole."""
        try:
            with damage():
                (verdict,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
                if verdict != "ok":
                    raise DamagedError(" ".join(str(verdict).split()))
                rows = self._db.execute(LOAD).fetchall()
            return [StoredJob.of(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise DamagedError(str(error)) from None
        except MemoryError:  # a size from the file
            raise DamagedError("it has sizes that make no sense") from None

    def reserve(self) -> None:
        """Makes both files so large that RESERVE_BYTES can be written to them when the disk has no room left.

        Pages that are free again stay in the database, and the log is overwritten from its beginning. (A file system
        that writes no block twice, such as btrfs or ZFS, knows no such thing.) Raises OSError and sqlite3.Error.
        """
        (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if min(4096 * pages, self._log.stat().st_size) >= RESERVE_BYTES:
            return
        # Not begun where it might not be ended: a log that cannot go into the database only grows.
        if shutil.disk_usage(self._path.parent).free < 4 * RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # In two transactions: pages that are free again at the end of one are not written. More than asked for, or
        # the next job would be a reason to do it again.
        self._db.executescript(
            f"DROP TABLE IF EXISTS reserve; CREATE TABLE reserve AS SELECT zeroblob({RESERVE_BYTES * 4 // 3}) AS room;"
            "DROP TABLE reserve"
        )

    def write(
        self,
        jobs: Iterable[StoredJob],
        gone: Iterable[str],
        finds: list[Find],
        verdicts: Iterable[tuple[str, int, str]],
    ) -> None:
        """One transaction, on the disk when this returns. ``verdicts``: source, nonce, what was said of it."""
        with damage():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("DELETE FROM jobs WHERE id = ?", [(encode_id(job_id),) for job_id in gone])
                self._db.executemany(PUT, [job.columns() for job in jobs])
                self._db.executemany(
                    "INSERT INTO finds VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", [find.columns() for find in finds]
                )
                self._db.executemany(
                    "UPDATE finds SET verdict = ? WHERE source = ? AND nonce = ? AND verdict IS NULL",
                    [(verdict, source, encode_nonce(nonce)) for source, nonce, verdict in verdicts],
                )
                unpruned = self._unpruned + len(finds)
                if unpruned >= PRUNE_EVERY:
                    self._prune()
                    unpruned = 0
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        self._unpruned = unpruned

    def _prune(self) -> None:
        oldest = time.time_ns() - self._history_days * 86_400 * 10**9
        self._db.execute("DELETE FROM finds WHERE time_ns < ?", (oldest,))
        self._db.execute("DELETE FROM finds WHERE number <= (SELECT max(number) FROM finds) - ?", (MAX_FINDS,))

    def close(self) -> None:
        """Never raises."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


@contextlib.contextmanager
def damage() -> Iterator[None]:
    """Turns what SQLite says of a damaged file into DamagedError."""
    try:
        yield
    except UnicodeDecodeError:  # SQLite's own words with a name from the file
        raise DamagedError("it has names that make no sense") from None
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # A table that is not there, or not as it should be, is an OperationalError with code 1.
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise DamagedError(str(error)) from None
        raise


def _statements() -> list[tuple[str, str, str | None]]:
    """What SQLite keeps of SCHEMA."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(SCHEMA)
        return fresh.execute(STATEMENTS).fetchall()


def lock(folder: Path) -> int:
    """Locks the state folder for this process until it ends; the descriptor. Raises LockedError or OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LockedError from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def set_aside(folder: Path) -> Path:
    """Renames the database and what belongs to it; the new name. Raises OSError."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = folder / f"{FILE}.damaged-{stamp}"
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{FILE}.damaged-{stamp}-{number}"
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            (folder / (FILE + suffix)).rename(target.with_name(target.name + suffix))
    return target
