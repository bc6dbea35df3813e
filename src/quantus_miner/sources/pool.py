"""A pool that speaks stratum, over TCP or TLS, as a link of the live source."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import ssl
from typing import TYPE_CHECKING, Final, NoReturn

from quantus_miner import __version__
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.proto.stratum_miner import BadJob, Broken, Judged, LoggedIn, LoginRefused, MinerCore, NewJob
from quantus_miner.sources.link import Handover, Verdict

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.proto.pool_url import PoolUrl
    from quantus_miner.proto.stratum_miner import Event, Timing
    from quantus_miner.sources.link import Listener

log = logging.getLogger("miner.pool")

AGENT: Final = f"quantus-miner/{__version__}"
CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds for name resolution, connection and TLS handshake together."""
NEXT_ADDRESS_S: Final = 0.25
"""Seconds until the next address of a name is tried beside the one before."""
READ_BYTES: Final = 65_536
MAX_UNSENT: Final = 65_536
"""Bytes that wait for a pool to read them before it counts as dead."""


class PoolLink:
    """Implements Link. ``login``: ``<wallet>.<worker>``. Raises ValueError for a URL that is not of stratum."""

    def __init__(
        self, url: PoolUrl, login: str, *, timing: Timing | None = None, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        if not url.scheme.startswith("stratum+"):
            raise ValueError(f"{url} is no stratum pool")
        self._url = url
        self._login = login
        self._timing = timing
        self._connect_timeout_s = connect_timeout_s
        self._tls = _tls_context(url) if url.tls else None
        self._connection: _Connection | None = None

    @property
    def name(self) -> str:
        """``pool stratum+tcp://host:3333``."""
        return f"pool {self._url}"

    async def run(self, listener: Listener) -> NoReturn:
        """As Link.run. All of a pool's failings but a refused login are worth another try."""
        reader, writer = await self._connect()
        try:
            self._check_pin(writer)
            now = asyncio.get_running_loop().time
            core = MinerCore(self._login, AGENT, now(), self._timing)
            self._connection = connection = _Connection(self.name, core, writer.transport, listener)
            try:
                await self._converse(reader, connection)
            finally:
                self._connection = None
                connection.hear(core.close(now()))
        finally:
            # Not close(): a peer could make that wait. What was written is with the kernel already.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:  # noqa: ARG002 - pools ask for neither
        """As Link.submit. A nonce that was sent for this header before is late, too."""
        connection = self._connection
        if connection is None or connection.transport.is_closing():
            return Handover.LATE
        if not connection.core.submit(job, solution.nonce, solution.value, asyncio.get_running_loop().time()):
            return Handover.LATE
        connection.flush()
        return Handover.SENT

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._url.insecure:
            log.warning("The certificate of %s is not checked (insecure=1): anyone can pretend to be it", self.name)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await asyncio.open_connection(
                    self._url.host, self._url.port, ssl=self._tls, happy_eyeballs_delay=NEXT_ADDRESS_S
                )
        except TimeoutError:
            raise LinkLostError(f"no connection within {self._connect_timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise LinkLostError(
                f"its certificate is not trusted: {error.verify_message}; ?pin= trusts a certain one"
            ) from None
        # ValueError: a host name that cannot be written in ASCII.
        except (OSError, ValueError) as error:
            raise LinkLostError(f"no connection: {_reason(error)}") from None

    def _check_pin(self, writer: asyncio.StreamWriter) -> None:
        """Before a byte of ours is sent. Raises LinkLostError."""
        if self._url.pin is None:
            return
        fingerprint = hashlib.sha256(writer.get_extra_info("ssl_object").getpeercert(binary_form=True)).digest()
        if not hmac.compare_digest(fingerprint, self._url.pin):
            raise LinkLostError(
                f"its certificate has SHA-256 {fingerprint.hex()}, not the pinned {self._url.pin.hex()}"
            )

    async def _converse(self, reader: asyncio.StreamReader, connection: _Connection) -> NoReturn:
        loop, core = asyncio.get_running_loop(), connection.core
        while True:
            connection.flush()
            try:
                async with asyncio.timeout_at(core.deadline) as patience:
                    data = await reader.read(READ_BYTES)
            except OSError as error:
                # A TimeoutError, too, can be the system's and not ours.
                if not patience.expired():
                    raise LinkLostError(_reason(error)) from None
            else:
                if not data:
                    closed = "it does not read what we send" if connection.choked else "it closed the connection"
                    raise LinkLostError(closed)
                connection.hear(core.receive(data, loop.time()))
            # Also after data: a pool that never stops talking must not keep time from passing.
            connection.hear(core.tick(loop.time()))


class _Connection:
    """One connection that stands. ``choked``: the pool did not read what was sent."""

    def __init__(self, name: str, core: MinerCore, transport: asyncio.WriteTransport, listener: Listener) -> None:
        self.name = name
        self.core = core
        self.transport = transport
        self.choked = False
        self._listener = listener
        self._warned = False

    def flush(self) -> None:
        """Hands what the core has to send to the transport."""
        if data := self.core.data_to_send():
            self.transport.write(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.choked = True
            self.transport.abort()

    def hear(self, events: list[Event]) -> None:
        """Tells the listener. Raises LinkLostError or LinkRefusedError at the end of the connection."""
        # Of jobs that come together only the last is worth starting.
        last_job = next((event for event in reversed(events) if isinstance(event, NewJob)), None)
        for event in events:
            match event:
                case LoggedIn():
                    self._listener.on_open()
                case NewJob(job) if event is last_job:
                    self._listener.on_job(job)
                case BadJob(reason, mining):
                    # Once a connection: a pool must not be able to fill the log.
                    level = logging.DEBUG if self._warned else logging.WARNING
                    self._warned = True
                    meanwhile = "the one before goes on" if mining else "there is none until the next one comes"
                    log.log(level, "A job of %s is not mined: %s; %s", self.name, reason, meanwhile)
                case Judged():
                    self._report(event)
                case LoginRefused(reason):
                    raise LinkRefusedError(f"it refuses the login: {reason}")
                case Broken(reason):
                    raise LinkLostError(reason)

    def _report(self, share: Judged) -> None:
        verdict = "accepted" if share.accepted else share.reason
        log.debug(
            "Share of job %s, difficulty %d: %s, %.3f s", share.job.id, share.job.difficulty, verdict, share.latency_s
        )
        self._listener.on_verdict(Verdict(share.accepted, share.stale, share.reason, share.latency_s, share.nonce))


def _tls_context(url: PoolUrl) -> ssl.SSLContext:
    if url.pin is None and not url.insecure:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The fingerprint is compared instead, or the operator wants none of it.
    context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError | ValueError) -> str:
    """The system's words, without its number and address where it has a plain one."""
    number = None if isinstance(error, ssl.SSLError) or not isinstance(error, OSError) else error.errno
    return (os.strerror(number) if number else str(error)) or type(error).__name__
