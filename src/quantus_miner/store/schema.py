"""Create the tables of ``jobs.db``, or upgrade them from one version to the next."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Final

STEPS: Final = (
    """
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
PRAGMA user_version = 1;
""",
    # Ages are counted in running time, see Database. Until now ``ended`` was in seconds since the epoch.
    """
CREATE TABLE clock (ran REAL NOT NULL CHECK (ran >= 0)) STRICT;
INSERT INTO clock VALUES (0.0);
ALTER TABLE finds ADD COLUMN ran REAL NOT NULL DEFAULT 0.0;
UPDATE jobs SET ended = 0.0 WHERE ended IS NOT NULL;
PRAGMA user_version = 2;
""",
    """
ALTER TABLE jobs RENAME COLUMN goal TO target;
ALTER TABLE jobs RENAME COLUMN positions TO nonce_order;
PRAGMA user_version = 3;
""",
    # The plots of hash rates. ``body`` is JSON, so that it may grow without another version.
    """
CREATE TABLE points (
    number INTEGER PRIMARY KEY,
    step_s INTEGER NOT NULL,
    time INTEGER NOT NULL,
    body BLOB NOT NULL CHECK (length(body) <= 65536),
    UNIQUE (step_s, time)
) STRICT;
PRAGMA user_version = 4;
""",
    """
CREATE TABLE outbox (
    header BLOB NOT NULL CHECK (length(header) = 32),
    nonce BLOB NOT NULL CHECK (length(nonce) = 64),
    value BLOB NOT NULL CHECK (length(value) = 64),
    sent INTEGER NOT NULL,
    PRIMARY KEY (header, nonce)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 5;
""",
)
"""STEPS[N] upgrades a file of version N to version N + 1. An empty file has version 0."""
VERSION: Final = len(STEPS)
STATEMENTS: Final = "SELECT type, name, sql FROM sqlite_schema"


def upgrade(database: sqlite3.Connection, version: int) -> None:
    """Upgrade a file of ``version`` to VERSION in one transaction. Raises sqlite3.Error."""
    if version < VERSION:
        try:
            database.executescript(f"BEGIN IMMEDIATE; {''.join(STEPS[version:])} COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise


def is_complete(database: sqlite3.Connection) -> bool:
    """Return True if the tables are those of VERSION."""
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        upgrade(fresh, 0)
        return set(fresh.execute(STATEMENTS)) <= set(database.execute(STATEMENTS))
