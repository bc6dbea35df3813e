"""``quantus-miner dev-pool``: a stratum pool with its own chain, for first steps and tests.

It checks every share with the reference, adjusts each miner's difficulty to a share time, sends new work with and
without ``clean_jobs``, and misbehaves on request.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.dev.miner_process import ignore_stop_signals, on_stop_signal, start_miner, stop_miner
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.errors import MinerError, legible
from quantus_miner.host.certificate import self_signed
from quantus_miner.hub.stratum_server import StratumServer, StratumSession
from quantus_miner.model import LiveJob, Pow, achieved_difficulty
from quantus_miner.web.server import listen
from quantus_miner.wire import stratum
from quantus_miner.wire.validator import ShareValidator
from quantus_miner.wire.vardiff import Vardiff

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from quantus_miner.dev.chain import Chain
    from quantus_miner.wire.stratum_pool import ShareCame
    from quantus_miner.wire.validator import Share

DEV_WALLET: Final = "qzpFUhjXpZnRCbNr9LW5sAkWmTus52Ffcf31MBpig82u1JArX"
"""The public key of Substrate's development account Alice as a Quantus address."""
MAX_SESSIONS: Final = 100
MISBEHAVE_SHARES: Final = 3
"""Shares between two drops."""


class DevPool:
    """The pool: a listening socket, its miners, and the block that they mine. It runs on one event loop.

    ``chain``: of qpow-poseidon2. ``share_difficulty``: each miner's first one. ``share_time``: seconds.
    ``report`` is called with a line of text for each thing that happens.
    """

    def __init__(
        self,
        chain: Chain,
        share_difficulty: int,
        share_time: float,
        *,
        tls: bool = False,
        misbehaviour: PoolMisbehaviour | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        if chain.pow is not Pow.POSEIDON2:
            raise ValueError(f"pools mine {Pow.POSEIDON2} only")
        self.chain = chain
        self.share_difficulty = share_difficulty
        self.share_time = share_time
        self.misbehaviour = misbehaviour
        self.report = report
        self.miners: set[Session] = set()
        """Those that are connected."""
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.work = 0
        self.began = time.monotonic()
        self.header = chain.proposal.mining_hash()
        self.sequence = 0
        self.changed = asyncio.Event()
        self.logins = 0
        self._certificate = self_signed() if tls else None
        self._extranonce = secrets.randbits(32)
        self._server = StratumServer(lambda: Session(self, self._server), max_sessions=MAX_SESSIONS)
        self._port: int | None = None
        self._refresher: asyncio.TimerHandle | None = None
        self._block_began = self.began

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1. Port 0 picks a free one. Raises MinerError if that fails."""
        loop = asyncio.get_running_loop()
        context = None if self._certificate is None else self._certificate.server_context()
        sock = listen("127.0.0.1", port, "--listen")
        self._port = sock.getsockname()[1]
        self._server.start(sock, context)
        self._refresher = loop.call_later(self.chain.block_time, self._on_refresh)

    @property
    def url(self) -> str:
        """Return the value for a miner's ``--pool``."""
        if self._port is None:
            raise RuntimeError("the pool is not started")
        if self._certificate is None:
            return f"stratum+tcp://127.0.0.1:{self._port}"
        pin = self._certificate.fingerprint
        if self.misbehaviour is PoolMisbehaviour.WRONG_PIN:
            pin = bytes(byte ^ 0xFF for byte in pin)
        return f"stratum+ssl://127.0.0.1:{self._port}?pin={pin.hex()}"

    async def close(self) -> None:
        """Drop all miners and stop listening."""
        if self._refresher is not None:
            self._refresher.cancel()
        await self._server.close()

    def drop(self) -> None:
        """Drop all miners."""
        for session in self.miners:
            session.transport.abort()

    def refresh(self, *, clean: bool = False) -> None:
        """Send every miner a new proposal for the same block. ``clean``: the old one no longer counts."""
        self.chain.propose()
        self._renew(clean=clean)

    def next_extranonce(self) -> bytes:
        """Return four bytes that no other miner has."""
        self._extranonce = (self._extranonce + 1) % 2**32
        return self._extranonce.to_bytes(4)

    def take(self, worker: str, share: Share) -> None:
        """Count a valid share, and append a block if it is one."""
        self.accepted += 1
        self.work += share.job.difficulty
        self.report(
            f"share {self.accepted:4}  {worker:16}  difficulty {share.job.difficulty:12,}  "
            f"achieved {achieved_difficulty(share.value):14,}"
        )
        if share.job.header == self.header and share.value <= self.chain.target:
            now = time.monotonic()
            seconds, self._block_began = now - self._block_began, now
            self.report(
                f"block {self.chain.height + 1:4}  {worker:16}  difficulty {self.chain.difficulty:12,}  "
                f"{seconds:6.2f} s  nonce {share.nonce:x}"
            )
            self.chain.append(f"{share.nonce:0128x}", seconds)
            self._renew(clean=True)
        self.changed.set()

    def refuse(self, worker: str, reason: str) -> None:
        """Count a share that is not valid."""
        self.rejected[reason] += 1
        self.report(f"share REJECTED  {worker}: {reason}")
        self.changed.set()

    def summary(self) -> str:
        """Return a summary of the run in one line."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        return (
            f"{self.accepted} shares accepted, {self.rejected.total()} rejected{reasons and f' ({reasons})'}, "
            f"{self.chain.height} blocks in {seconds:.1f} s, about {units.hash_rate(self.work / seconds)}"
        )

    @property
    def invalid(self) -> int:
        """Return the number of shares that were refused for another reason than coming too late."""
        return sum(count for reason, count in self.rejected.items() if not stratum.is_stale(reason))

    def _renew(self, *, clean: bool) -> None:
        self.header = self.chain.proposal.mining_hash()
        self.sequence += 1
        for session in self.miners:
            session.give_job(clean=clean)

    def _on_refresh(self) -> None:
        if self.misbehaviour is PoolMisbehaviour.QUIET:
            for session in self.miners:
                session.give_job(clean=False)
        else:
            self.refresh()
        self._refresher = asyncio.get_running_loop().call_later(self.chain.block_time, self._on_refresh)


class Session(StratumSession):
    """One miner's connection."""

    def __init__(self, pool: DevPool, server: StratumServer) -> None:
        super().__init__(server)
        self._pool = pool
        self._extranonce = pool.next_extranonce()
        self._validator = ShareValidator()
        self._vardiff = Vardiff(pool.share_difficulty, pool.share_time, self.began)
        self._shares = 0
        self.worker = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the miner."""
        super().connection_made(transport)
        self._pool.miners.add(self)

    def on_lost(self) -> None:
        """Report that the miner has gone."""
        self._pool.miners.discard(self)
        if self.worker:
            self._pool.report(f"miner {self.worker} has gone")
        self._pool.changed.set()

    def on_broken(self, reason: str) -> None:
        """Report why the miner is dropped."""
        self._pool.report(f"miner {self.worker} is dropped: {reason}")

    def data_received(self, data: bytes) -> None:
        """Handle what the miner sends."""
        if self._pool.misbehaviour is not PoolMisbehaviour.STALL:
            super().data_received(data)

    def give_job(self, *, clean: bool) -> None:
        """Send the pool's current work at this miner's difficulty. No-op if the miner is not logged in."""
        if not self.is_open:
            return
        self._retarget()
        job = self._next_job(clean=clean)
        if self._pool.misbehaviour is PoolMisbehaviour.WRONG_TARGET:
            body = stratum.job_body(job) | {"difficulty": 2 * job.difficulty + 2}
            self.transport.write(stratum.encode({"method": "job", "params": {"clean_jobs": clean, "job": body}}))
        else:
            self.core.send_job(job, clean=clean)
            self.flush()

    def _retarget(self) -> bool:
        """Adjust this miner's difficulty. Return True if it changed."""
        return self._pool.misbehaviour is not PoolMisbehaviour.QUIET and self._vardiff.adjust(self.loop.time())

    def _next_job(self, *, clean: bool) -> LiveJob:
        # A share need not be harder than a block.
        difficulty = min(self._vardiff.difficulty, self._pool.chain.difficulty)
        job = LiveJob(f"{self._pool.sequence}-{difficulty}", self._pool.header, difficulty, self._extranonce)
        self._validator.give(job, clean=clean)
        return job

    def on_login(self, login: str, agent: str) -> None:  # noqa: ARG002 - any agent is welcome
        """Accept the login and send the first job, or misbehave."""
        misbehaviour = self._pool.misbehaviour
        self._pool.logins += 1
        busy = misbehaviour is PoolMisbehaviour.BUSY and self._pool.logins == 1
        if misbehaviour is PoolMisbehaviour.REFUSE_LOGIN or busy or not login:
            self.refuse_login("server busy" if busy else "Invalid login")
            return
        self.worker = legible(login.rpartition(".")[2])
        self._pool.report(f"miner {self.worker} is here")
        if misbehaviour is PoolMisbehaviour.SLOW_JOB:
            self.core.take_login(None)
            self.loop.call_later(self._pool.share_time, lambda: self.give_job(clean=True))
        else:
            self.core.take_login(self._next_job(clean=True))
        self.flush()
        if misbehaviour is PoolMisbehaviour.GARBAGE:
            self.transport.write(b"\x00garbage\n")
        elif misbehaviour is PoolMisbehaviour.FLOOD:
            self.transport.write(b"x" * 65_536)
        elif misbehaviour is PoolMisbehaviour.ONE_JOB:
            self.transport.close()

    def on_share(self, came: ShareCame) -> None:
        """Judge a share, or misbehave."""
        self._shares += 1
        misbehaviour = self._pool.misbehaviour
        if misbehaviour is PoolMisbehaviour.DROP and self._shares % MISBEHAVE_SHARES == 0:
            self.transport.abort()
            return
        share = self._validator.validate(came)
        if misbehaviour is PoolMisbehaviour.REFUSE_SHARES:
            share = "Invalid nonce"
        elif misbehaviour is PoolMisbehaviour.FORGET and self._shares >= MISBEHAVE_SHARES:
            share = "Unauthenticated"
        refusal = share if isinstance(share, str) else None
        if misbehaviour is not PoolMisbehaviour.NO_REPLY:
            self.core.send_verdict(came.request, refusal)
        if isinstance(share, str):
            self._pool.refuse(self.worker, share)
            return
        # The verdict goes out before any new job that the share brings about.
        self.flush()
        self._vardiff.count()
        self._pool.take(self.worker, share)
        if self._retarget():
            self.give_job(clean=False)


def run(
    chain: Chain,
    share_difficulty: int,
    share_time: float,
    port: int | None,
    shares: int | None,
    *,
    tls: bool,
    misbehaviour: PoolMisbehaviour | None,
) -> int:
    """Run the pool until ``shares`` are accepted or the user interrupts. Return 1 if any share was wrong, else 0.

    ``port``: where to listen. None: on a free port, with a miner that is started for this run.
    """

    def report(line: str) -> None:
        print(line, flush=True)

    async def play() -> int:
        pool = DevPool(chain, share_difficulty, share_time, tls=tls, misbehaviour=misbehaviour, report=report)
        return await _play(pool, port, shares)

    return asyncio.run(play())


async def _play(pool: DevPool, port: int | None, shares: int | None) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        stop.set()
        pool.changed.set()

    on_stop_signal(lambda: loop.call_soon_threadsafe(on_signal))
    miner: subprocess.Popen[str] | None = None
    await pool.start(port or 0)
    pool.report(f"dev-pool: share time {pool.share_time:g} s, at {pool.url}")
    try:
        if port is None:
            flags = ("--pool", pool.url, "--wallet", DEV_WALLET, "--worker-name", "dev", "--exit-on-refusal")
            miner, _ = await asyncio.to_thread(start_miner, *flags)
        await _until(pool, stop, shares, miner)
    finally:
        ignore_stop_signals()
        if miner is not None:
            await asyncio.to_thread(stop_miner, miner)
        await pool.close()
        pool.report(f"dev-pool: {pool.summary()}")
    return 1 if pool.invalid else 0


async def _until(pool: DevPool, stop: asyncio.Event, shares: int | None, miner: subprocess.Popen[str] | None) -> None:
    """Wait until ``shares`` are accepted or ``stop`` is set. Raises MinerError if our own miner ends before that."""
    if miner is not None:
        # Its thread goes when the miner does, so before we do.
        ended = asyncio.get_running_loop().run_in_executor(None, miner.wait)
        ended.add_done_callback(lambda _: pool.changed.set())
    while not stop.is_set() and (shares is None or pool.accepted < shares):
        if miner is not None and miner.returncode is not None:
            raise MinerError(f"the miner ended with exit code {miner.returncode}")
        pool.changed.clear()
        await pool.changed.wait()
