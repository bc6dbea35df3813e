"""The nouns of mining, shared by every part: proof of work, nonce range, job, solution, hash rates."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX: Final = 2**512 - 1
"""Largest 512-bit integer: the largest nonce, and the numerator of every difficulty."""


class Pow(StrEnum):
    """The two proofs of work that have been consensus on Quantus."""

    POSEIDON2 = "qpow-poseidon2"
    SHA3 = "qpow-sha3"


class Order(StrEnum):
    """A nonce order: which nonce is at each position of a job's ranges. See ``pow.order``."""

    COUNTING = "counting"
    """The nonce is the position."""
    WALK = "walk"
    """The fastest order, for qpow-poseidon2 only. Used if the source does not ask for a certain range."""


class Status(StrEnum):
    """State of a job, in the words of the HTTP API."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NonceRange:
    """All positions, in the job's order, from ``start`` to ``end``, both inclusive; 0 <= start <= end <= MAX."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= MAX:
            raise ValueError("a nonce range must have 0 <= start <= end <= 2^512 - 1")

    @property
    def size(self) -> int:
        """Return the number of nonces, 1 .. 2^512."""
        return self.end - self.start + 1


@dataclass(frozen=True, slots=True)
class Job:
    """Work from a source.

    ``header``: the 32-byte mining hash. ``target``: the largest valid hash (qpow-poseidon2) or distance
    (qpow-sha3), 0 .. MAX. ``ranges``: the positions in ``order`` to search, one range after
    the other, without overlap.
    """

    id: str
    pow: Pow
    header: bytes
    target: int
    ranges: tuple[NonceRange, ...]
    order: Order = Order.COUNTING


@dataclass(frozen=True, slots=True)
class LiveJob:
    """Work from a live source. It is valid until the next one arrives, however many solutions are found.

    ``header``: the 32-byte mining hash of qpow-poseidon2. ``difficulty``: 1 .. MAX, that of the network or of a share.
    ``prefix``: the bytes that every nonce begins with (a pool's extranonce), 0 to 32 of them. ``exact_target``: the
    target if it is not the one of ``difficulty``, which pools may round.
    """

    id: str
    header: bytes
    difficulty: int
    prefix: bytes = b""
    exact_target: int | None = None

    @property
    def pow(self) -> Pow:
        """Return the proof of work of the network, which all live jobs have."""
        return Pow.POSEIDON2

    @property
    def target(self) -> int:
        """Return the largest valid hash, 0 .. MAX."""
        return target_from_difficulty(self.difficulty) if self.exact_target is None else self.exact_target


@dataclass(frozen=True, slots=True)
class Solution:
    """A valid nonce, hashed again by independent code. ``value``: its hash or distance, <= the job's target."""

    nonce: int
    value: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a search. ``todo``: ranges left, in order. ``hashes``: nonces tested. ``elapsed``: seconds spent."""

    todo: tuple[NonceRange, ...]
    hashes: int = 0
    elapsed: float = 0.0


class Rates(msgspec.Struct, frozen=True):
    """Nonces a second. An average is None, in JSON null, until its window is full.

    ``current``: over the last 10 seconds, or since the start if that is less. ``highest``: the highest average over 10
    seconds.
    """

    current: float
    average_10s: float | None
    average_60s: float | None
    average_15m: float | None
    highest: float | None


def target_from_difficulty(difficulty: int) -> int:
    """Return the largest hash that is valid at ``difficulty`` (1 .. MAX): ``floor(MAX / difficulty) - 1``.

    The chain's rule is strict, ``hash < floor(MAX / difficulty)``. A target is itself valid.
    """
    if not 1 <= difficulty <= MAX:
        raise ValueError("a difficulty must be from 1 to 2^512 - 1")
    return MAX // difficulty - 1


def achieved_difficulty(value: int) -> int:
    """Return the difficulty that a hash of ``value`` achieves: ``floor(MAX / value)``, MAX for 0."""
    return MAX // value if value else MAX


def total_rates(parts: Iterable[Rates]) -> Rates:
    """Return the sum of rates, value by value. A value is None if it is None in one of them, or if there are none.

    The sum of the highest averages was not reached if they were at different times.
    """
    found = tuple(parts)

    def added(name: str) -> float | None:
        values = [getattr(rates, name) for rates in found]
        return sum(values) if values and None not in values else None

    averages = (added(name) for name in ("average_10s", "average_60s", "average_15m", "highest"))
    return Rates(sum(rates.current for rates in found), *averages)
