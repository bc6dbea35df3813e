"""The stratum door: any miner that speaks the pools' dialect can mine through the hub."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final, Protocol

from quantus_miner.hub.allowance import Allowance
from quantus_miner.hub.bans import BAN_S, BREACH, CHURN, Bans
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.proxy import Proxy
from quantus_miner.hub.solo import Solo
from quantus_miner.hub.stratum_server import StratumServer, StratumSession
from quantus_miner.hub.tallies import Tallies, Tally
from quantus_miner.mining.stats import HubStats
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.address import MAX_WORKER, compose_login
from quantus_miner.wire.stratum import is_stale
from quantus_miner.wire.stratum_pool import StratumPoolState
from quantus_miner.wire.validator import REFUSALS

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Hashable

    from quantus_miner.hub.work import Hub
    from quantus_miner.model import LiveJob
    from quantus_miner.sources.link import Link
    from quantus_miner.wire.stratum_pool import RequestId, ShareCame
    from quantus_miner.wire.validator import Share

log = logging.getLogger("miner.hub")

NOT_READY: Final = "Pool not ready"
"""Why a login is refused while the hub has no work. Miners try again."""
AWAY_S: Final = 60.0
"""Seconds without work from the node after which miners are disconnected, so that they use their next pool."""
CHURN_S: Final = 10.0
"""Seconds within which a miner that leaves, without an accepted share, counts as one that has left at once."""
IDLE_S: Final = 300.0
"""Seconds without an accepted share after which a miner gives way to another one if there is no room."""
BYTES_PER_S: Final = 50_000
"""Bytes that a miner may send, on average: about 100 shares a second."""
BURST_BYTES: Final = 500_000
"""Bytes that it may send at once, until its difficulty fits."""


class Upstream(Protocol):
    """Where the jobs of one miner come from, and its shares go to."""

    pool: PoolLink | None
    """The hub's link to the pool that the miner mines in; None if it mines for a node."""

    def begin(self) -> None:
        """Take the miner's login, now or later."""

    def on_work(self) -> None:
        """Handle new work of the hub."""

    def on_share(self, came: ShareCame) -> None:
        """Answer a share, now or later."""

    def tick(self) -> None:
        """Do what is due once a second."""

    def close(self) -> None:
        """End it with the miner's connection."""


class DoorSession(StratumSession):
    """One miner's connection. ``worker``: the name it logs in with; empty before."""

    tally: Tally
    """The counts of its worker name, from its login on."""

    def __init__(self, door: Door, server: StratumServer) -> None:
        super().__init__(server)
        self.door = door
        self.worker = ""
        self.upstream: Upstream | None = None
        self._bytes = Allowance(BURST_BYTES, BYTES_PER_S, self.began)
        self._proved_at = self.began  # by its login, and then by accepted shares

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. A miner that sends too much is dropped."""
        if self._bytes.take(len(data), self.loop.time()):
            super().data_received(data)
        else:
            self.drop("it sends too much")

    def on_login(self, login: str, agent: str) -> None:
        """Log a miner in, if there is work."""
        work = self.door.hub.work
        if work is None:
            self.refuse_login(NOT_READY)
            return
        self.worker = worker_name(login)
        self.tally = self.door.tallies.of(self.worker)
        self.tally.connections += 1
        log.debug("Miner %s logs in from %s (%s)", self.worker, self.address, agent)
        self.upstream = self.door.upstream(self, work.link)
        self.upstream.begin()

    def on_share(self, came: ShareCame) -> None:
        """Check a share."""
        if self.upstream is not None:
            self.upstream.on_share(came)

    def on_block(self, share: Share) -> None:
        """Send a share that meets the network's target up."""
        self.tally.blocks += 1
        log.info("Miner %s has found a solution, difficulty %d", self.worker, share.job.difficulty)
        self.door.hub.solve(share.job.header, share.nonce)

    def answer(self, request: RequestId, refusal: str | None, difficulty: int, *, ours: bool = True) -> None:
        """Send a verdict on a share of that ``difficulty``, and count it. ``ours``: it is not that of a pool."""
        if self.is_open:
            self.core.send_verdict(request, refusal)
            self.flush()
        now = self.door.hub.clock()
        if refusal is None:
            self.door.tallies.accept(self.tally, difficulty, now)
            self.door.bans.good(self.address, now)
            self._proved_at = self.loop.time()
            return
        self.door.tallies.refuse(self.tally, refusal, REFUSALS)
        log.debug("Refused a share of miner %s from %s: %s", self.worker, self.address, refusal)
        if ours and not is_stale(refusal) and self.door.bans.bad(self.address, now):
            self.door.ban(self.address, f"most of its shares are bad, the last one: {refusal}")

    def on_broken(self, reason: str) -> None:
        """Count a breach of the protocol."""
        log.debug("Dropped miner %s from %s: %s", self.worker or "(no login)", self.address, reason)
        if self.door.bans.bad(self.address, self.door.hub.clock(), BREACH):
            self.door.ban(self.address, reason)

    def on_lost(self) -> None:
        """End what belongs to it. Count a miner that has left at once, because each login costs us something."""
        if self.upstream is not None:
            self.tally.connections -= 1
            self.upstream.close()
        stayed = self.ended_here or self._proved_at > self.began or self.loop.time() >= self.began + CHURN_S
        if not stayed and self.door.bans.bad(self.address, self.door.hub.clock(), CHURN):
            self.door.ban(self.address, "its miners connect and leave again and again")

    def may_give_way(self) -> bool:
        """Return True if it has not logged in, or has had no share accepted for IDLE_S."""
        return super().may_give_way() or self.loop.time() >= self._proved_at + IDLE_S

    def on_upstream_lost(self) -> None:
        """Disconnect the miner: it logs in again, or uses its next pool."""
        if self.transport.is_closing():
            return
        if self.core.state is StratumPoolState.CHECKING:
            self.refuse_login(NOT_READY)
        else:
            self.close()


class Door:
    """The server, its miners and their upstreams. Owned by the event loop's thread.

    ``share_time``: seconds between the shares of a miner that its difficulty aims at. ``difficulty``: of its first
    share. ``wallet``: for pools.
    """

    def __init__(self, hub: Hub, *, share_time: float, difficulty: int, wallet: str | None) -> None:
        self.hub = hub
        self.share_time = share_time
        self.difficulty = difficulty
        self.wallet = wallet
        self.hasher = ShareHasher()
        self.bans = Bans()
        self.tallies = Tallies()
        self._job: LiveJob | None = None  # the hub's current one, or the last one
        self._extranonce = secrets.randbits(32)
        self._server: StratumServer | None = None
        self._held: set[asyncio.Task[None]] = set()
        hub.watch(self.on_work)

    def start(self, sock: socket.socket, context: ssl.SSLContext | None, *, max_sessions: int) -> None:
        """Accept miners on a listening socket, with TLS if there is a ``context``."""
        server = StratumServer(
            lambda: DoorSession(self, server),
            max_sessions=max_sessions,
            admit=lambda address: not self.bans.is_banned(address, self.hub.clock()),
        )
        self._server = server
        server.start(sock, context)

    async def close(self) -> None:
        """Disconnect all miners."""
        if self._server is not None:
            await self._server.close()
            self._server = None
        await asyncio.gather(*self._held, return_exceptions=True)

    @property
    def sessions(self) -> list[DoorSession]:
        """The connections, with and without a login."""
        server = self._server
        return [] if server is None else [each for each in server.sessions if isinstance(each, DoorSession)]

    def upstream(self, session: DoorSession, link: Link) -> Upstream:
        """Return a new upstream for a miner. ``link``: that of the hub's work."""
        if isinstance(link, PoolLink):
            return Proxy(session, link, link.with_login(compose_login(self.wallet or "", session.worker)))
        self._extranonce = (self._extranonce + 1) % 2**32
        # A miner that comes back goes on at its difficulty.
        difficulty = session.tally.difficulty or self.difficulty
        return Solo(session, self.hub, self._extranonce.to_bytes(4), difficulty, self.share_time)

    def is_solution(self, share: Share) -> bool:
        """Return True if a share meets the target of the node's current job, or of the last one."""
        job = self._job
        return job is not None and share.job.header == job.header and share.value <= job.target

    def hold(self, task: asyncio.Task[None]) -> None:
        """Keep a task of an upstream until it ends."""
        self._held.add(task)
        task.add_done_callback(self._held.discard)

    def ban(self, address: str, reason: str) -> None:
        """Disconnect all miners of an address that is banned."""
        log.warning("Banned %s for %d s: %s", address, BAN_S, reason)
        for session in self.sessions:
            if session.address == address:
                session.abort()

    def on_work(self) -> None:
        """Pass the hub's work on. Miners that work for another pool, or for the node that was, must log in again."""
        work = self.hub.work
        if work is None:
            return
        self._job = work.job
        pool = work.link if isinstance(work.link, PoolLink) else None
        for session in self.sessions:
            upstream = session.upstream
            if upstream is None:
                continue
            if _identity(upstream.pool) != _identity(pool):
                session.on_upstream_lost()
            else:
                upstream.on_work()

    def tick(self) -> None:
        """Adjust difficulties. Disconnect all miners if there has been no work for long. Called once a second."""
        self.tallies.tick(self.hub.clock())
        away = self.hub.work is None and self.hub.clock() - self.hub.idle_since >= AWAY_S
        for session in self.sessions:
            if session.upstream is not None:
                session.upstream.tick()
                if away:
                    session.on_upstream_lost()

    def stats(self) -> HubStats:
        """Return a snapshot of the hub and its miners."""
        now, outbox = self.hub.clock(), self.hub.outbox
        return HubStats(
            connections=len(self.sessions),
            banned_addresses=self.bans.count(now),
            solutions_waiting=outbox.waiting,
            solutions_expired=outbox.expired,
            work=self.hub.proven,
            refusals=dict(self.tallies.refusals),
            workers=self.tallies.stats(now),
        )


def worker_name(login: str) -> str:
    """Return the worker's name in ``<wallet>.<worker>``, as pools allow it. A login without a dot is a name."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", login.rpartition(".")[2])[:MAX_WORKER] or "miner"


def _identity(pool: PoolLink | None) -> Hashable:
    return None if pool is None else pool.identity
