"""A link to a node, or to a pool that speaks the node protocol: ``wire.node`` over QUIC."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from quantus_miner import units
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.sources import quic
from quantus_miner.sources.addresses import Addresses, LookUpError
from quantus_miner.sources.link import Handover
from quantus_miner.wire import node as proto
from quantus_miner.wire.core import Broken, JobReceived, JobRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.sources.addresses import Address
    from quantus_miner.sources.link import Listener

log = logging.getLogger("miner.node")

HANDSHAKE_S: Final = 10.0
"""Seconds for looking up the name, and the same again for the handshake with each address."""
PING_S: Final = 5.0
IDLE_S: Final = 15.0
"""Seconds without a packet from the node after which the connection is lost."""

MAX_WAITING: Final = 256
"""Results that may wait until earlier frames are acknowledged."""

Result = TypeVar("Result")


class NodeLink:
    """A link to a node's QUIC port. Implements Link.

    ``pin``: SHA-256 of the node's certificate. None: any certificate is accepted, with a warning. ``kind``: ``node``,
    or ``pool`` for a pool, whose token is ``<wallet>.<worker>``. Times are in seconds; only tests set them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str,
        pin: bytes | None,
        *,
        kind: str = "node",
        handshake_s: float = HANDSHAKE_S,
        ping_s: float = PING_S,
        idle_s: float = IDLE_S,
        alpn: str = proto.ALPN,
    ) -> None:
        self.identity = (kind, host, port, token, pin, handshake_s, ping_s, idle_s, alpn)
        self._host = host
        self._port = port
        self._token = token
        self._pin = pin
        self._kind = kind
        self._handshake_s = handshake_s
        self._ping_s = ping_s
        self._idle_s = idle_s
        self._alpn = alpn
        self._warned = False
        self._addresses = Addresses(host, port, socket.SOCK_DGRAM)
        self._address: Address | None = None  # the one that answered
        self._session: _Session | None = None

    @property
    def name(self) -> str:
        """``node 127.0.0.1:9833`` or ``pool quic://host:port``."""
        return f"{self._kind} {'quic://' if self._kind == 'pool' else ''}{units.endpoint(self._host, self._port)}"

    async def run(self, listener: Listener) -> NoReturn:
        """See ``Link.run``."""
        session = None
        began = asyncio.get_running_loop().time()
        try:
            session = await self._dial(listener)
            self._check(session.connection.fingerprint)
            self._session = session
            session.start()
            while True:
                await asyncio.wait((session.connection.ended,), timeout=self._ping_s)
                if session.connection.ended.done():
                    session.connection.ended.result()
                # A node that is gone does not answer pings, which ends the connection after ``idle_s``.
                listener.on_alive()
                session.connection.ping()
        except quic.EndedError as error:
            raise self._verdict(error) from None
        finally:
            self._session = None
            if session is not None:
                session.close()
            if self._address is not None:
                self._addresses.ended(self._address, asyncio.get_running_loop().time() - began)

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """See ``Link.submit``."""
        return Handover.LATE if self._session is None else self._session.submit(job, solution, hashes, elapsed)

    async def _dial(self, listener: Listener) -> _Session:
        """Return a session with the host's first address whose handshake succeeds. Raises EndedError if none does."""
        self._address = None
        try:
            addresses = await self._addresses.look_up(self._handshake_s)
        except LookUpError as error:
            raise quic.EndedError(str(error)) from None
        failures: list[quic.EndedError] = []
        for address in addresses:
            session = _Session(self.name, listener, self._token, self._alpn, self._idle_s, paced=self._kind == "node")
            try:
                await _within(self._handshake_s, session.connection.open(*address))
            except quic.EndedError as error:
                failures.append(error)
                if error.code is None:
                    continue  # no answer
                self._address = address
                break
            self._address = address
            return session
        raise failures[-1]

    def _check(self, fingerprint: bytes) -> None:
        """Compare the node's certificate with the pin. Raises LinkRefusedError if they differ."""
        if self._pin is None:
            if not self._warned:
                text = "The certificate of %s is not checked (insecure=1); its SHA-256, for ?pin=, is %s"
                log.warning(text, self.name, fingerprint.hex(), extra={"source": self.name})
            self._warned = True
        elif not hmac.compare_digest(fingerprint, self._pin):
            raise LinkRefusedError(
                f"the certificate is not the pinned one: its SHA-256 is {fingerprint.hex()}, "
                f"pinned is {self._pin.hex()}"
            )

    def _verdict(self, error: quic.EndedError) -> LinkLostError | LinkRefusedError:
        """Return the error for the end of a connection, which was lost or refused."""
        if error.code == quic.NO_APPLICATION_PROTOCOL:
            return LinkRefusedError(f"it does not speak {self._alpn}: wrong node version")
        if error.by_application and error.reason == proto.AUTH_FAILED:
            return LinkRefusedError(f"it refuses our token: {proto.AUTH_FAILED}")
        return LinkLostError(str(error))


class _Session:
    """One connection with its core, its listener, and the results that cannot be sent yet."""

    def __init__(self, name: str, listener: Listener, token: str, alpn: str, idle_s: float, *, paced: bool) -> None:
        self.connection = quic.Connection(
            alpn=alpn,
            server_name=proto.SERVER_NAME,
            idle_s=idle_s,
            receive=self._receive,
            on_room=self._send_waiting,
        )
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._listener = listener
        self._core = proto.NodeMiner(token, self._loop.time(), paced=paced)
        self._waiting: deque[tuple[LiveJob, Solution, int, float]] = deque()
        self._verified = False
        self._warned = False

    def start(self) -> None:
        """Send our token. Call this only after the node's certificate was checked."""
        self._verified = True
        if self._flush():
            self._listener.on_open()

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        if self.connection.ended.done() or not self._core.counts(job, solution):
            return Handover.LATE
        if self._core.has_enough(self._loop.time()):
            return Handover.SURPLUS
        if not self._waiting and self.connection.has_room(self._core.result_bytes):
            return self._send(job, solution, hashes, elapsed)
        if len(self._waiting) >= MAX_WAITING:
            return Handover.LATE
        self._waiting.append((job, solution, hashes, elapsed))
        return Handover.WAITS

    def close(self) -> None:
        self.connection.close()
        self._drop(list(self._waiting))

    def _send(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """Send a result, for which the connection must have room. Return SENT or LATE."""
        sent = self._core.submit(job, solution, hashes, elapsed, self._loop.time()) and self._flush()
        return Handover.SENT if sent else Handover.LATE

    def _send_waiting(self) -> None:
        while self._waiting and self.connection.has_room(self._core.result_bytes):
            result = self._waiting.popleft()
            self._listener.on_handover(*result[:2], self._send(*result))

    def _drop(self, results: list[tuple[LiveJob, Solution, int, float]]) -> None:
        """Remove waiting results and report them as late."""
        for result in results:
            self._waiting.remove(result)
            self._listener.on_handover(*result[:2], Handover.LATE)

    def _receive(self, data: bytes) -> None:
        if not self._verified:
            # The core's answer would have to follow our token.
            self.connection.close("protocol error: data before our first message")
            return
        events = self._core.receive(data, self._loop.time())
        if events:
            self._drop([result for result in self._waiting if not self._core.counts(*result[:2])])
        self._flush()
        for event in events:
            match event:
                case JobReceived(job):
                    self._listener.on_job(job)
                case JobRefused(reason):
                    # Once per connection: a peer must not be able to fill the log.
                    level = logging.DEBUG if self._warned else logging.WARNING
                    log.log(level, "%s sent an %s", self._name, reason, extra={"source": self._name})
                    self._warned = True
                    self._listener.on_no_job()
                case Broken(reason):
                    self.connection.close(f"protocol error: {reason}")

    def _flush(self) -> bool:
        """Send each frame in a separate write. Return True if the connection accepted them all."""
        return all(self.connection.write(frame) for frame in self._core.data_to_send())


async def _within(seconds: float, step: Awaitable[Result]) -> Result:
    """Return the result of ``step``. If it takes longer, cancel it and raise EndedError."""
    try:
        async with asyncio.timeout(seconds):
            return await step
    except TimeoutError:
        raise quic.EndedError(f"no answer in {seconds:g} s") from None
