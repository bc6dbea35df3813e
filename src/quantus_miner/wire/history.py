"""The messages of /history and of the points in /events."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

SpanName = Literal["hour", "day"]
Key = TypeVar("Key", str, int)

MAX_SERIES: Final = 64
"""Devices, and workers, that have a rate of their own in the history. The total counts all."""
MAX_SUMMED_SERIES: Final = 4 * MAX_SERIES
"""The most in a point that sums up others, between which devices came and went."""
MAX_ID: Final = 64
"""Characters of a device's id in the history."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A count below 2^63, which a damaged file may not exceed."""


class Point(msgspec.Struct, omit_defaults=True):
    """What happened in one step of time. A rate is ``hashes / seconds``. Counts of 0 are left out.

    ``time``: start of the step, in seconds since 1970. ``seconds``: for how long the miner ran in it. ``devices``:
    hashes by device id. ``workers``: hashes by worker number. ``blocks``: solutions for nodes and for jobs of the API.
    ``accepted``, ``rejected``, ``stale``: shares that pools judged so.
    """

    time: int
    seconds: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    hashes: Count = 0
    devices: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=MAX_ID)], Count], msgspec.Meta(max_length=MAX_SUMMED_SERIES)
    ] = {}
    workers: Annotated[dict[int, Count], msgspec.Meta(max_length=MAX_SUMMED_SERIES)] = {}
    blocks: Count = 0
    accepted: Count = 0
    rejected: Count = 0
    stale: Count = 0

    def add(self, other: Point) -> None:
        """Add what happened in ``other``, whatever its time."""
        self.seconds += other.seconds
        self.hashes += other.hashes
        self.devices = _sum(self.devices, other.devices)
        self.workers = _sum(self.workers, other.workers)
        self.blocks += other.blocks
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.stale += other.stale


class HistoryReply(msgspec.Struct):
    """The last ``steps`` steps of ``step_seconds`` until ``time``; steps in which the miner was off are left out."""

    span: SpanName
    step_seconds: int
    steps: int
    time: float
    points: list[Point]


class PointMessage(msgspec.Struct):
    """A step of ``span`` that has ended."""

    span: SpanName
    point: Point


def _sum(one: dict[Key, int], other: dict[Key, int]) -> dict[Key, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}
