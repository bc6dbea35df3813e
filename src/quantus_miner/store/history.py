"""Reads what was found, beside a running miner."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.errors import MinerError
from quantus_miner.store.database import FILE
from quantus_miner.store.rows import decode_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LATEST: Final = (
    "SELECT time_ns, source, job_id, pow, header, nonce, difficulty, verdict FROM finds ORDER BY number DESC LIMIT ?"
)


class Entry(msgspec.Struct):
    """A block or share that was found. ``time``: UTC, ISO 8601; ``difficulty``: achieved, decimal."""

    time: str
    source: str
    job_id: str
    pow: str
    header: str
    nonce: str
    difficulty: str
    verdict: str | None
    """accepted, stale or rejected; None where nobody says."""


def latest(folder: Path, count: int) -> list[Entry]:
    """The last ``count`` finds, the newest last. Raises MinerError where the history cannot be read."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(LATEST, (count,)).fetchall()
        return [_entry(*row) for row in reversed(rows)]
    except sqlite3.Error as error:
        raise MinerError(f"cannot read {path}: {error}") from None
    # What comes from a damaged file may be anything; MemoryError: a size in it.
    except (ArithmeticError, AttributeError, MemoryError, OSError, TypeError, ValueError, msgspec.ValidationError):
        raise MinerError(f"cannot read {path}: it is damaged") from None


def lines(entries: Iterable[Entry]) -> list[str]:
    """A table for people."""
    rows: list[tuple[str, ...]] = [("time", "source", "job", "nonce", "difficulty", "verdict")]
    for entry in entries:
        # What others chose must not write to the terminal.
        number = f"{int(entry.difficulty):,}"
        texts = (entry.time[:19] + "Z", entry.source, entry.job_id, entry.nonce, number, entry.verdict or "-")
        rows.append(tuple(map(_short, texts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _entry(
    time_ns: int,
    source: str,
    job_id: bytes,
    pow_: str,
    header: bytes,
    nonce: bytes,
    difficulty: str,
    verdict: str | None,
) -> Entry:
    time = dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # JSON has no lone surrogates, which a job's id may hold.
    name = decode_id(job_id).encode("utf-8", "replace").decode()
    fields = (time, source, name, pow_, header.hex(), f"{int.from_bytes(nonce):x}", str(int(difficulty)), verdict)
    return msgspec.convert(dict(zip(Entry.__struct_fields__, fields, strict=True)), Entry)


def _short(text: str, most: int = 40) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= most else f"{shown[: most - 9]}…{shown[-8:]}"
