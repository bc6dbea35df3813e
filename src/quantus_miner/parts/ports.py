"""What the parts that listen on a port share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quantus_miner.parts.live import count_links
from quantus_miner.parts.part import HubComponents, Part
from quantus_miner.web import server
from quantus_miner.web.line_server import MAX_CLIENTS

if TYPE_CHECKING:
    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings

GRACE_S: Final = 0.3
"""Seconds that requests under way may take when the service ends."""
MINER_PORTS: Final = {
    "port": server.MAX_CONNECTIONS,
    "metrics_port": server.MAX_SCRAPERS,
    "rig_port": server.MAX_SCRAPERS,
    "rig_claymore_port": MAX_CLIENTS,
    "rig_cgminer_port": MAX_CLIENTS,
}
HUB_PORTS: Final = {
    "stratum_port": server.MAX_SESSIONS,
    "port": server.MAX_WATCHERS,
    "metrics_port": server.MAX_SCRAPERS,
}
"""Connections that each port holds at once if there are enough file descriptors, by the name of its setting."""


class Port(Part):
    """A part that listens on a port."""

    def connections(self, name: str, settings: Settings) -> int:
        """Return how many connections the port of setting ``name`` can hold. Raises MachineError if there is no room.

        The file descriptors are shared among all ports that are set when the first of them starts.
        """
        shares = self.components.connections
        if not shares:
            table = HUB_PORTS if isinstance(self.components, HubComponents) else MINER_PORTS
            ports = {port: most for port, most in table.items() if getattr(settings, port) is not None}
            shares.update(server.share_connections(count_links(settings), ports))
        return shares[name]


class HttpPort(Port):
    """A part that serves one application on one port."""

    settings = frozenset(("allowed_hosts",))

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        self._server: server.Server | None = None
        self._address = ""
        self._serving: asyncio.Task[None] | None = None

    async def serve(self, new: server.Server, address: str, settings: Settings) -> None:
        """Start ``new`` and return once it accepts connections on ``address``. Raises the error if it cannot."""
        self._server, self._address = new, address
        self._use(settings)
        self._serving = asyncio.create_task(new.run_until_stopped())
        ready = asyncio.create_task(new.ready.wait())
        await asyncio.wait((ready, self._serving), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            self._serving.result()

    async def run(self) -> None:
        """Serve until stopped, or do nothing without a port."""
        await (super().run() if self._serving is None else asyncio.shield(self._serving))

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - what changes is set as a whole
        """Set the allowed host names, and for the job API the token."""
        self._use(new)

    def _use(self, settings: Settings) -> None:
        if self._server is not None:
            self._server.names = server.host_names(self._address) | frozenset(settings.allowed_hosts or ())

    async def stop(self) -> None:
        """Stop accepting connections, and give the requests under way GRACE_S seconds."""
        if self._server is None or self._serving is None:
            return
        self._server.stop(GRACE_S)
        await asyncio.wait((self._serving,), timeout=2 * GRACE_S)
        self._serving.cancel()
