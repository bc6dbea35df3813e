"""The page of a hub, at ``/`` of its API's port, and the calls behind it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from quantus_miner import logs
from quantus_miner.parts.part import HubPart
from quantus_miner.web.events import MAX_STREAMS, Streams, encode_event
from quantus_miner.web.history import History
from quantus_miner.web.hub_status import hub_status, rig_status, worker_status
from quantus_miner.web.page import HUB_INDEX, Page
from quantus_miner.wire.api import encode
from quantus_miner.wire.events import LogMessage
from quantus_miner.wire.hub_status import MAX_MINERS, MinersMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from quantus_miner.mining.stats import HubStats, HubWorkerStats, RigStats
    from quantus_miner.monitor import Snapshot
    from quantus_miner.parts.part import HubComponents
    from quantus_miner.settings import Settings
    from quantus_miner.wire.hub_status import MinerStatus

Mark = tuple[object, ...]
STREAM_SHARE: Final = 8
"""At most one of so many connections of the API may be a stream of events."""
MAX_CHANGES: Final = 500
"""Miners whose changes are sent in one second. The others follow."""


class HubPage(HubPart):
    """Serves the page while ``page`` is on, and keeps the history that it shows."""

    name = "The page"
    settings = frozenset(("page",))

    def __init__(self, components: HubComponents) -> None:
        super().__init__(components)
        self._streams = Streams(self._first)
        self._history = History(components.store.keep_point, self._streams.publish)
        self._changes = Changes()
        self._seen = 0  # number of the last line of the log that was sent
        self._page = Page(components.routes, HUB_INDEX)
        self._page.on = False
        self._page.add("/events", self._streams.reply)
        self._page.add("/history", self._reply_history)
        components.control.on_command = lambda entry: self._streams.publish("command", encode(entry))
        components.monitor.subscribe("page", on_snapshot=self._on_snapshot, on_event=self._history.on_event)

    async def start(self, settings: Settings) -> None:
        """Restore the history of earlier runs, and serve the page if it is on."""
        store = self.components.store
        await asyncio.wrap_future(store.loaded)
        # Only once, also if this part is started again.
        earlier, store.earlier_points = store.earlier_points, []
        self._history.restore(earlier)
        self._streams.most = max(1, min(MAX_STREAMS, self.components.connections["port"] // STREAM_SHARE))
        self._use(settings)

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - one setting
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
        if not self._streams or snapshot.hub is None:
            return
        self._streams.publish("status", encode(hub_status(snapshot, snapshot.hub, miners=False)))
        if message := self._changes.since_last(snapshot.hub, snapshot.time):
            self._streams.publish("miners", encode(message))
        if lines:
            self._streams.publish("log", _encode_lines(lines))

    def _first(self) -> bytes:
        """Return what a client gets that has just connected. It asks for the miners and the commands itself."""
        lines = [line for line in logs.tail() if line[0] <= self._seen]
        snapshot, log = self.components.monitor.look(), encode_event("log", _encode_lines(lines))
        if snapshot.hub is None:
            return log
        return encode_event("status", encode(hub_status(snapshot, snapshot.hub, miners=False))) + log

    async def _reply_history(self, request: Request) -> Response:
        return await self._history.reply(request, time.time())


class Changes:
    """What has changed of the miners since the page was last told."""

    def __init__(self) -> None:
        self._told: dict[str, Mark] = {}  # by when they were told, those of long ago first

    def since_last(self, hub: HubStats, time: float) -> MinersMessage | None:
        """Return up to MAX_CHANGES miners that have changed, and all that are gone. None if nothing has changed.

        Those that were told last come last the next time.
        """
        now = dict(_marks(hub))
        gone = [key for key in self._told if key not in now]
        for key in gone:
            del self._told[key]
        turns = {key: turn for turn, key in enumerate(self._told)}
        changed = sorted((key for key in now if self._told.get(key) != now[key]), key=lambda key: turns.get(key, -1))
        if not changed and not gone:
            return None
        rigs = {f"rig/{rig.name}": rig for rig in hub.rigs[:MAX_MINERS]}
        workers = {f"stratum/{worker.name}": worker for worker in hub.workers}
        told: list[MinerStatus] = []
        for key in changed[:MAX_CHANGES]:
            self._told.pop(key, None)
            self._told[key] = now[key]
            told.append(rig_status(rigs[key], time) if key in rigs else worker_status(workers[key], time))
        return MinersMessage(told, gone)


def _marks(hub: HubStats) -> Iterator[tuple[str, Mark]]:
    for rig in hub.rigs[:MAX_MINERS]:
        yield f"rig/{rig.name}", _mark_of_rig(rig)
    for worker in hub.workers[: max(0, MAX_MINERS - len(hub.rigs))]:
        yield f"stratum/{worker.name}", _mark_of_worker(worker)


def _mark_of_rig(rig: RigStats) -> Mark:
    """Return what differs if the rig has changed. No two reports are equal, because time passes between them."""
    return rig.status, rig.online, rig.aside, rig.waits, rig.kept, rig.stale, rig.invalid, tuple(rig.tags)


def _mark_of_worker(worker: HubWorkerStats) -> Mark:
    rate = f"{worker.proven_rate:.2g}"
    return worker.connections, worker.difficulty, worker.accepted, worker.stale, worker.rejected, rate


def _encode_lines(lines: list[tuple[int, str]]) -> bytes:
    return encode(LogMessage([text for _, text in lines]))
