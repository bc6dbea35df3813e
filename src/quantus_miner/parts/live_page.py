"""The page at ``/`` of the API's port, which a miner and a hub fill differently."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from quantus_miner import logs
from quantus_miner.parts.part import Part
from quantus_miner.web.events import MAX_STREAMS, Streams, encode_event
from quantus_miner.web.history import History
from quantus_miner.web.page import Page
from quantus_miner.wire.api import encode
from quantus_miner.wire.events import LogMessage

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from quantus_miner.events import Event
    from quantus_miner.monitor import Snapshot
    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings

STREAM_SHARE: Final = 8
"""At most one of so many connections of the API may be a stream of events."""


class LivePage(Part):
    """Serves the page while ``page`` is on, and keeps the history that it shows.

    Subclasses say what /events sends. ``index``: name of the page's file.
    """

    name = "The page"
    settings = frozenset(("page",))

    def __init__(self, components: Components, index: str) -> None:
        super().__init__(components)
        self._streams = Streams(self._first)
        self._history = History(components.store.keep_point, self._streams.publish)
        self._seen = 0  # number of the last line of the log that was sent
        self._page = Page(components.routes, index)
        self._page.on = False
        self._page.add("/events", self._streams.reply)
        self._page.add("/history", self._reply_history)
        components.monitor.subscribe("page", on_snapshot=self._on_snapshot, on_event=self._on_event)

    async def start(self, settings: Settings) -> None:
        """Restore the history of earlier runs, and serve the page if it is on."""
        store = self.components.store
        await asyncio.wrap_future(store.loaded)
        # Only once, also if this part is started again.
        earlier, store.earlier_points = store.earlier_points, []
        self._history.restore(earlier)
        self._streams.most = max(1, min(MAX_STREAMS, self.components.connections["port"] // STREAM_SHARE))
        self._use(settings)

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - what changes is set as a whole
        """Switch the page on or off."""
        self._use(new)

    async def stop(self) -> None:
        """End the streams, which would keep the port from closing, and store the history until now."""
        self._page.on = False
        self._streams.close()
        self._history.close()

    def _use(self, settings: Settings) -> None:
        self._page.on = settings.page == "on"
        (self._streams.open if self._page.on else self._streams.close)()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        self._history.on_snapshot(snapshot)
        lines = logs.tail(self._seen)
        self._seen = lines[-1][0] if lines else self._seen
        if self._streams and self._publish(snapshot) and lines:
            self._streams.publish("log", _encode_lines(lines))

    def _on_event(self, event: Event) -> None:
        self._history.on_event(event)

    def _publish(self, snapshot: Snapshot) -> bool:
        """Send all clients what is new in ``snapshot``. Return False if there is nothing to send, also no log."""
        raise NotImplementedError

    def _begin(self, snapshot: Snapshot) -> bytes:
        """Return what a client gets that has just connected, apart from the log."""
        raise NotImplementedError

    def _first(self) -> bytes:
        lines = [line for line in logs.tail() if line[0] <= self._seen]
        return self._begin(self.components.monitor.look()) + encode_event("log", _encode_lines(lines))

    async def _reply_history(self, request: Request) -> Response:
        return await self._history.reply(request, time.time())


def _encode_lines(lines: list[tuple[int, str]]) -> bytes:
    return encode(LogMessage([text for _, text in lines]))
