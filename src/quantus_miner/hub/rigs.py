"""The rigs of a hub: gives them jobs over NATS, and takes their solutions and their state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from quantus_miner.events import ShareJudged
from quantus_miner.hub.allowance import Allowance
from quantus_miner.hub.slots import HUB_BYTES, SLOT_BYTES, Slots
from quantus_miner.mining.rates import RateMeter
from quantus_miner.mining.stats import RigStats
from quantus_miner.wire import fleet
from quantus_miner.wire.core import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from quantus_miner.events import Event
    from quantus_miner.hub.hashing import ShareHasher
    from quantus_miner.hub.work import Hub
    from quantus_miner.model import LiveJob
    from quantus_miner.wire.fleet import State

log = logging.getLogger("miner.hub")

ANNOUNCE_S: Final = 5.0
"""Seconds between two announcements of the same job."""
OFFLINE_S: Final = 20.0
"""Seconds without a message after which a rig counts as offline."""
MAX_TARGETS: Final = 8
"""Headers whose solutions can be checked."""
MAX_INVALID: Final = 5
"""Invalid solutions of a rig after which it is set aside."""
MAX_JUDGING: Final = 1_000
"""Solutions that wait for the disk at once. For more, rigs have to ask again."""
WINDOW_S: Final = 900.0
"""Seconds over which the rate is averaged that a rig's solutions prove."""
ASIDE_S: Final = 600.0
"""Seconds for which solutions of a rig that was set aside are not looked at."""
MAX_MESSAGES: Final = 5_000
MESSAGES_PER_S: Final = 500
"""Messages that a rig may send at once, and a second on average. Beyond that, it is locked out for a time."""
LOCKED_OUT_S: Final = 600.0
"""Seconds for which a rig that sends too much may not connect."""
MANY: Final = 2_000
STATS_S: Final = 5.0
"""Seconds between two snapshots of that many rigs, which report as often. One of 10,000 rigs takes 60 ms."""
MAX_HELLOS: Final = 20
HELLOS_PER_S: Final = 0.5
"""Hellos of a rig that are answered at once, and a second on average. In a pool, each takes another slot."""
MAX_JUDGED: Final = 10_000
"""Solutions whose rigs are remembered until the pool's verdict."""


@dataclass
class Rig:
    """What is known of a rig since the hub's start. Times are seconds of the hub's clock."""

    name: str
    heard_at: float
    proven: RateMeter
    """Measures ``work``."""
    status: fleet.StatusMessage | None = None
    work: int = 0
    """Sum of the difficulties of its valid solutions."""
    hashes: int = 0
    """Nonces that it has reported meanwhile."""
    silent_since: float | None = None
    """Since when it has not hashed, although it should."""
    kept: int = 0
    stale: int = 0
    invalid: int = 0
    accepted: int = 0
    rejected: int = 0
    strikes: int = 0
    """Invalid solutions since the last valid one."""
    aside_until: float = 0.0
    locked_until: float = 0.0

    def __post_init__(self) -> None:
        self.messages = Allowance(MAX_MESSAGES, MESSAGES_PER_S, self.heard_at)
        self.hellos = Allowance(MAX_HELLOS, HELLOS_PER_S, self.heard_at)

    def is_online(self, now: float) -> bool:
        """Return True if it was heard of within OFFLINE_S."""
        return now - self.heard_at < OFFLINE_S


class Rigs:
    """Owned by the event loop's thread. ``invited``: names of the rigs that may connect; None: the servers know.

    ``tags``: of those that have some. ``orders``: returns what a rig is asked to do.
    """

    def __init__(self, hub: Hub, hasher: ShareHasher) -> None:
        self._hub = hub
        self._hasher = hasher
        self._run = secrets.token_hex(8)
        self._number = secrets.token_bytes(HUB_BYTES)
        self._slots = Slots()
        self.invited: Collection[str] | None = None
        self.tags: Mapping[str, Sequence[str]] = {}
        self.orders: Callable[[str], fleet.Orders] = lambda _: fleet.NO_ORDERS
        self._rigs: dict[str, Rig] = {}
        self._targets: OrderedDict[bytes, LiveJob] = OrderedDict()
        self._untold: set[str] = set()  # rigs that have to be told their slot or their orders
        self._due = asyncio.Event()
        self._judging: set[asyncio.Task[None]] = set()
        self._stats: tuple[RigStats, ...] = ()
        self._stats_at = hub.clock()
        self._locked_out: set[str] = set()
        self._client: Client | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._finders: OrderedDict[int, str] = OrderedDict()  # rigs by the nonces of their solutions
        hub.watch(self._on_work)

    async def serve(self, client: Client) -> None:
        """Give jobs out and answer rigs until cancelled."""
        handlers: Mapping[str, Callable[[Rig, Msg], Awaitable[None]]] = {
            fleet.HELLO: self._on_hello,
            fleet.SOLUTION: self._on_solution,
            fleet.STATUS: self._on_status,
        }
        self._client = client
        subscribed = []
        try:
            for subject, handler in handlers.items():
                subscribed.append(await client.subscribe(f"{subject}.*", cb=partial(self._handle, handler)))
            while True:
                self._due.clear()
                await self._announce(client)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANNOUNCE_S):
                        await self._due.wait()
        finally:
            self._client = None
            for subscription in subscribed:
                with contextlib.suppress(Exception):  # the connection has ended
                    await subscription.unsubscribe()

    def invite(self, names: Collection[str]) -> None:
        """Make these the rigs that may connect, and forget all others."""
        self.invited = dict.fromkeys(names)
        for name in self._rigs.keys() - set(names):
            self._slots.leave(name)
            del self._rigs[name]

    def locked_out(self) -> frozenset[str]:
        """Return the names of the rigs that may not connect for now."""
        now, rigs = self._hub.clock(), self._rigs
        self._locked_out = {name for name in self._locked_out if name in rigs and now < rigs[name].locked_until}
        return frozenset(self._locked_out)

    def on_event(self, event: Event) -> None:
        """Tell a rig what the pool says of its solution."""
        if not isinstance(event, ShareJudged) or (name := self._finders.pop(event.nonce, None)) is None:
            return
        if (rig := self._rigs.get(name)) is not None:
            rig.accepted += event.judgement == "accepted"
            rig.rejected += event.judgement == "rejected"
            rig.stale += event.judgement == "stale"
            verdict = fleet.VerdictMessage(f"{event.nonce:0128x}", event.judgement, event.reason[:256])
            task = asyncio.create_task(self._tell(f"{fleet.VERDICT}.{name}", verdict))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, subject: str, verdict: fleet.VerdictMessage) -> None:
        with contextlib.suppress(Exception):  # the connection is closed: the rig does not learn it
            if self._client is not None:
                await self._client.publish(subject, fleet.encode(verdict))

    def names(self) -> list[str]:
        """Return the names of all rigs that may connect, or of those that were heard of if only the servers know."""
        return list(self._rigs if self.invited is None else self.invited)

    def tell(self, names: Iterable[str]) -> None:
        """Tell rigs what they are asked to do. Those that are offline ask once they are back."""
        self._untold.update(name for name in names if name in self._rigs)
        self._due.set()

    def is_online(self, name: str) -> bool:
        """Return True if a rig was heard of within OFFLINE_S."""
        rig = self._rigs.get(name)
        return rig is not None and rig.is_online(self._hub.clock())

    def silent(self, seconds: float) -> list[str]:
        """Return the rigs that are here and have not hashed for ``seconds``, although they should."""
        now = self._hub.clock()
        return [
            rig.name
            for rig in self._rigs.values()
            if rig.silent_since is not None and now - rig.silent_since >= seconds and rig.is_online(now)
        ]

    def stats(self) -> tuple[RigStats, ...]:
        """Return a snapshot of each rig that was heard of since the start. With MANY rigs it may be STATS_S old."""
        now, many = self._hub.clock(), len(self._rigs) >= MANY
        if not many or now >= self._stats_at + STATS_S:
            self._stats_at = now
            self._stats = tuple(self._stats_of(rig, now) for rig in self._rigs.values())
        return self._stats

    def _stats_of(self, rig: Rig, now: float) -> RigStats:
        status = rig.status
        return RigStats(
            name=rig.name,
            tags=self.tags.get(rig.name, ()),
            online=rig.is_online(now),
            aside=now < rig.aside_until,
            contact_age_s=now - rig.heard_at,
            status=status,
            waits=self.orders(rig.name).id != (status.done if status else ""),
            kept=rig.kept,
            stale=rig.stale,
            invalid=rig.invalid,
            accepted=rig.accepted,
            rejected=rig.rejected,
            work=rig.work,
            hashes=rig.hashes,
            proven_rate=rig.proven.rate(now, rig.work),
        )

    def _on_work(self) -> None:
        work = self._hub.work
        if work is None:
            return
        self._targets[work.job.header] = work.job
        self._targets.move_to_end(work.job.header)
        if len(self._targets) > MAX_TARGETS:
            self._targets.popitem(last=False)
        if work.job.prefix:
            self._untold.update(self._slots.begin(work.job.header))
        self._due.set()

    async def _announce(self, client: Client) -> None:
        while self._untold:
            name = self._untold.pop()
            message = fleet.RigMessage(self._slot(name), self.orders(name))
            await client.publish(f"{fleet.RIG}.{name}", fleet.encode(message))
        if (job := self._job()) is not None:
            await client.publish(fleet.JOB, fleet.encode(job))

    def _job(self) -> fleet.JobMessage | None:
        work = self._hub.work
        return None if work is None else fleet.job_message(work.job, self._run, work.number, self._number)

    def _slot(self, name: str) -> str | None:
        slot = self._slots.slot(name)
        return None if slot is None else slot.to_bytes(SLOT_BYTES).hex()

    async def _handle(self, handler: Callable[[Rig, Msg], Awaitable[None]], message: Msg) -> None:
        """Handle a message. The server has made sure that the name in its subject is that of the sender."""
        name = message.subject.rpartition(".")[2]
        if self.invited is not None and name not in self.invited:
            return  # it was just revoked
        rig = self._rig(name)
        if rig.heard_at < rig.locked_until:
            return
        if not rig.messages.take(1, rig.heard_at):
            rig.locked_until = rig.heard_at + LOCKED_OUT_S
            self._locked_out.add(name)
            log.error("Rig %s sends too many messages; locked out for %d s", name, LOCKED_OUT_S)
            return
        try:
            await handler(rig, message)
        except RemoteProtocolError as error:
            log.debug("Rig %s: %s", name, error)
        except Exception:  # one message must not affect the others
            log.exception("Handling a message of rig %s has failed", name)

    def _rig(self, name: str) -> Rig:
        rig = self._rigs.get(name)
        if rig is None:
            now = self._hub.clock()
            rig = self._rigs[name] = Rig(name, now, RateMeter(now, window_s=WINDOW_S))
        rig.heard_at = self._hub.clock()
        return rig

    async def _on_hello(self, rig: Rig, message: Msg) -> None:
        if not rig.hellos.take(1, rig.heard_at):
            return
        log.info("Rig %s is here", rig.name)
        self._slots.join(rig.name)
        welcome = fleet.Welcome(self._job(), self._slot(rig.name), self.orders(rig.name))
        await message.respond(fleet.encode(welcome))

    async def _on_status(self, rig: Rig, message: Msg) -> None:
        status = fleet.decode(message.data, fleet.StatusMessage)
        before, rig.status = rig.status, status
        if before is not None:
            # A rig that has started again counts from 0.
            rig.hashes += status.hashes - (before.hashes if status.hashes >= before.hashes else 0)
        rig.proven.sample(rig.heard_at, rig.work)
        if self._hub.work is None or status.hash_rate or status.pauses:
            rig.silent_since = None
        elif rig.silent_since is None:
            rig.silent_since = rig.heard_at
        if status.done != self.orders(rig.name).id:
            self._untold.add(rig.name)  # again with the next announcement

    async def _on_solution(self, rig: Rig, message: Msg) -> None:
        found = fleet.decode(message.data, fleet.SolutionMessage)
        # The next one need not wait for the disk.
        task = asyncio.create_task(self._answer(rig, found, message))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _answer(self, rig: Rig, found: fleet.SolutionMessage, message: Msg) -> None:
        state: State = "later"
        if len(self._judging) <= MAX_JUDGING:
            state = await self._judge(rig, bytes.fromhex(found.header), int(found.nonce, 16))
        with contextlib.suppress(Exception):  # the connection is closed: the rig asks again
            await message.respond(fleet.encode(fleet.SolutionReply(state)))

    async def _judge(self, rig: Rig, header: bytes, nonce: int) -> State:
        now = self._hub.clock()
        if not self._hub.leads():
            return "later"
        if now < rig.aside_until:
            return "invalid"
        if (job := self._targets.get(header)) is None:
            if self._hub.work is None:
                return "later"
            rig.stale += 1
            return "stale"
        valid = nonce.to_bytes(64).startswith(job.prefix) and self._hasher.meets(header, nonce, job.target)
        if valid:
            self._hub.prove(job.difficulty, header)
            rig.work += job.difficulty
        saved = self._hub.solve(header, nonce) if valid else None
        if saved is None:
            rig.invalid += 1
            rig.strikes += 1
            if rig.strikes >= MAX_INVALID:
                rig.strikes, rig.aside_until = 0, now + ASIDE_S
                text = "Rig %s has sent %d invalid solutions in a row; ignored for %d s"
                log.error(text, rig.name, MAX_INVALID, ASIDE_S)
            return "invalid"
        if job.prefix:  # only pools give verdicts
            self._finders[nonce] = rig.name
            if len(self._finders) > MAX_JUDGED:
                self._finders.popitem(last=False)
        await asyncio.wrap_future(saved)
        rig.strikes = 0
        rig.kept += 1
        # In a pool these are shares, of which many come.
        level = logging.DEBUG if job.prefix else logging.INFO
        log.log(level, "Rig %s has found a solution, difficulty %d", rig.name, job.difficulty)
        return "kept"
