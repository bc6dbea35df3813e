"""The hub on a cluster of NATS servers: it leads, or stands by until it can."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.errors import LinkLostError, SettingError, printable
from quantus_miner.hub import cluster
from quantus_miner.hub.cluster import boot_time
from quantus_miner.hub.lease import LOOK_S, RENEW_S, VALID_S
from quantus_miner.hub.roster import Roster
from quantus_miner.parts.part import HubPart
from quantus_miner.sources import nats
from quantus_miner.sources.addresses import Addresses
from quantus_miner.wire import fleet
from quantus_miner.wire.nats_url import NatsUrl

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from nats.aio.client import Client
    from nats.js.client import JetStreamContext

    from quantus_miner.parts.part import HubComponents
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

CONNECT_S: Final = 2.0
"""Seconds to connect to a server. Another one may answer."""
RETRY_S: Final = 0.5
"""Seconds between two attempts to use the servers."""
CLOCK_S: Final = 0.01
"""Seconds by which timers may be early."""
MAX_TROUBLES: Final = 8
"""Different reasons that are logged until the servers can be used again."""
STOP_S: Final = 0.5
"""Seconds to give up the lease."""
STANDBY: Final = "another hub leads"
HINT: Final = "include what `quantus-miner hub nats-config` prints in its configuration"


class Cluster(HubPart):
    """Serves rigs on an existing cluster while this hub leads. Does nothing if none is set.

    A standby has no connection to a node or pool: a node takes few miners, a pool would see a second login of the same
    worker, and connecting takes a small part of the time that a takeover needs anyway.
    """

    name = "The cluster"

    def __init__(self, components: HubComponents) -> None:
        super().__init__(components)
        self._url = NatsUrl(())
        self._login: dict[str, str] = {}
        self._context: ssl.SSLContext | None = None
        self._turn = 0
        self._leads: bool | None = None  # None: not known yet
        self._troubles: set[str] = set()
        self._stopping = False
        self._serving: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._writer: cluster.ClusterLease | None = None

    async def start(self, settings: Settings) -> None:
        """Stand by. Raises MinerError if the hub's key cannot be used."""
        if settings.nats is None:
            return
        self._url = settings.nats
        if settings.nats_creds is not None:
            check_readable(settings.nats_creds)
            self._login = {"user_credentials": str(settings.nats_creds)}
        elif settings.nats.user:
            self._login = {"user": settings.nats.user, "password": settings.nats.password}
        else:
            self._login = {"seed": settings.nats.seed or Roster(settings.state_dir).hub_key()[0]}
        self._turn = secrets.randbelow(len(settings.nats.servers))
        self.components.live.hold(STANDBY)

    async def run(self) -> None:
        """Use one server after the other."""
        if not self._url.servers:
            await super().run()
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    client, ended = await self._connect(stack)
                    await self._use(client, ended)
            except Exception as error:  # ours, or of the library, whatever it is
                self._tell(printable(str(error)) or type(error).__name__)
            self._turn += 1
            await asyncio.sleep(RETRY_S * (1 + secrets.randbits(8) / 256) / 2)

    async def stop(self) -> None:
        """Stop leading, and let a standby lead at once."""
        self._stopping, lease, writer = True, self.components.lease, self._writer
        if not self._leads or writer is None:
            return
        self._leads = False
        self.components.live.hold("the hub is stopping")
        lease.end()
        with contextlib.suppress(Exception):  # the servers do not answer: the standby has to wait
            async with asyncio.timeout(STOP_S), self._looking:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S / 2):
                        await self.components.outbox.drained.wait()
                await writer.write("", lease.revision)

    def _tell(self, reason: str) -> None:
        """Log why the servers cannot be used, once."""
        if reason not in self._troubles and len(self._troubles) < MAX_TROUBLES:
            self._troubles.add(reason)
            log.warning("Cannot use the NATS servers at %s: %s; trying again", self._url, reason)

    # --- one connection ---

    async def _connect(self, stack: contextlib.AsyncExitStack) -> tuple[Client, asyncio.Future[None]]:
        """Return a client, which is closed with ``stack``, and a future that is done when its connection ends."""
        server = self._url.servers[self._turn % len(self._url.servers)]
        if self._context is None:
            self._context = await nats.trusting_pin(self._url.pin, Addresses(*server, socket.SOCK_STREAM))
        return await nats.open_session(
            stack,
            server,
            self._context,
            refused=f"{units.endpoint(*server)} refuses the hub's login; {HINT}",
            inbox=f"{fleet.INBOX}.{fleet.HUB_INBOX}",
            connect_s=CONNECT_S,
            **self._login,
        )

    async def _use(self, client: Client, ended: asyncio.Future[None]) -> None:
        """Keep or await the lease until the connection ends."""
        stream = await cluster.prepare(client)
        self._writer = cluster.ClusterLease(stream)
        try:
            while not ended.done():
                async with self._looking:
                    if not self._stopping:
                        await self._look(self._writer)
                if self._troubles:
                    self._troubles.clear()
                    log.warning("The NATS servers at %s can be used again", self._url)
                leads = self.components.lease.leads(boot_time())
                if leads and self._serving is None:
                    self._serving = asyncio.create_task(self._lead(client, stream), name="rigs")
                waiting = {ended} if self._serving is None else {ended, self._serving}
                wait_s = RENEW_S if leads else LOOK_S
                await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if self._serving is not None and self._serving.done():
                    serving, self._serving = self._serving, None
                    if not serving.cancelled():
                        serving.result()
            raise LinkLostError("the connection ended")
        finally:
            self._writer = None
            if self._serving is not None:
                await _cancel(self._serving)
                self._serving = None

    async def _look(self, writer: cluster.ClusterLease) -> None:
        """Renew the lease, take it if it is free, or see who holds it."""
        lease = self.components.lease
        if not lease.leads(boot_time()):
            lease.saw(*await writer.read(), boot_time())
        for _ in range(2):
            if not lease.may_write(boot_time()):
                break
            began = boot_time()
            revision = await writer.write(lease.holder, lease.revision)
            if revision is not None:
                lease.wrote(revision, began)
                asyncio.get_running_loop().call_later(began + VALID_S - boot_time() + CLOCK_S, self._on_time)
                return
            lease.saw(*await writer.read(), boot_time())  # an earlier write of ours may have arrived without an answer
        lease.end()
        self._lose(STANDBY)
        if self._leads is None and lease.held_by_another:
            self._leads = False
            log.info("Another hub leads; this one stands by")

    async def _lead(self, client: Client, stream: JetStreamContext) -> None:
        """Give out jobs and take solutions, on one connection."""
        outbox = self.components.outbox
        if not self._leads:
            self.components.hub.outbox.restore(await outbox.load(stream))
            self._leads = True
            log.info("This hub leads")
            self.components.live.release()
            self._on_time()
        tasks = [asyncio.create_task(outbox.write(stream)), asyncio.create_task(self.components.rigs.serve(client))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _cancel(*tasks)

    def _on_time(self) -> None:
        """Stop leading if the lease could not be renewed. Nothing is sent after its end in any case."""
        if not self.components.lease.leads(boot_time()):
            self._lose("the NATS servers do not answer")

    def _lose(self, reason: str) -> None:
        if self._leads:
            self._leads = False
            self.components.live.hold(reason)
            if self._serving is not None:
                self._serving.cancel()
            log.warning("This hub no longer leads: %s", reason)


def check_readable(path: Path) -> None:
    """Check that a file can be read. Raises SettingError."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingError(f"--nats-creds: cannot read {path}: {error.strerror}") from None


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
