"""``GET /doctor``: what the running service finds at itself."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from quantus_miner.host.deadline import in_thread
from quantus_miner.web.routes import json_reply
from quantus_miner.wire.api import encode
from quantus_miner.wire.events import DoctorReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from quantus_miner.wire.events import FindingMessage

MAX_AGE_S: Final = 10.0
"""Seconds for which findings are used again, however often someone asks."""


class Doctor:
    """Runs ``prepare`` on the event loop and what it returns, which examines, in a thread: one at a time."""

    def __init__(self, prepare: Callable[[], Callable[[], list[FindingMessage]]]) -> None:
        self._prepare = prepare
        self._last: asyncio.Task[bytes] | None = None
        self._begun = 0.0

    async def reply(self, _: Request) -> Response:
        """Return the reply to ``GET /doctor``."""
        now = time.monotonic()
        failed = self._last is not None and self._last.done() and self._last.exception() is not None
        if self._last is None or failed or (self._last.done() and now > self._begun + MAX_AGE_S):
            self._begun, self._last = now, asyncio.create_task(self._examine(self._prepare()))
        return json_reply(200, await asyncio.shield(self._last), {"cache-control": "no-store"})

    async def _examine(self, examine: Callable[[], list[FindingMessage]]) -> bytes:
        return encode(DoctorReply(time.time(), await in_thread(examine)))
