"""The rows of the database as values: jobs, finds, and the solutions of a hub's outbox."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from quantus_miner.model import Job, NonceRange, Order, Pow, Progress, Solution, Status, achieved_difficulty
from quantus_miner.pow.order import last_position

NUMBER_BYTES: Final = 64
"""Numbers of 512 bits are stored big-endian."""

JOB_COLUMNS: Final = (
    *("id", "pow", "header", "target", "nonce_order", "ranges"),
    *("todo", "hashes", "elapsed", "status", "nonce", "value", "engine", "ended", "served"),
)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job of the HTTP API.

    ``engine``: the one that found ``solution``. ``ended``: the time of its end in seconds, see Database.
    """

    job: Job
    progress: Progress
    status: Status
    solution: Solution | None = None
    engine: str | None = None
    ended: float | None = None
    served: bool = False

    def columns(self) -> tuple[Any, ...]:
        """Return the values in the order of JOB_COLUMNS."""
        job, progress, solution = self.job, self.progress, self.solution
        return (
            encode_id(job.id),
            str(job.pow),
            job.header,
            _encode(job.target),
            str(job.order),
            _encode_ranges(job.ranges),
            _encode_ranges(progress.todo),
            progress.hashes,
            float(progress.elapsed),
            str(self.status),
            None if solution is None else _encode(solution.nonce),
            None if solution is None else _encode(solution.value),
            self.engine,
            self.ended,
            int(self.served),
        )

    @classmethod
    def of(cls, columns: tuple[Any, ...]) -> StoredJob:
        """Return the job with these values of JOB_COLUMNS. Raises ValueError if they do not make a valid one."""
        id_, pow_, header, target, order, ranges, todo, hashes, elapsed, status, nonce, value, engine, ended, served = (
            columns
        )
        job = Job(decode_id(id_), Pow(pow_), header, _decode(target), _decode_ranges(ranges), Order(order))
        solution = None if nonce is None else Solution(_decode(nonce), _decode(value))
        progress = Progress(_decode_ranges(todo), hashes, elapsed)
        stored = cls(job, progress, Status(status), solution, engine, ended, bool(served))
        if (stored.status is Status.COMPLETED) != (solution is not None):
            raise ValueError("a solution and no completed job, or the reverse")
        if (stored.status is Status.RUNNING) != (ended is None):
            raise ValueError("an end of a running job, or the reverse")
        if stored.status is Status.RUNNING and not progress.todo:
            raise ValueError("a running job with nothing to do")
        if job.order is Order.WALK and job.pow is not Pow.POSEIDON2:
            raise ValueError(f"a job of {job.pow} in {job.order} order")
        if any(piece.end > last_position(job.order) for piece in (*job.ranges, *progress.todo)):
            raise ValueError(f"a range beyond the end of its {job.order} order")
        if not 0 <= elapsed < math.inf:
            raise ValueError(f"{elapsed} seconds of a search")
        return stored


@dataclass(frozen=True, slots=True)
class Find:
    """A block or share that was found. ``time_ns``: nanoseconds since the epoch. ``verdict``: the pool's, if any."""

    time_ns: int
    source: str
    job_id: str
    pow: Pow
    header: bytes
    solution: Solution
    verdict: str | None = None

    @classmethod
    def now(cls, source: str, job: Job, solution: Solution) -> Find:
        """Return a block or share that was found at this moment."""
        return cls(time.time_ns(), source, job.id, job.pow, job.header, solution)

    def columns(self) -> tuple[Any, ...]:
        """Return the values in the order of the table ``finds``, without ``number`` and ``ran``."""
        return (
            self.time_ns,
            self.source,
            encode_id(self.job_id),
            str(self.pow),
            self.header,
            _encode(self.solution.nonce),
            str(achieved_difficulty(self.solution.value)),
            self.verdict,
        )


class StoredPoint(NamedTuple):
    """A step of the history of hash rates: its length, its start in seconds since 1970, and the rest as JSON."""

    step_s: int
    time: int
    body: bytes


class Sent(IntEnum):
    """Whether a solution was written to the socket of its source."""

    NO = 0
    YES = 1
    PERHAPS = 2
    """It was about to be."""


@dataclass(frozen=True, slots=True)
class StoredSolution:
    """A solution in the outbox of a hub. ``header``: 32 bytes."""

    header: bytes
    solution: Solution
    sent: Sent = Sent.NO

    @property
    def key(self) -> tuple[bytes, int]:
        """Header and nonce, which no two of them share."""
        return self.header, self.solution.nonce

    def columns(self) -> tuple[Any, ...]:
        """Return the values in the order of the table ``outbox``."""
        return self.header, _encode(self.solution.nonce), _encode(self.solution.value), int(self.sent)

    @classmethod
    def of(cls, columns: tuple[Any, ...]) -> StoredSolution:
        """Return the solution with these values of the table ``outbox``."""
        header, nonce, value, sent = columns
        return cls(header, Solution(_decode(nonce), _decode(value)), Sent(sent))


def encode_id(job_id: str) -> bytes:
    """Return a job's id as it is stored. Any characters are allowed."""
    return job_id.encode("utf-8", "surrogatepass")


def decode_id(encoded: bytes) -> str:
    """Return the id that ``encode_id`` has encoded."""
    return encoded.decode("utf-8", "surrogatepass")


def encode_nonce(nonce: int) -> bytes:
    """Return a nonce as it is stored in the table ``finds``."""
    return _encode(nonce)


def _encode(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES)


def _decode(encoded: bytes) -> int:
    return int.from_bytes(encoded)


def _encode_ranges(ranges: tuple[NonceRange, ...]) -> bytes:
    return b"".join(_encode(piece.start) + _encode(piece.end) for piece in ranges)


def _decode_ranges(encoded: bytes) -> tuple[NonceRange, ...]:
    size = NUMBER_BYTES
    return tuple(
        NonceRange(_decode(encoded[at : at + size]), _decode(encoded[at + size : at + 2 * size]))
        for at in range(0, len(encoded), 2 * size)
    )
