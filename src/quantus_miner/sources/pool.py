"""A link to a pool that speaks stratum over TCP or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from quantus_miner import __version__
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.sources.addresses import Addresses, LookUpError, connect_tcp
from quantus_miner.sources.link import Handover, Verdict
from quantus_miner.wire.core import Broken, JobReceived, JobRefused
from quantus_miner.wire.stratum_miner import Judged, LoggedIn, LoginRefused, StratumMiner

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.sources.addresses import Address
    from quantus_miner.sources.link import Listener
    from quantus_miner.wire.pool_url import PoolUrl
    from quantus_miner.wire.stratum_miner import Event, Timing

log = logging.getLogger("miner.pool")

AGENT: Final = f"quantus-miner/{__version__}"
CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds for name resolution, connection and TLS handshake together."""
READ_BYTES: Final = 65_536
TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
"""First bytes of a TLS alert and a TLS handshake. No line of JSON begins like that."""
MAX_UNSENT: Final = 65_536
"""Bytes that the pool has not read, after which the connection is closed."""


class PoolLink:
    """Implements Link. ``login``: ``<wallet>.<worker>``. Raises ValueError if the URL is not a stratum URL."""

    def __init__(
        self, url: PoolUrl, login: str, *, timing: Timing | None = None, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        if not url.scheme.startswith("stratum+"):
            raise ValueError(f"{url} is not a stratum URL")
        self.identity = ("stratum", url, login, timing, connect_timeout_s)
        self._url = url
        self._login = login
        self._timing = timing
        self._connect_timeout_s = connect_timeout_s
        self._tls = _tls_context(url) if url.tls else None
        self._addresses = Addresses(url.host, url.port, socket.SOCK_STREAM)
        self._address: Address | None = None
        self._warned = False
        self._speaks_tls: bool | None = None  # tested once it has closed a connection without TLS; None: not tested
        self._connection: _Connection | None = None

    @property
    def name(self) -> str:
        """``pool stratum+tcp://host:3333``."""
        return f"pool {self._url}"

    def with_login(self, login: str) -> PoolLink:
        """Return a link of its own to the same pool, with another login."""
        return PoolLink(self._url, login, timing=self._timing, connect_timeout_s=self._connect_timeout_s)

    async def run(self, listener: Listener) -> NoReturn:
        """See ``Link.run``."""
        now = asyncio.get_running_loop().time
        began, self._address = now(), None
        try:
            await self._run(listener)
        finally:
            if self._address is not None:
                self._addresses.ended(self._address, now() - began)

    async def _run(self, listener: Listener) -> NoReturn:
        reader, writer = await self._connect()
        now = asyncio.get_running_loop().time
        try:
            self._check_pin(writer)
            core = StratumMiner(self._login, AGENT, now(), self._timing)
            self._connection = connection = _Connection(self.name, core, writer.transport, listener)
            try:
                await self._converse(reader, connection)
            finally:
                self._connection = None
                for share in core.close(now()):
                    connection.report(share, unanswered=True)
        finally:
            # Not close(): a peer could make it wait. The kernel already has all that was written.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:  # noqa: ARG002 - pools ask for neither
        """See ``Link.submit``. A nonce that was already sent for this header counts as late."""
        connection = self._connection
        if connection is None or connection.transport.is_closing():
            return Handover.LATE
        if not connection.core.submit(job, solution.nonce, solution.value, asyncio.get_running_loop().time()):
            return Handover.LATE
        connection.flush()
        return Handover.SENT

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._url.insecure and not self._warned:
            self._warned = True
            text = "The certificate of %s is not checked (insecure=1): anyone can pretend to be it"
            log.warning(text, self.name, extra={"source": self.name})
        deadline = asyncio.get_running_loop().time() + self._connect_timeout_s
        try:
            addresses = await self._addresses.look_up(self._connect_timeout_s)
            async with asyncio.timeout_at(deadline):
                sock, self._address = await connect_tcp(addresses)
        except LookUpError as error:
            raise LinkLostError(str(error)) from None
        except TimeoutError:
            raise LinkLostError(f"no connection within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise LinkLostError(f"no connection: {_reason(error)}") from None
        if self._tls is None:
            return await asyncio.open_connection(sock=sock)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=self._url.host)
        except TimeoutError:
            reason = f"it did not answer the TLS handshake within {self._connect_timeout_s:g} s"
        except ssl.SSLCertVerificationError as error:
            raise LinkRefusedError(await self._untrusted(error.verify_message)) from None
        except (OSError, ValueError) as error:  # ValueError: a host name that no certificate can have
            reason = f"the TLS handshake failed: {_reason(error)}"
        plain = replace(self._url, scheme="stratum+tcp")
        raise LinkLostError(f"{reason}; if this port does not speak TLS, write {plain}")

    async def _untrusted(self, reason: str) -> str:
        """Return the error text for an untrusted certificate, with its SHA-256 and how to trust it."""
        text = f"its certificate is not trusted: {reason}"
        if (fingerprint := await self._see_certificate()) is None:
            return f"{text}; to trust it, add ?pin= and its SHA-256 at the end of the URL"
        pin = fingerprint.hex()
        return f"{text}; its SHA-256 is {pin}: if that is what the pool publishes, write {self._url}?pin={pin}"

    async def _see_certificate(self) -> bytes | None:
        """Return the SHA-256 of the certificate at this connection's address, or None if it does not speak TLS.

        Opens a separate connection and sends nothing on it.
        """
        if self._address is None:
            return None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                sock, _ = await connect_tcp([self._address])
                _, writer = await asyncio.open_connection(
                    sock=sock, ssl=_unverified_context(), server_hostname=self._url.host
                )
        except (OSError, ValueError):
            return None
        try:
            return _fingerprint(writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _why_lost(self, connection: _Connection, words: str) -> str:
        """Return why a connection ended: ``words``, or a better reason if there is one."""
        if connection.choked:
            return "it does not read what we send"
        if connection.received or self._tls is not None:
            return words
        if self._speaks_tls is None:
            self._speaks_tls = await self._see_certificate() is not None
        return self._tls_wanted() if self._speaks_tls else words

    def _tls_wanted(self) -> str:
        return f"this port speaks TLS: write {replace(self._url, scheme='stratum+ssl')}"

    def _check_pin(self, writer: asyncio.StreamWriter) -> None:
        """Compare the certificate with the pin before sending anything. Raises LinkRefusedError if they differ."""
        if self._url.pin is None:
            return
        fingerprint = _fingerprint(writer)
        if not hmac.compare_digest(fingerprint, self._url.pin):
            raise LinkRefusedError(
                f"its certificate has SHA-256 {fingerprint.hex()}, not the pinned {self._url.pin.hex()}"
            )

    async def _converse(self, reader: asyncio.StreamReader, connection: _Connection) -> NoReturn:
        loop, core = asyncio.get_running_loop(), connection.core
        while True:
            connection.flush()
            try:
                async with asyncio.timeout_at(core.deadline) as limit:
                    data = await reader.read(READ_BYTES)
            except OSError as error:
                # The system can raise a TimeoutError as well.
                if not limit.expired():
                    raise LinkLostError(await self._why_lost(connection, _reason(error))) from None
            else:
                if not data:
                    raise LinkLostError(await self._why_lost(connection, "it closed the connection"))
                if not connection.received and self._tls is None and data.startswith(TLS_RECORDS):
                    raise LinkLostError(self._tls_wanted())
                connection.received, self._speaks_tls = True, None
                connection.listener.on_alive()
                connection.hear(core.receive(data, loop.time()))
            # Also after data: time must pass even if the pool never stops sending.
            connection.hear(core.tick(loop.time()))


class _Connection:
    """An open connection. ``choked``: the pool did not read what was sent. ``received``: the pool has sent data."""

    def __init__(self, name: str, core: StratumMiner, transport: asyncio.WriteTransport, listener: Listener) -> None:
        self.name = name
        self.core = core
        self.transport = transport
        self.choked = False
        self.listener = listener
        self.received = False
        self._warned = False

    def flush(self) -> None:
        """Write what the core has to send. Abort the connection if the pool does not read it."""
        if data := b"".join(self.core.data_to_send()):
            self.transport.write(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.choked = True
            self.transport.abort()

    def hear(self, events: list[Event]) -> None:
        """Pass events on to the listener. Raises LinkLostError or LinkRefusedError at the end of the connection."""
        # Of several jobs that arrive together, only the last is worth starting.
        last_job = next((event for event in reversed(events) if isinstance(event, JobReceived)), None)
        for event in events:
            match event:
                case LoggedIn():
                    self.listener.on_open()
                case JobReceived(job) if event is last_job:
                    self.listener.on_job(job)
                case JobRefused(reason, mining):
                    # Once per connection: a pool must not be able to fill the log.
                    level = logging.DEBUG if self._warned else logging.WARNING
                    self._warned = True
                    meanwhile = "still mining the one before" if mining else "waiting for the next one"
                    text = "Ignored a job of %s: %s; %s"
                    log.log(level, text, self.name, reason, meanwhile, extra={"source": self.name})
                case Judged():
                    self.report(event)
                case LoginRefused(reason):
                    raise LinkRefusedError(f"it refuses the login: {reason}")
                case Broken(reason):
                    raise LinkLostError(reason)

    def report(self, share: Judged, *, unanswered: bool = False) -> None:
        """Pass the verdict on a share on to the listener. ``unanswered``: the connection ended before there was one."""
        job, verdict = share.job, "accepted" if share.accepted else share.reason
        log.debug(
            "Share of job %s, difficulty %d: %s, %.3f s",
            job.id,
            job.difficulty,
            verdict,
            share.latency_s,
            extra={
                "source": self.name,
                "job": job.id,
                "difficulty": job.difficulty,
                "latency_ms": round(1000 * share.latency_s, 1),
            },
        )
        self.listener.on_verdict(
            Verdict(share.accepted, share.stale, share.reason, share.latency_s, share.nonce, job.difficulty, unanswered)
        )


def _tls_context(url: PoolUrl) -> ssl.SSLContext:
    # With a pin, the fingerprint is compared instead. With insecure=1, the operator wants no check.
    return ssl.create_default_context() if url.pin is None and not url.insecure else _unverified_context()


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _fingerprint(writer: asyncio.StreamWriter) -> bytes:
    """Return the SHA-256 of the peer's certificate in DER form."""
    return hashlib.sha256(writer.get_extra_info("ssl_object").getpeercert(binary_form=True)).digest()


def _reason(error: OSError | ValueError) -> str:
    """Return the system's text for an error, if possible without its number and the address."""
    number = None if isinstance(error, ssl.SSLError) or not isinstance(error, OSError) else error.errno
    return (os.strerror(number) if number and number > 0 else str(error)) or type(error).__name__
