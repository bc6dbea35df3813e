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

from quantus_miner.hub.slots import HUB_BYTES, SLOT_BYTES, Slots
from quantus_miner.mining.stats import RigStats
from quantus_miner.wire import fleet
from quantus_miner.wire.core import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

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
ASIDE_S: Final = 600.0
"""Seconds for which solutions of a rig that was set aside are not looked at."""


@dataclass(slots=True)
class Rig:
    """What is known of a rig since the hub's start. Times are seconds of the hub's clock."""

    name: str
    heard_at: float
    status: fleet.StatusMessage | None = None
    kept: int = 0
    stale: int = 0
    invalid: int = 0
    strikes: int = 0
    """Invalid solutions since the last valid one."""
    aside_until: float = 0.0


class Rigs:
    """Owned by the event loop's thread. ``invited``: names of the rigs that may connect; None: the servers know."""

    def __init__(self, hub: Hub, hasher: ShareHasher) -> None:
        self._hub = hub
        self._hasher = hasher
        self._run = secrets.token_hex(8)
        self._number = secrets.token_bytes(HUB_BYTES)
        self._slots = Slots()
        self.invited: Collection[str] | None = None
        self._rigs: dict[str, Rig] = {}
        self._targets: OrderedDict[bytes, LiveJob] = OrderedDict()
        self._moved: set[str] = set()  # rigs that have to be told their slot
        self._due = asyncio.Event()
        self._judging: set[asyncio.Task[None]] = set()
        hub.watch(self._on_work)

    async def serve(self, client: Client) -> None:
        """Give jobs out and answer rigs until cancelled."""
        handlers: Mapping[str, Callable[[str, Msg], Awaitable[None]]] = {
            fleet.HELLO: self._on_hello,
            fleet.SOLUTION: self._on_solution,
            fleet.STATUS: self._on_status,
        }
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
            for subscription in subscribed:
                with contextlib.suppress(Exception):  # the connection has ended
                    await subscription.unsubscribe()

    def invite(self, names: Collection[str]) -> None:
        """Make these the rigs that may connect, and forget all others."""
        self.invited = names
        for name in self._rigs.keys() - set(names):
            self._slots.leave(name)
            del self._rigs[name]

    def stats(self) -> tuple[RigStats, ...]:
        """Return a snapshot of each rig that was heard of since the start."""
        now = self._hub.clock()
        return tuple(self._stats_of(rig, now) for rig in self._rigs.values())

    def _stats_of(self, rig: Rig, now: float) -> RigStats:
        status, online = rig.status, now - rig.heard_at < OFFLINE_S
        return RigStats(
            name=rig.name,
            online=online,
            aside=now < rig.aside_until,
            contact_age_s=now - rig.heard_at,
            version=status.version if status else "",
            hash_rate=status.hash_rate if status and online else None,
            temperature=status.temperature if status and online else None,
            power=status.power if status and online else None,
            kept=rig.kept,
            stale=rig.stale,
            invalid=rig.invalid,
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
            self._moved.update(self._slots.begin(work.job.header))
        self._due.set()

    async def _announce(self, client: Client) -> None:
        if (message := self._job()) is None:
            return
        while self._moved:
            name = self._moved.pop()
            await client.publish(f"{fleet.RIG}.{name}", fleet.encode(fleet.SlotMessage(self._slot(name))))
        await client.publish(fleet.JOB, fleet.encode(message))

    def _job(self) -> fleet.JobMessage | None:
        work = self._hub.work
        return None if work is None else fleet.job_message(work.job, self._run, work.number, self._number)

    def _slot(self, name: str) -> str | None:
        slot = self._slots.slot(name)
        return None if slot is None else slot.to_bytes(SLOT_BYTES).hex()

    async def _handle(self, handler: Callable[[str, Msg], Awaitable[None]], message: Msg) -> None:
        """Handle a message. The server has made sure that the name in its subject is that of the sender."""
        name = message.subject.rpartition(".")[2]
        if self.invited is not None and name not in self.invited:
            return  # it was just revoked
        try:
            await handler(name, message)
        except RemoteProtocolError as error:
            log.debug("Rig %s: %s", name, error)
        except Exception:  # one message must not affect the others
            log.exception("Handling a message of rig %s has failed", name)

    def _rig(self, name: str) -> Rig:
        rig = self._rigs.get(name)
        if rig is None:
            rig = self._rigs[name] = Rig(name, self._hub.clock())
        rig.heard_at = self._hub.clock()
        return rig

    async def _on_hello(self, name: str, message: Msg) -> None:
        self._rig(name)
        log.info("Rig %s is here", name)
        self._slots.join(name)
        await message.respond(fleet.encode(fleet.Welcome(self._job(), self._slot(name))))

    async def _on_status(self, name: str, message: Msg) -> None:
        self._rig(name).status = fleet.decode(message.data, fleet.StatusMessage)

    async def _on_solution(self, name: str, message: Msg) -> None:
        rig, found = self._rig(name), fleet.decode(message.data, fleet.SolutionMessage)
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
        saved = self._hub.solve(header, nonce) if valid else None
        if saved is None:
            rig.invalid += 1
            rig.strikes += 1
            if rig.strikes >= MAX_INVALID:
                rig.strikes, rig.aside_until = 0, now + ASIDE_S
                text = "Rig %s has sent %d invalid solutions in a row; ignored for %d s"
                log.error(text, rig.name, MAX_INVALID, ASIDE_S)
            return "invalid"
        await asyncio.wrap_future(saved)
        rig.strikes = 0
        rig.kept += 1
        return "kept"
