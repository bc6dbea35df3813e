"""The hub's stratum door."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

from quantus_miner.errors import SettingError
from quantus_miner.parts.part import HubPart
from quantus_miner.parts.ports import Port
from quantus_miner.web import server

if TYPE_CHECKING:
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")


class StratumDoor(Port, HubPart):
    """Serves stratum miners if a port is set. Sends the solutions that an earlier run has left."""

    name = "The stratum door"
    vital = True
    settings = frozenset(("stratum_share_time", "stratum_difficulty", "wallet"))

    async def start(self, settings: Settings) -> None:
        """Accept miners. Raises MinerError if the port is taken, or the certificate cannot be used."""
        self._use(settings)
        if settings.nats is None:
            store = self.components.store
            await asyncio.wrap_future(store.loaded)
            self.components.hub.outbox.restore(store.outbox)
        context = tls_context(settings)
        if settings.stratum_port is None:
            return
        sock = server.listen(settings.stratum_bind, settings.stratum_port, "--stratum-port")
        each = 2 if settings.pool else 1  # in a pool, a miner takes another connection
        most = max(1, self.connections("stratum_port", settings) // each)
        self.components.door.start(sock, context, max_sessions=most)
        log.info("Stratum miners can connect to %s%s", server.endpoint(sock), " with TLS" if context else "")

    def tick(self) -> None:
        """Send solutions again that wait, and adjust difficulties."""
        self.components.hub.tick()
        self.components.door.tick()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - all are set at once
        """Set difficulty and share time, for miners that log in from now on."""
        self._use(new)

    async def stop(self) -> None:
        """Disconnect all miners."""
        await self.components.door.close()

    def _use(self, settings: Settings) -> None:
        door = self.components.door
        door.share_time, door.difficulty = settings.stratum_share_time, settings.stratum_difficulty
        door.wallet = settings.wallet


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for TLS with the certificate of ``settings``, None without one. Raises SettingError."""
    if settings.stratum_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.stratum_cert, settings.stratum_key)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        what = reason or "it must hold a certificate and its private key, without a passphrase, in PEM form"
        raise SettingError(f"--stratum-cert: cannot use {settings.stratum_cert}: {what}") from None
    return context
