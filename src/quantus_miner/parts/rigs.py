"""The hub's rigs: the NATS server, and what is said on it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import MinerError
from quantus_miner.hub.nats_server import NatsServer
from quantus_miner.hub.roster import Roster, new_key
from quantus_miner.parts.part import HubPart
from quantus_miner.sources import nats
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from quantus_miner.parts.part import HubComponents
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - any address, and where the hub connects to it itself


class RigServer(HubPart):
    """Serves rigs. Does nothing if no port is set."""

    name = "The rig server"

    def __init__(self, components: HubComponents) -> None:
        super().__init__(components)
        self._server: NatsServer | None = None
        self._roster: Roster | None = None
        self._seed = ""
        self._host = ""
        self._port = 0
        self._stamp = 0
        self._locked_out: frozenset[str] = frozenset()

    async def start(self, settings: Settings) -> None:
        """Start the NATS server. Raises MinerError if it does not start."""
        if settings.nats_port is None:
            return
        self._roster = roster = Roster(settings.state_dir)
        self._seed, key = new_key()
        self._host = ANY.get(settings.nats_bind, settings.nats_bind)
        certificate = roster.certificate()
        self._stamp, rigs = roster.stamp(), roster.load()
        # A server that starts again has the port of the one before, where rigs look for it.
        port = settings.nats_port or self._port
        self._server = NatsServer(roster.folder, certificate, settings.nats_bind, port, key)
        self._locked_out = self.components.rigs.locked_out()
        await self._server.start(self._admitted(rigs))
        self._port = self._server.port
        self.components.rigs.invite(rigs)
        text = "Rigs can connect to port %d of %s; %d are invited"
        log.info(text, self._server.port, settings.nats_bind, len(rigs))

    async def run(self) -> None:
        """Serve rigs until the server ends. It is started again then."""
        if self._server is None or self._roster is None:
            await super().run()
            return
        closed = asyncio.Event()

        async def on_end() -> None:
            closed.set()

        certificate = self._roster.certificate().read_text(encoding="ascii").partition("-----BEGIN PRIVATE")[0]
        client = await nats.connect(
            (self._host, self._server.port),
            nats.trusting(certificate),
            seed=self._seed,
            inbox=f"{fleet.INBOX}.{fleet.HUB_INBOX}",
            on_error=_on_error,
            on_end=on_end,
        )
        tasks = [
            asyncio.create_task(self.components.rigs.serve(client), name="rigs"),
            asyncio.create_task(closed.wait()),
            asyncio.create_task(self._server.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await nats.close(client)

    def tick(self) -> None:
        """Apply invitations and revocations of other processes, and lock out rigs that send too much."""
        if self._server is None or self._roster is None:
            return
        stamp, locked_out = self._roster.stamp(), self.components.rigs.locked_out()
        if (stamp, locked_out) == (self._stamp, self._locked_out):
            return
        invited_anew = stamp != self._stamp
        self._stamp, self._locked_out = stamp, locked_out
        try:
            rigs = self._roster.load()
            self._server.reload(self._admitted(rigs))
        except MinerError as error:
            log.error("The rigs stay as they are: %s", error)  # noqa: TRY400 - of the user
            return
        self.components.rigs.invite(rigs)
        if invited_anew:
            log.info("%d rigs are invited", len(rigs))

    def _admitted(self, rigs: dict[str, str]) -> dict[str, str]:
        return {name: key for name, key in rigs.items() if name not in self._locked_out}

    async def stop(self) -> None:
        """End the NATS server."""
        if self._server is not None:
            await self._server.stop()
            self._server = None


async def _on_error(error: Exception) -> None:
    log.debug("NATS: %s", error)
