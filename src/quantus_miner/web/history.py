"""What the page's plots show: the hash rates and finds of the last hour and day, in steps. ``GET /history``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.events import ShareJudged, SolutionSent
from quantus_miner.model import Status
from quantus_miner.store.rows import StoredPoint
from quantus_miner.web.routes import error, json_reply
from quantus_miner.wire.api import encode
from quantus_miner.wire.history import MAX_ID, MAX_SERIES, HistoryReply, Point, PointMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from quantus_miner.events import Event
    from quantus_miner.mining.stats import HubStats, MinerStats
    from quantus_miner.monitor import Snapshot
    from quantus_miner.wire.history import SpanName

NODE: Final = "node "
"""How the names of nodes begin. A solution for one is a block; one for a pool is a share."""


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time that a plot shows: ``steps`` steps of ``step_s`` seconds."""

    step_s: int
    steps: int


SPANS: Final[Mapping[SpanName, Span]] = {"hour": Span(10, 360), "day": Span(300, 288)}


class Track:
    """The points of one span: those that have ended, and the one under way. It has no clock."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._ended: dict[int, Point] = {}  # by time, the last one written is the last
        self._open: Point | None = None

    def restore(self, points: Iterable[Point]) -> None:
        """Put ``points`` of an earlier run before all others."""
        current, self._ended = self._ended, {}
        for point in (*points, *current.values()):
            self._keep(point)

    def add(self, part: Point) -> Point | None:
        """Add what has happened until the time of ``part``. Return the point that has ended before, if one has."""
        start = part.time - part.time % self.span.step_s
        ended = self.close() if self._open is not None and self._open.time != start else None
        if self._open is None:
            self._open = Point(start)
        self._open.add(part)
        return ended

    def close(self) -> Point | None:
        """End the point under way, if there is one, and return it with what an earlier run knew of the same step."""
        point, self._open = self._open, None
        return None if point is None else self._keep(point)

    def points(self, now: float) -> list[Point]:
        """Return the points of the last ``steps`` steps until ``now`` in the order of time, with that under way."""
        known = dict(self._ended)
        if self._open is not None:
            known[self._open.time] = _sum(known.get(self._open.time), self._open)
        first = now - self.span.step_s * self.span.steps
        return [known[time] for time in sorted(known) if first < time <= now]

    def _keep(self, point: Point) -> Point:
        point = _sum(self._ended.pop(point.time, None), point)
        self._ended[point.time] = point
        # The oldest to be written, not of the oldest time: a clock that was wrong for a while removes nothing.
        while len(self._ended) > self.span.steps:
            del self._ended[next(iter(self._ended))]
        return point


class History:
    """Counts what the monitor reports into a track for each span. Owned by the event loop's thread.

    ``keep`` is called with each point that has ended, to store it, and ``publish`` to show it.
    """

    def __init__(self, keep: Callable[[StoredPoint], None], publish: Callable[[str, bytes], None]) -> None:
        self._keep = keep
        self._publish = publish
        self._tracks = {name: Track(span) for name, span in SPANS.items()}
        self._counts: dict[object, float] = {}  # of the last snapshot
        self._finds = Point(0)  # since the last snapshot

    def restore(self, stored: Iterable[StoredPoint]) -> None:
        """Add the points of earlier runs. Those that cannot be read are left out."""
        points: dict[int, list[Point]] = {}
        steps = [span.step_s for span in SPANS.values()]
        for step_s, time, body in stored:
            try:
                point = msgspec.json.decode(body, type=Point)
            except ValueError:
                continue
            if step_s in steps and point.time == time and time % step_s == 0:
                points.setdefault(step_s, []).append(point)
        for track in self._tracks.values():
            track.restore(points.get(track.span.step_s, ()))

    def on_event(self, event: Event) -> None:
        """Count a find."""
        if isinstance(event, ShareJudged):
            setattr(self._finds, event.judgement, getattr(self._finds, event.judgement) + 1)
        elif isinstance(event, SolutionSent) and event.source.startswith(NODE):
            self._finds.blocks += 1

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Count what has happened since the last snapshot."""
        if snapshot.miner is not None:
            part = self._since_last(snapshot, snapshot.miner)
        elif snapshot.hub is not None:
            part = self._since_last_of_hub(snapshot, snapshot.hub)
        else:
            return
        for name, track in self._tracks.items():
            if (ended := track.add(part)) is not None:
                self._keep(_stored(track, ended))
                self._publish("point", encode(PointMessage(name, ended)))

    def close(self) -> None:
        """End all points under way and have them stored."""
        for track in self._tracks.values():
            if (ended := track.close()) is not None:
                self._keep(_stored(track, ended))

    async def reply(self, request: Request, now: float) -> Response:
        """Return the reply to ``GET /history``."""
        asked = request.query_params.get("span", "hour")
        name = next((name for name in SPANS if name == asked), None)
        if name is None:
            return error(400, "", f"span must be {' or '.join(SPANS)}")
        span, points = SPANS[name], self._tracks[name].points(now)
        reply = HistoryReply(name, span.step_s, span.steps, now, points)
        # In a thread: with many workers it takes longer than a poll should wait. Points that have ended never change.
        return json_reply(200, await asyncio.to_thread(encode, reply), {"cache-control": "no-store"})

    def _since_last(self, snapshot: Snapshot, miner: MinerStats) -> Point:
        ended_jobs = snapshot.api.ended_jobs if snapshot.api else {}
        counts: dict[object, float] = {worker.key: worker.hashes for worker in miner.workers}
        counts["seconds"], counts["hashes"] = snapshot.uptime_s, miner.hashes
        counts["blocks"] = sum(count for (_, status), count in ended_jobs.items() if status == Status.COMPLETED)
        part, grown = self._part(snapshot, counts)
        part.blocks += grown("blocks")
        for worker in miner.workers:
            if worker.index < MAX_SERIES:
                part.workers[worker.index] = part.workers.get(worker.index, 0) + grown(worker.key)
            device = worker.device[:MAX_ID]
            if device in part.devices or len(part.devices) < MAX_SERIES:
                part.devices[device] = part.devices.get(device, 0) + grown(worker.key)
        return part

    def _since_last_of_hub(self, snapshot: Snapshot, hub: HubStats) -> Point:
        """As of a miner: what rigs have reported, and what the shares of stratum miners prove."""
        kinds: dict[object, float] = {
            "rigs": sum(rig.hashes for rig in hub.rigs),
            "stratum miners": sum(worker.work for worker in hub.workers),
        }
        counts = {**kinds, "seconds": snapshot.uptime_s, "hashes": sum(kinds.values())}
        part, grown = self._part(snapshot, counts)
        part.devices = {str(kind): grown(kind) for kind in kinds}
        return part

    def _part(self, snapshot: Snapshot, counts: dict[object, float]) -> tuple[Point, Callable[[object], int]]:
        """Return a point with what has happened since the last counts, and a function that says how one has grown."""
        before, self._counts = self._counts, counts

        def grown(key: object) -> int:
            return max(0, int(counts[key] - before.get(key, 0)))

        part, self._finds = self._finds, Point(0)
        part.time = int(snapshot.time)
        part.seconds = round(max(0.0, snapshot.uptime_s - before.get("seconds", 0.0)), 3)
        part.hashes = grown("hashes")
        return part, grown


def _sum(before: Point | None, point: Point) -> Point:
    """Return both as a new point."""
    total = Point(point.time)
    for part in filter(None, (before, point)):
        total.add(part)
    return total


def _stored(track: Track, point: Point) -> StoredPoint:
    return StoredPoint(track.span.step_s, point.time, encode(point))
