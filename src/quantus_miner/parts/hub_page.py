"""The page of a hub, and the calls behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.parts.live_page import LivePage
from quantus_miner.parts.part import HubPart
from quantus_miner.web.events import encode_event
from quantus_miner.web.hub_status import hub_status, rig_status, worker_status
from quantus_miner.web.page import HUB_INDEX
from quantus_miner.wire.api import encode
from quantus_miner.wire.hub_status import MAX_MINERS, MinersMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.mining.stats import HubStats, HubWorkerStats, RigStats
    from quantus_miner.monitor import Snapshot
    from quantus_miner.parts.part import HubComponents
    from quantus_miner.wire.hub_status import MinerStatus

Mark = tuple[object, ...]
MAX_CHANGES: Final = 500
"""Miners whose changes are sent in one second. The others follow."""


class HubPage(LivePage, HubPart):
    """Shows a hub: its status, miners and log, and the commands to its rigs."""

    def __init__(self, components: HubComponents) -> None:
        self._changes = Changes()
        super().__init__(components, HUB_INDEX)
        components.control.on_command = lambda entry: self._streams.publish("command", encode(entry))

    def _publish(self, snapshot: Snapshot) -> bool:
        if snapshot.hub is None:
            return False
        self._streams.publish("status", encode(hub_status(snapshot, snapshot.hub, miners=False)))
        if message := self._changes.since_last(snapshot.hub, snapshot.time):
            self._streams.publish("miners", encode(message))
        return True

    def _begin(self, snapshot: Snapshot) -> bytes:
        """See ``LivePage``. A client asks for the miners and the commands itself."""
        if snapshot.hub is None:
            return b""
        return encode_event("status", encode(hub_status(snapshot, snapshot.hub, miners=False)))


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
