"""A link to a hub: jobs and solutions over NATS. A rig goes on with its job while the hub restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from quantus_miner.backoff import Backoff
from quantus_miner.errors import LinkLostError, LinkRefusedError, MachineError, legible
from quantus_miner.sources import nats
from quantus_miner.sources.addresses import Addresses
from quantus_miner.sources.link import Handover, Verdict
from quantus_miner.store.rows import StoredSolution
from quantus_miner.wire import fleet
from quantus_miner.wire.core import RemoteProtocolError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.sources.link import Listener
    from quantus_miner.store.writer import Store

log = logging.getLogger("miner.hub")

REPLY_S: Final = 5.0
"""Seconds for a reply of the hub."""
STATUS_S: Final = 5.0
"""Seconds between two reports of our state."""
GRACE_S: Final = 60.0
"""Seconds without the hub for which its job is still searched."""
RETRY_S: Final = 1.0
"""Seconds between two attempts to deliver a solution, and on average until the first one to reach the hub again."""
MAX_RETRY_S: Final = 4.0
"""The same on average, after several attempts that failed."""
MAX_PENDING: Final = 1_000
"""Solutions that wait for the hub. Beyond that, the oldest are given up."""
FOLLOW_S: Final = 2.0
"""Seconds within which rigs ask a hub that took over for their slots, so that they do not all ask at once."""
MAX_SENT: Final = 1_000
"""Solutions whose verdict may still come. Only a hub that mines in a pool has verdicts."""


@dataclass(slots=True)
class _Pending:
    """A solution that the hub does not have yet. ``job``: None if it is of an earlier run."""

    stored: StoredSolution
    job: LiveJob | None


def new_backoff() -> Backoff:
    """Return the waits of a rig that has lost its hub. They are spread as evenly as can be.

    The rigs of a hub lose it at the same moment, and must not all come back at the next.
    """
    return Backoff(2 * RETRY_S, 2 * MAX_RETRY_S, spread=1.0)


class HubLink:
    """Implements Link. ``status``: returns our state for the hub. ``on_orders``: takes what the hub asks of us."""

    def __init__(
        self,
        url: fleet.HubUrl,
        store: Store,
        status: Callable[[], fleet.StatusMessage],
        on_orders: Callable[[fleet.Orders], None] = lambda _: None,
    ) -> None:
        self.identity = ("hub", url)
        self._on_orders = on_orders
        self.url = url
        self._report_due = asyncio.Event()
        self._store = store
        self._status = status
        self._addresses = [Addresses(*server, socket.SOCK_STREAM) for server in url.servers]
        self._turn = secrets.randbelow(len(url.servers))  # so that rigs spread over the servers
        self._context: ssl.SSLContext | None = None
        self._pending: dict[tuple[bytes, int], _Pending] = {}
        self._restored = False
        self._sent: dict[int, tuple[LiveJob, float]] = {}  # by nonce, and when
        self._listener: Listener | None = None
        self._wake = asyncio.Event()
        self._message: fleet.JobMessage | None = None
        self._slot: bytes | None = None
        self._greeted = ""
        """The run of the hub that has given us our slot."""
        self._stranger = asyncio.Event()
        self._job: LiveJob | None = None

    @property
    def name(self) -> str:
        """``hub tls://host:4222``."""
        return f"hub {self.url}"

    async def run(self, listener: Listener) -> NoReturn:
        """See ``Link.run``. Connects again by itself for GRACE_S seconds, to the next server if there are several."""
        await self._restore()
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._message = self._job = None
        opened, lost_at, backoff = False, None, new_backoff()
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    client, ended = await self._connect(stack)
                    await self._greet(client, listener, opened=opened)
                    opened, lost_at = True, None
                    backoff.reset()
                    await self._converse(client, ended, listener)
            except LinkLostError as error:
                self._turn += 1
                lost_at = lost_at or loop.time()
                if self._job is None or loop.time() - lost_at >= GRACE_S:
                    raise
                log.debug("No connection to %s: %s; its job goes on", self.name, error, extra={"source": self.name})
                await asyncio.sleep(backoff.wait_s(secrets.randbits(16) / 2**16))

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:  # noqa: ARG002 - not asked for
        """See ``Link.submit``. The solution is on our disk until the hub has it."""
        stored = StoredSolution(job.header, solution)
        if stored.key in self._pending or self._listener is None:
            return Handover.LATE
        if len(self._pending) >= MAX_PENDING:
            self._settle(next(iter(self._pending)), Handover.LATE, self._listener)
        self._pending[stored.key] = _Pending(stored, job)
        self._store.keep(stored)
        self._wake.set()
        return Handover.WAITS

    def report(self) -> None:
        """Report our state now, and not only when it is due."""
        self._report_due.set()

    async def _restore(self) -> None:
        """Take over the solutions that the last run could not deliver."""
        if not self._restored:
            await asyncio.wrap_future(self._store.loaded)
            self._pending |= {stored.key: _Pending(stored, None) for stored in self._store.outbox[-MAX_PENDING:]}
            self._restored = True

    # --- the connection ---

    async def _connect(self, stack: contextlib.AsyncExitStack) -> tuple[Client, asyncio.Future[None]]:
        """Return a client, which is closed with ``stack``, and a future that is done when its connection ends."""
        number = self._turn % len(self._addresses)
        if self._context is None:
            self._context = await nats.trusting_pin(self.url.pin, self._addresses[number])
        try:
            return await nats.open_session(
                stack,
                self.url.servers[number],
                self._context,
                refused="it refuses our token: invite this rig again",
                inbox=f"{fleet.INBOX}.{self.url.name}",
                seed=self.url.seed,
            )
        except MachineError as error:
            raise LinkRefusedError(str(error)) from None
        except LinkLostError as error:
            raise LinkLostError(f"no connection: {error}") from None

    # --- what is said on it ---

    async def _greet(self, client: Client, listener: Listener, *, opened: bool) -> None:
        """Subscribe to jobs, and ask for the current one and our slot."""
        early: list[fleet.JobMessage] = []
        welcomed = False

        async def on_job(message: Msg) -> None:
            listener.on_alive()
            with self._ignoring("a job"):
                job = fleet.decode(message.data, fleet.JobMessage)
                if welcomed:
                    self._take(job, listener)
                else:
                    early[:] = [job]

        async def on_message(message: Msg) -> None:
            with self._ignoring("a message"):
                self._take_ours(fleet.decode(message.data, fleet.RigMessage))

        async def on_verdict(message: Msg) -> None:
            with self._ignoring("a verdict"):
                self._judge(fleet.decode(message.data, fleet.VerdictMessage), listener)

        await client.subscribe(f"{fleet.RIG}.{self.url.name}", cb=on_message)
        await client.subscribe(f"{fleet.VERDICT}.{self.url.name}", cb=on_verdict)
        await client.subscribe(fleet.JOB, cb=on_job)  # before we ask, or we would miss a job that comes meanwhile
        welcome = await self._say_hello(client)
        welcomed = True
        if not opened:
            listener.on_open()
        for job in (welcome.job, *early):
            if job is not None:
                self._take(job, listener)

    async def _say_hello(self, client: Client) -> fleet.Welcome:
        """Ask the hub for its job and for our slot, which is that of its run. Raises LinkLostError."""
        self._stranger.clear()
        welcome = fleet.decode(await self._ask(client, fleet.HELLO, b""), fleet.Welcome)
        self._take_ours(welcome)
        self._greeted = "" if welcome.job is None else welcome.job.run
        return welcome

    def _take_ours(self, message: fleet.Welcome | fleet.RigMessage) -> None:
        """Take over our slot and what the hub asks of us. An older hub asks for nothing."""
        self._slot = None if message.slot is None else bytes.fromhex(message.slot)
        if message.orders is not None:
            self._on_orders(message.orders)

    async def _ask(self, client: Client, subject: str, data: bytes) -> bytes:
        """Return the hub's reply. Raises LinkLostError."""
        try:
            reply = await client.request(f"{subject}.{self.url.name}", data, timeout=REPLY_S)
        except Exception:  # of this library, whatever it is
            raise LinkLostError("the hub does not answer") from None
        if (task := asyncio.current_task()) is not None and task.cancelling():
            # The library's asyncio.wait_for loses a cancellation that comes together with the reply.
            raise asyncio.CancelledError
        return bytes(reply.data)

    def _take(self, message: fleet.JobMessage, listener: Listener) -> None:
        """Search the newest job. An announcement of the one that is searched changes nothing."""
        last, self._message = self._message, message
        if last is not None and last.run == message.run and message.number < last.number:
            self._message = last
            return
        if message.run != self._greeted:  # another hub has taken over
            self._stranger.set()
            if message.divided:
                return  # our slot may be another rig's there
        job = fleet.live_job(message, self._slot)
        if job == self._job:
            return
        self._job = job
        if job is None:
            listener.on_no_job()
        else:
            listener.on_job(job)

    def _judge(self, message: fleet.VerdictMessage, listener: Listener) -> None:
        """Pass on what the hub's pool says of a solution of ours. There is one verdict for each."""
        nonce = int(message.nonce, 16)
        if (sent := self._sent.pop(nonce, None)) is not None:
            job, at = sent
            if (job.header, nonce) in self._pending:  # it has overtaken the hub's reply
                self._settle((job.header, nonce), Handover.SENT, listener)
            accepted, stale = message.judgement == "accepted", message.judgement == "stale"
            latency_s = asyncio.get_running_loop().time() - at
            listener.on_verdict(Verdict(accepted, stale, legible(message.reason), latency_s, nonce, job.difficulty))

    @contextlib.contextmanager
    def _ignoring(self, what: str) -> Iterator[None]:
        try:
            yield
        except RemoteProtocolError as error:
            log.warning("Ignored %s of %s: %s", what, self.name, error, extra={"source": self.name})

    async def _converse(self, client: Client, ended: asyncio.Future[None], listener: Listener) -> NoReturn:
        """Deliver solutions and report our state until the connection ends."""
        tasks = [
            asyncio.create_task(self._deliver(client, listener)),
            asyncio.create_task(self._report(client)),
            asyncio.create_task(self._follow(client, listener)),
        ]
        try:
            await asyncio.wait((ended, *tasks), return_when=asyncio.FIRST_COMPLETED)
            raise LinkLostError("the connection ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, client: Client, listener: Listener) -> None:
        """Send each solution until the hub has it, or says that it is too late. The newest comes first.

        If jobs are so easy that solutions come faster than the hub takes them, those of the current job still arrive in
        time.
        """
        while True:
            self._wake.clear()
            while self._pending:
                key = next(reversed(self._pending))
                if (job := self._pending[key].job) is not None:
                    self._sent[key[1]] = job, asyncio.get_running_loop().time()
                    if len(self._sent) > MAX_SENT:
                        del self._sent[next(iter(self._sent))]
                message = fleet.SolutionMessage(key[0].hex(), f"{key[1]:0128x}")
                try:
                    reply = await self._ask(client, fleet.SOLUTION, fleet.encode(message))
                except LinkLostError:
                    break  # no hub leads now; if the connection has ended, that ends this task
                state = fleet.decode(reply, fleet.SolutionReply).state
                if state == "later":
                    break
                if state == "invalid":
                    log.error("%s says that a solution is not valid", self.name, extra={"source": self.name})
                self._settle(key, Handover.SENT if state == "kept" else Handover.LATE, listener)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._pending else None):
                    await self._wake.wait()

    async def _follow(self, client: Client, listener: Listener) -> None:
        """Make ourselves known to a hub that has taken over."""
        while True:
            await self._stranger.wait()
            await asyncio.sleep(FOLLOW_S * secrets.randbits(8) / 256)
            with contextlib.suppress(LinkLostError):  # its next announcement reminds us
                welcome = await self._say_hello(client)
                if welcome.job is not None:
                    self._take(welcome.job, listener)

    def _settle(self, key: tuple[bytes, int], handover: Handover, listener: Listener) -> None:
        """Forget a solution, and tell the live source what became of it unless it is of an earlier run."""
        pending = self._pending.pop(key, None)
        self._store.settle([key])
        if pending is not None and pending.job is not None:
            listener.on_handover(pending.job, pending.stored.solution, handover)

    async def _report(self, client: Client) -> None:
        while True:
            self._report_due.clear()
            await client.publish(f"{fleet.STATUS}.{self.url.name}", fleet.encode(self._status()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_S):
                    await self._report_due.wait()
