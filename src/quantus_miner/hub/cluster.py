"""What the hubs of a cluster share on its NATS servers: the lease, and the outbox."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.errors import MinerError
from quantus_miner.hub.outbox import KEEP_S, MAX_SOLUTIONS
from quantus_miner.model import Solution
from quantus_miner.store.rows import Sent, StoredSolution
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from collections.abc import Collection

    from nats.aio.client import Client
    from nats.js.api import StreamConfig
    from nats.js.client import JetStreamContext

log = logging.getLogger("miner.hub")

REQUEST_S: Final = 1.0
"""Seconds for an answer of JetStream."""
RETRY_S: Final = 1.0
"""Seconds between two attempts to store a solution that JetStream refuses."""
BATCH: Final = 64
"""Solutions that are written at once."""
MAX_BYTES: Final = 16_000_000
"""Bytes of the outbox on the servers: more than MAX_SOLUTIONS take."""
REPLICAS: Final = (3, 1)
"""Servers that keep the lease and the outbox: three, or one if there are not so many."""
WRONG_REVISION: Final = (10071, 10164)
"""Error codes of JetStream."""
TOO_FEW_SERVERS: Final = (10005, 10074)


def boot_time() -> float:
    """Return seconds since the machine has started, with those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClusterLease:
    """The lease on the servers. It is on their disks, so that its revision does not fall back when they restart.

    Methods raise an Error of ``nats.errors``, which includes that of a timeout.
    """

    def __init__(self, stream: JetStreamContext) -> None:
        self._js = stream

    async def read(self) -> tuple[int, str]:
        """Return its revision and its holder, 0 if there is none."""
        from nats.js.errors import NotFoundError

        try:
            message = await self._js.get_msg(fleet.LEASE_STREAM, subject=fleet.LEASE)
        except NotFoundError:
            return 0, ""
        return message.seq or 0, (message.data or b"").decode(errors="replace")

    async def write(self, holder: str, revision: int) -> int | None:
        """Replace ``revision``. Return the new one, None if the servers have another one than that."""
        from nats.js.errors import APIError

        expected = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            accepted = await self._js.publish(fleet.LEASE, holder.encode(), headers=expected)
        except APIError as error:
            if error.err_code in WRONG_REVISION:
                return None
            raise
        return int(accepted.seq)


@dataclass(frozen=True, slots=True)
class _Due:
    """A solution to write. ``futures``: of those who wait for that."""

    solution: StoredSolution
    futures: list[Future[None]]

    def resolve(self) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(None)


class SharedOutbox:
    """The outbox on the servers, which the next leader takes over. Implements Ledger. Owned by the event loop's thread.

    What cannot be written now, because another hub leads or the servers are away, is written when this one leads.
    """

    def __init__(self) -> None:
        self._due: dict[tuple[bytes, int], _Due] = {}
        self._wake = asyncio.Event()
        self.drained = asyncio.Event()
        """Set while nothing has to be written."""
        self.drained.set()
        self._ok = True

    def keep(self, solution: StoredSolution) -> Future[None]:
        """See ``Ledger``."""
        future: Future[None] = Future()
        before = self._due.pop(solution.key, None)
        self._due[solution.key] = _Due(solution, [*(before.futures if before else ()), future])
        self._wake.set()
        self.drained.clear()
        return future

    def settle(self, keys: Collection[tuple[bytes, int]]) -> None:
        """See ``Ledger``. The servers forget solutions by themselves, after KEEP_S."""
        for key in keys:
            self._due.pop(key, None)

    async def load(self, stream: JetStreamContext) -> list[StoredSolution]:
        """Return all that the servers have, and forget what they know better. Raises an Error of ``nats.errors``."""
        from nats.js.api import AckPolicy, ConsumerConfig

        last = (await stream.stream_info(fleet.OUTBOX_STREAM)).state
        found: list[StoredSolution] = []
        if last.messages == 0:
            return found
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=60.0)
        consumer = await stream.pull_subscribe(f"{fleet.OUTBOX}.>", stream=fleet.OUTBOX_STREAM, config=config)
        try:
            number = 0
            while number < last.last_seq:
                for message in await consumer.fetch(BATCH, timeout=REQUEST_S):
                    number = message.metadata.sequence.stream
                    found.append(_decoded(message.data))
        finally:
            await consumer.unsubscribe()
        for solution in found:
            due = self._due.get(solution.key)
            if due is not None and due.solution.sent is not Sent.YES:
                del self._due[solution.key]
                due.resolve()
        return found

    async def write(self, stream: JetStreamContext) -> None:
        """Write what is due, until cancelled. Raises an Error of ``nats.errors`` if the servers do not answer."""
        from nats.js.errors import APIError

        while True:
            self._wake.clear()
            while self._due:
                batch = list(self._due.items())[:BATCH]
                results = await asyncio.gather(
                    *(stream.publish(_subject(due.solution), _encoded(due.solution)) for _, due in batch),
                    return_exceptions=True,
                )
                refused: APIError | None = None
                for (key, due), result in zip(batch, results, strict=True):
                    if isinstance(result, APIError):
                        refused = result  # for example, there is no room: the hub goes on with what is in memory
                    elif isinstance(result, BaseException):
                        raise result
                    elif self._due.get(key) is due:
                        del self._due[key]
                    due.resolve()
                self._note(refused)
                if refused is not None:
                    await asyncio.sleep(RETRY_S)
            self.drained.set()
            await self._wake.wait()

    def _note(self, refused: Exception | None) -> None:
        """Tell once that solutions cannot be stored, and that they can be again."""
        before, self._ok = self._ok, refused is None
        if refused is not None and before:
            log.error("NATS cannot store solutions: %s; they are kept in memory only until it can", refused)
        elif not before and self._ok:
            log.warning("NATS can store solutions again")


async def prepare(client: Client) -> JetStreamContext:
    """Return JetStream, with the streams of the hubs. Raises MinerError, one line, if the account has none."""
    from nats.errors import Error
    from nats.js.api import DiscardPolicy, StorageType, StreamConfig

    stream = client.jetstream(timeout=REQUEST_S)
    lease = StreamConfig(fleet.LEASE_STREAM, subjects=[fleet.LEASE], storage=StorageType.FILE, max_msgs=1)
    outbox = StreamConfig(
        fleet.OUTBOX_STREAM,
        subjects=[f"{fleet.OUTBOX}.>"],
        storage=StorageType.FILE,
        max_msgs=MAX_SOLUTIONS,
        max_bytes=MAX_BYTES,
        max_msgs_per_subject=1,
        max_age=KEEP_S,
        discard=DiscardPolicy.OLD,
    )
    try:
        for config in (lease, outbox):
            await _ensure(stream, config)
    except Error as error:
        reason = f"{error}" or type(error).__name__
        raise MinerError(f"JetStream cannot be used: {reason}; see `quantus-miner hub nats-config`") from None
    return stream


async def _ensure(stream: JetStreamContext, config: StreamConfig) -> None:
    """Create a stream, with as many replicas as possible, unless it is there."""
    from nats.js.errors import APIError, NotFoundError

    try:
        await stream.stream_info(config.name or "")
    except NotFoundError:
        pass
    else:
        return
    for replicas in REPLICAS:
        try:
            await stream.add_stream(config.evolve(num_replicas=replicas))
        except APIError as error:
            if replicas == 1 or error.err_code not in TOO_FEW_SERVERS:
                raise
        else:
            return


def _subject(solution: StoredSolution) -> str:
    header, nonce = solution.key
    return f"{fleet.OUTBOX}.{header.hex()}.{nonce:0128x}"


def _encoded(solution: StoredSolution) -> bytes:
    found = solution.solution
    return msgspec.json.encode(
        fleet.OutboxMessage(solution.header.hex(), f"{found.nonce:0128x}", f"{found.value:0128x}", int(solution.sent))
    )


def _decoded(data: bytes) -> StoredSolution:
    message = fleet.decode(data, fleet.OutboxMessage)
    solution = Solution(int(message.nonce, 16), int(message.value, 16))
    return StoredSolution(bytes.fromhex(message.header), solution, Sent(message.sent))
