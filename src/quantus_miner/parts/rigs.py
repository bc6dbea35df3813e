"""The hub's rigs: the NATS server, and what is said on it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import MinerError
from quantus_miner.hub.nats_server import NatsServer
from quantus_miner.hub.roster import Roster, new_key
from quantus_miner.hub.tags import Tags
from quantus_miner.parts.part import HubPart
from quantus_miner.sources import nats
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from quantus_miner.parts.part import HubComponents
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - any address, and where the hub connects to it itself


class RigServer(HubPart):
    """Serves rigs if a port is set. Applies invitations and tags, and has rigs restarted that are silent."""

    name = "The rig server"
    settings = frozenset(("restart_silent_rigs",))

    def __init__(self, components: HubComponents) -> None:
        super().__init__(components)
        self._server: NatsServer | None = None
        self._roster: Roster | None = None
        self._seed = ""
        self._host = ""
        self._port = 0
        self._locked_out: frozenset[str] = frozenset()
        self._tags: Tags | None = None
        self._stamp = (0, 0)
        self._silent_minutes: int | None = None

    async def start(self, settings: Settings) -> None:
        """Start the NATS server. Raises MinerError if it does not start."""
        control, roster = self.components.control, Roster(settings.state_dir)
        tags = Tags(roster.folder)
        control.load()
        self._stamp, self._silent_minutes = (roster.stamp(), tags.stamp()), settings.restart_silent_rigs
        self._roster, self._tags = roster, tags
        if settings.nats_port is None:
            control.invite(None, tags.load())
            return
        self._seed, key = new_key()
        self._host = ANY.get(settings.nats_bind, settings.nats_bind)
        certificate = roster.certificate()
        rigs = roster.load()
        control.invite(rigs, tags.load())
        # A server that starts again has the port of the one before, where rigs look for it.
        port = settings.nats_port or self._port
        self._server = NatsServer(roster.folder, certificate, settings.nats_bind, port, key)
        self._locked_out = self.components.rigs.locked_out()
        await self._server.start(self._admitted(rigs))
        self._port = self._server.port
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
        """Apply invitations and tags of other processes. Lock out rigs that send too much, restart silent ones."""
        if self._roster is None or self._tags is None:
            return
        if self._silent_minutes is not None:
            self.components.control.restart_silent(60 * self._silent_minutes)
        stamp, locked_out = (self._roster.stamp(), self._tags.stamp()), self.components.rigs.locked_out()
        if (stamp, locked_out) == (self._stamp, self._locked_out):
            return
        admits = (stamp[0], locked_out) != (self._stamp[0], self._locked_out)
        invited_anew = stamp[0] != self._stamp[0]
        self._stamp, self._locked_out = stamp, locked_out
        try:
            tags = self._tags.load()
            if self._server is None:
                self.components.control.invite(None, tags)
                return
            rigs = self._roster.load()
            if admits:
                self._server.reload(self._admitted(rigs))
        except MinerError as error:
            log.error("The rigs stay as they are: %s", error)  # noqa: TRY400 - of the user
            return
        self.components.control.invite(rigs, tags)
        if invited_anew:
            log.info("%d rigs are invited", len(rigs))

    def _admitted(self, rigs: dict[str, str]) -> dict[str, str]:
        return {name: key for name, key in rigs.items() if name not in self._locked_out}

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - one setting
        """Set after how long silent rigs are restarted."""
        self._silent_minutes = new.restart_silent_rigs

    async def stop(self) -> None:
        """End the NATS server."""
        if self._server is not None:
            await self._server.stop()
            self._server = None


async def _on_error(error: Exception) -> None:
    log.debug("NATS: %s", error)
