"""``GET /events``: the status once a second, events, new points of the plots and lines of the log, as they come.

These are server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): ``event: NAME`` and
``data: JSON``, each in a line, then an empty line.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.responses import Response, StreamingResponse

from quantus_miner.events import (
    DeviceChanged,
    JobEnded,
    PauseChanged,
    SettingsChanged,
    ShareJudged,
    SolutionSent,
    SolutionUnsent,
    SourceChanged,
)
from quantus_miner.web.routes import error
from quantus_miner.wire.events import EventMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from quantus_miner.events import Event

MAX_STREAMS: Final = 16
"""Clients that may read events at once."""
MAX_QUEUED: Final = 1_000_000
"""Bytes that wait for a client. One that is further behind is disconnected."""
RETRY_MS: Final = 2_000
"""Milliseconds after which a browser connects again."""
HEADERS: Final = {"cache-control": "no-store", "connection": "close", "x-accel-buffering": "no"}


class Streams:
    """The clients that read events. Owned by the event loop's thread.

    ``first`` returns what a new client gets at once. ``most``: clients at a time; may change.
    """

    def __init__(self, first: Callable[[], bytes]) -> None:
        self.most = MAX_STREAMS
        self._first = first
        self._streams: set[_Stream] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._streams)

    def publish(self, name: str, data: bytes) -> None:
        """Send an event to all clients. ``data``: JSON without line ends."""
        chunk = encode_event(name, data)
        for stream in self._streams:
            stream.put(chunk)

    def open(self) -> None:
        """Accept clients, which a new object does."""
        self._closed = False

    def close(self) -> None:
        """End all streams and accept no new ones."""
        self._closed = True
        for stream in self._streams:
            stream.end()

    async def reply(self, request: Request) -> Response:
        """Return the reply to ``GET /events``."""
        if request.method == "HEAD":
            return Response(None, headers=HEADERS, media_type="text/event-stream")
        if self._closed:
            return error(503, "", "the miner is shutting down", {"connection": "close"})
        if len(self._streams) >= self.most:
            message = "too many clients read events; close a page of this miner"
            return error(503, "", message, {"connection": "close"})
        stream = _Stream()
        stream.put(b"retry: %d\n\n" % RETRY_MS + self._first())
        return _Reply(stream, self._streams)


class _Stream:
    """What waits for one client."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > MAX_QUEUED:
            self.end()
        if not self._ended:
            self._chunks.append(chunk)
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._chunks.clear()
        self._changed.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield what comes until the end."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._ended:
                return
            chunks, self._chunks, self._size = self._chunks, [], 0
            yield b"".join(chunks)


class _Reply(StreamingResponse):
    """A reply with a stream, which is one of ``streams`` until it ends, however it does."""

    def __init__(self, stream: _Stream, streams: set[_Stream]) -> None:
        super().__init__(stream.read(), headers=HEADERS, media_type="text/event-stream")
        self._stream = stream
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.add(self._stream)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.discard(self._stream)


def encode_event(name: str, data: bytes) -> bytes:
    """Return a server-sent event. ``data``: JSON without line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def message_of(event: Event, time: float) -> EventMessage:
    """Return an event as it is sent. ``time``: seconds since 1970."""
    match event:
        case SolutionSent(source, job):
            return EventMessage(time, "solution", source, "sent", f"job {job.id}")
        case SolutionUnsent(source, job):
            return EventMessage(time, "solution", source, "too late", f"job {job.id}")
        case ShareJudged(source, _, judgement, reason, _, latency_s):
            return EventMessage(time, "share", source, judgement, reason or f"{1000 * latency_s:.0f} ms")
        case SourceChanged(source, state, reason):
            what = {"mined": "in use", "idle": "no longer in use"}.get(state, state)
            return EventMessage(time, "source", source, what, reason)
        case DeviceChanged(device, _, up, reason):
            return EventMessage(time, "device", device, "back" if up else "lost", reason)
        case PauseChanged(device, paused, reason):
            return EventMessage(time, "pause", device or "all devices", "paused" if paused else "resumed", reason)
        case JobEnded(job_id, _, status):
            return EventMessage(time, "job", job_id, status)
        case SettingsChanged(names):
            return EventMessage(time, "settings", ", ".join(names), "changed")
