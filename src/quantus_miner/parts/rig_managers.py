"""The parts that serve rig managers on ports of their own. Each does nothing if its port is not set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from quantus_miner.parts.part import MinerPart, Part
from quantus_miner.parts.ports import HttpPort, Port
from quantus_miner.web import server
from quantus_miner.web.line_server import LineServer
from quantus_miner.web.status import status_of
from quantus_miner.wire import cgminer, claymore

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings
    from quantus_miner.wire.status import Status

log = logging.getLogger("miner")


class RigApiServer(HttpPort, MinerPart):
    """The calls of rig managers over HTTP, without the job API."""

    name = "The rig API"

    async def start(self, settings: Settings) -> None:
        """Accept requests. Raises MinerError if the port is taken."""
        if settings.rig_port is None:
            return
        most = self.connections("rig_port", settings)
        sock = server.listen(settings.rig_bind, settings.rig_port, "--rig-port")
        log.info("Starting rig API on %s", server.endpoint(sock))
        await self.serve(server.Server(self.components.rig_routes, sock, most), settings.rig_bind, settings)


class _LinePort(Port):
    """A protocol of one request a connection. ``port``: name of the setting. ``title``: of the protocol."""

    port: ClassVar[str]
    title: ClassVar[str]
    answer: ClassVar[Callable[[bytes, Status], bytes]]

    def __init__(self, components: Components) -> None:
        super().__init__(components)
        self._server: LineServer | None = None

    async def start(self, settings: Settings) -> None:
        """Listen. Raises MinerError if the port is taken."""
        port: int | None = getattr(settings, self.port)
        if port is None:
            return
        most = self.connections(self.port, settings)
        sock = server.listen(settings.rig_bind, port, f"--{self.port.replace('_', '-')}")
        self._server = LineServer(sock, most, self._reply)
        log.info("Starting %s API on %s", self.title, server.endpoint(sock))

    async def run(self) -> None:
        """Serve until stopped, or do nothing without a port."""
        await (Part.run(self) if self._server is None else self._server.run())

    async def stop(self) -> None:
        """Stop accepting connections and close those that are open."""
        if self._server is not None:
            self._server.close()

    def _reply(self, request: bytes) -> bytes:
        return type(self).answer(request, status_of(self.components.monitor.look()))


class ClaymorePort(_LinePort):
    """Claymore's monitoring protocol."""

    name = "The Claymore API"
    port = "rig_claymore_port"
    title = "Claymore"
    answer = claymore.answer


class CgminerPort(_LinePort):
    """cgminer's API, for reading."""

    name = "The cgminer API"
    port = "rig_cgminer_port"
    title = "cgminer"
    answer = cgminer.answer
