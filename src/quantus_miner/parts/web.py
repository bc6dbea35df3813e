"""The parts that serve HTTP: the job list, the job API and the metrics exporter."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from quantus_miner.parts.live import PRIORITIES
from quantus_miner.parts.part import MinerPart
from quantus_miner.parts.ports import HttpPort
from quantus_miner.web import control, metrics, server

if TYPE_CHECKING:
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")


class JobList(MinerPart):
    """The jobs that come over HTTP."""

    name = "The job list"
    vital = True
    settings = frozenset(("job_expiry_s", "priority"))

    async def start(self, settings: Settings) -> None:
        """Restore the jobs of the last run."""
        self._use(settings)
        earlier = await asyncio.wrap_future(self.components.store.loaded)
        self.components.jobs.restore(earlier)

    def tick(self) -> None:
        """Cancel, forget and save jobs as time passes."""
        self.components.jobs.tick()

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - both are set at once
        """Set the expiry and the priority of jobs."""
        self._use(new)

    async def stop(self) -> None:
        """Save the jobs."""
        self.components.jobs.save()

    def _use(self, settings: Settings) -> None:
        self.components.jobs.expiry_s = settings.job_expiry_s
        self.components.jobs.prioritize(PRIORITIES[settings.priority][1])


class ApiServer(HttpPort):
    """The API at ``bind`` and ``port``."""

    vital = True
    settings = HttpPort.settings | {"api_token"}

    async def start(self, settings: Settings) -> None:
        """Accept requests. Raises MinerError if the port is taken, or too few file descriptors are left."""
        self.components.access.own_token = control.create_token(settings.state_dir)
        most = self.connections("port", settings)
        sock = server.listen(settings.bind, settings.port, "--port")
        await self.serve(server.Server(self.components.routes, sock, most), settings.bind, settings)
        log.info("Server starting on %s", server.endpoint(sock))

    def _use(self, settings: Settings) -> None:
        super()._use(settings)
        self.components.access.token = settings.api_token


class JobServer(ApiServer, MinerPart):
    """The job API."""

    name = "The job API"

    async def start(self, settings: Settings) -> None:
        """Accept jobs."""
        await super().start(settings)
        self.components.api.accepting = True

    async def stop(self) -> None:
        """Refuse new jobs, then stop."""
        self.components.api.accepting = False
        await super().stop()

    def _use(self, settings: Settings) -> None:
        super()._use(settings)
        bind = settings.bind
        if not bind.startswith("127.") and bind != "::1" and settings.api_token is None:
            log.warning("The job API listens on %s without --api-token: anyone who reaches it can use it", bind)


class HubServer(ApiServer):
    """The hub's API."""

    name = "The hub's API"


class Exporter(HttpPort):
    """The Prometheus exporter. It does nothing if no port is set."""

    name = "The metrics exporter"

    async def start(self, settings: Settings) -> None:
        """Accept scrapes. Raises MinerError if the port is taken."""
        if settings.metrics_port is None:
            log.info("Metrics disabled (no --metrics-port provided)")
            return
        most = self.connections("metrics_port", settings)
        sock = server.listen(settings.metrics_bind, settings.metrics_port, "--metrics-port")
        app = metrics.create_app(self.components.monitor.look)
        log.info("Starting metrics endpoint on %s", server.endpoint(sock))
        await self.serve(server.Server(app, sock, most), settings.metrics_bind, settings)
