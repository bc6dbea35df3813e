"""The messages of /history and of the points in /events."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

SpanName = Literal["hour", "day"]
Key = TypeVar("Key", str, int)


class Point(msgspec.Struct, omit_defaults=True):
    """What happened in one step of time. A rate is ``hashes / seconds``; a field that is 0 or empty is left out.

    ``time``: start of the step, in seconds since 1970. ``seconds``: for how long the miner ran in it. ``devices``:
    hashes by device id. ``workers``: hashes by worker number. ``blocks``: solutions for nodes and for jobs of the API.
    ``accepted``, ``rejected``, ``stale``: shares that pools judged so.
    """

    time: int
    seconds: float = 0.0
    hashes: int = 0
    devices: dict[str, int] = {}
    workers: dict[int, int] = {}
    blocks: int = 0
    accepted: int = 0
    rejected: int = 0
    stale: int = 0

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
