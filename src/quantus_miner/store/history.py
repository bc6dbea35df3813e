"""Read the history of found blocks and shares, also while a miner runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quantus_miner.errors import MinerError, printable
from quantus_miner.store import schema
from quantus_miner.store.database import FILE
from quantus_miner.store.rows import decode_id

if TYPE_CHECKING:
    from collections.abc import Iterable

LATEST: Final = (
    "SELECT time_ns, source, job_id, pow, header, nonce, difficulty, verdict FROM finds ORDER BY number DESC LIMIT ?"
)


class HistoryEntry(msgspec.Struct):
    """A block or share that was found. ``time``: UTC, in ISO 8601. ``difficulty``: what it achieved, in decimal."""

    time: str
    source: str
    job_id: str
    pow: str
    header: str
    nonce: str
    difficulty: str
    verdict: str | None
    """accepted, stale or rejected, or None if the source does not say."""


def latest(folder: Path, count: int) -> list[HistoryEntry]:
    """Return the last ``count`` finds, the newest last. Raises MinerError if the history cannot be read."""
    path = folder / FILE
    try:
        if not folder.is_dir():
            raise MinerError(f"{folder} is not a folder; --state-dir must name the state folder of the miner")
        if not _is_there(path):
            return []
        return [_entry(*row) for row in reversed(_read(path, count))]
    except PermissionError as error:
        raise MinerError(f"cannot read {path}: {error.strerror}; run this as the user of the miner") from None
    except OSError as error:
        raise MinerError(f"cannot read {path}: {error.strerror}") from None
    except sqlite3.Error as error:
        raise MinerError(f"cannot read {path}: {error}") from None
    # A damaged file may contain anything. MemoryError: a size from the file.
    except (ArithmeticError, AttributeError, MemoryError, TypeError, ValueError, msgspec.ValidationError):
        raise MinerError(f"cannot read {path}: it is damaged") from None


def _is_there(path: Path) -> bool:
    """Return False if there is no such file. Raises OSError or MinerError if it is there and cannot be read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise MinerError(f"cannot read {path}: it is not a regular file")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return True


def _read(path: Path, count: int) -> list[tuple[Any, ...]]:
    try:
        return _query(path, "ro", count)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_IOERR,
        ):
            raise
    # SQLite can only read the log of a database if it can write files beside it.
    try:
        with tempfile.TemporaryDirectory() as copy:
            for suffix in ("", "-wal", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path.with_name(FILE + suffix), Path(copy, FILE + suffix))
            return _query(Path(copy, FILE), "rw", count)
    except OSError as error:
        raise MinerError(f"cannot read {path}, nor copy it to a temporary folder: {error.strerror}") from None


def _query(path: Path, mode: str, count: int) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > schema.VERSION:
            raise MinerError(f"cannot read {path}: it was written by a newer version of quantus-miner")
        if not database.execute(schema.STATEMENTS).fetchall():
            return []  # created, but not written yet
        return database.execute(LATEST, (count,)).fetchall()


def lines(entries: Iterable[HistoryEntry]) -> list[str]:
    """Return a table for people."""
    rows: list[tuple[str, ...]] = [("time", "source", "job", "nonce", "difficulty", "verdict")]
    for entry in entries:
        # Text that others chose must not control the terminal.
        number = f"{int(entry.difficulty):,}"
        texts = (entry.time[:19] + "Z", entry.source, entry.job_id, entry.nonce, number, entry.verdict or "-")
        rows.append(tuple(map(_short, texts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def json_lines(entries: Iterable[HistoryEntry]) -> list[str]:
    """Return a JSON object for each entry. ASCII controls no terminal and does not depend on the locale."""
    return [json.dumps(msgspec.structs.asdict(entry), separators=(",", ":")) for entry in entries]


def _entry(
    time_ns: int,
    source: str,
    job_id: bytes,
    pow_: str,
    header: bytes,
    nonce: bytes,
    difficulty: str,
    verdict: str | None,
) -> HistoryEntry:
    time = dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # A job's id may have lone surrogates, which JSON does not allow.
    name = decode_id(job_id).encode("utf-8", "replace").decode()
    fields = (time, source, name, pow_, header.hex(), f"{int.from_bytes(nonce):x}", str(int(difficulty)), verdict)
    return msgspec.convert(dict(zip(HistoryEntry.__struct_fields__, fields, strict=True)), HistoryEntry)


def _short(text: str, most: int = 40) -> str:
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 9]}…{shown[-8:]}"
