"""The parts that serve HTTP: the job list, the job API and the metrics exporter."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from quantus_miner.parts.live import PRIORITIES, count_links
from quantus_miner.parts.part import MinerPart, Part
from quantus_miner.web import control, metrics, server

if TYPE_CHECKING:
    from quantus_miner.parts.part import Components
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

GRACE_S: Final = 0.3
"""Seconds that requests under way may take when the service ends."""


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


class _Port(Part):
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
        """Serve until stopped."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

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


class JobServer(_Port, MinerPart):
    """The job API."""

    name = "The job API"
    vital = True
    settings = _Port.settings | {"api_token"}

    async def start(self, settings: Settings) -> None:
        """Accept requests. Raises MinerError if the port is taken, or too few file descriptors are left."""
        api, access = self.components.api, self.components.access
        access.own_token = control.create_token(settings.state_dir)
        sock = server.listen(settings.bind, settings.port, "--port")
        (most,) = server.share_connections(count_links(settings), 1, self.components.exporter_files)
        await self.serve(server.Server(self.components.routes, sock, most), settings.bind, settings)
        api.accepting = True
        log.info("Server starting on %s", server.endpoint(sock))

    async def stop(self) -> None:
        """Refuse new jobs, then stop."""
        self.components.api.accepting = False
        await super().stop()

    def _use(self, settings: Settings) -> None:
        super()._use(settings)
        self.components.access.token = settings.api_token
        bind = settings.bind
        if not bind.startswith("127.") and bind != "::1" and settings.api_token is None:
            log.warning("The job API listens on %s without --api-token: anyone who reaches it can use it", bind)


class Exporter(_Port):
    """The Prometheus exporter. It does nothing if no port is set."""

    name = "The metrics exporter"

    async def start(self, settings: Settings) -> None:
        """Accept scrapes. Raises MinerError if the port is taken."""
        if settings.metrics_port is None:
            log.info("Metrics disabled (no --metrics-port provided)")
            return
        sock = server.listen(settings.metrics_bind, settings.metrics_port, "--metrics-port")
        # Reserve one file descriptor for the job API, which begins to listen later.
        _, most = server.share_connections(count_links(settings), 2, 1)
        self.components.exporter_files = most + 1
        app = metrics.create_app(self.components.monitor.look)
        log.info("Starting metrics endpoint on %s", server.endpoint(sock))
        await self.serve(server.Server(app, sock, most), settings.metrics_bind, settings)

    async def run(self) -> None:
        """Serve until stopped, or do nothing without a port."""
        await (super().run() if self._serving is not None else Part.run(self))
