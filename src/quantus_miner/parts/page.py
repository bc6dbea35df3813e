"""The page of a miner, and the calls behind it."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from quantus_miner.parts.findings import examine
from quantus_miner.parts.live_page import LivePage
from quantus_miner.parts.part import MinerPart
from quantus_miner.unit import Host
from quantus_miner.web.doctor import Doctor
from quantus_miner.web.events import encode_event, message_of
from quantus_miner.web.page import INDEX
from quantus_miner.web.status import status_of
from quantus_miner.wire.api import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.events import Event
    from quantus_miner.monitor import Snapshot
    from quantus_miner.parts.part import MinerComponents
    from quantus_miner.settings import Settings
    from quantus_miner.wire.events import EventMessage, FindingMessage

RECENT: Final = 50
"""Events that a client gets when it connects. Solutions and shares are not among them."""


class WebPage(LivePage, MinerPart):
    """Shows a miner: its status, events and log, and what the doctor finds."""

    _settings: Settings
    """Those of ``start``, before which the page is off."""

    def __init__(self, components: MinerComponents) -> None:
        self._recent: deque[EventMessage] = deque(maxlen=RECENT)
        super().__init__(components, INDEX)
        self._page.add("/doctor", Doctor(self._examine).reply)

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        super()._use(settings)

    def _publish(self, snapshot: Snapshot) -> bool:
        self._streams.publish("status", encode(status_of(snapshot)))
        return True

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        message = message_of(event, time.time())
        if message.kind not in ("solution", "share"):
            self._recent.append(message)
        if self._streams:
            self._streams.publish("event", encode(message))

    def _begin(self, snapshot: Snapshot) -> bytes:
        events = (encode_event("event", encode(message)) for message in self._recent)
        return b"".join([encode_event("status", encode(status_of(snapshot))), *events])

    def _examine(self) -> Callable[[], list[FindingMessage]]:
        snapshot, settings = self.components.monitor.look(), self._settings
        return lambda: examine(Host(os.environ), settings, snapshot)
