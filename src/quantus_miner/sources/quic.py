"""One QUIC connection with one stream, as a client: aioquic's protocol over our own UDP socket.

Besides aioquic's public interface, this uses some private attributes, each guarded by a test: the peer's certificate,
the end of the connection (its event comes only after a draining period), unacknowledged data, whether congestion
control lets a packet go at once, and how the stream is split into packets.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.serialization import Encoding

from quantus_miner.errors import legible

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.packet import QuicStreamFrame

log = logging.getLogger("miner.node")

STREAM: Final = 0
RECEIVE_WINDOW: Final = 65_536
"""Bytes that the peer may send before we have read them."""
MAX_IN_FLIGHT: Final = 8_000
"""Unacknowledged bytes after which further writes wait. This is less than a new connection may send at once."""
PACKET_OVERHEAD: Final = 64
"""Bytes that a packet has besides a write, at most."""
MAX_WAITING: Final = 16_384
"""Bytes that may wait for acknowledgements; further writes are refused."""
MAX_PHRASE: Final = 100
"""Characters of the reason that the peer gives for closing the connection, at most."""
NO_APPLICATION_PROTOCOL: Final = 0x100 + 120
"""QUIC's code for the TLS alert that the peers have no protocol in common."""


class EndedError(Exception):
    """Raised when a connection has ended or could not be made. ``str()`` is one line.

    ``code`` and ``reason``: those that the peer sent. ``by_application``: the peer's program closed it, not its QUIC
    layer.
    """

    def __init__(self, text: str, code: int | None = None, reason: str = "", by_application: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.by_application = by_application


class Connection(asyncio.DatagramProtocol):
    """A connection to one address. Used only on the event loop's thread.

    ``receive`` is called with the bytes of the stream, ``on_room`` when there may be room for a write again. When the
    connection ends, ``ended`` is done, with an EndedError.
    """

    def __init__(
        self,
        *,
        alpn: str,
        server_name: str,
        idle_s: float,
        receive: Callable[[bytes], None],
        on_room: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._receive = receive
        self._on_room = on_room
        self._connected: asyncio.Future[None] = loop.create_future()
        self._waiting: deque[bytes] = deque()
        self._written = 0
        self._ends: deque[int] = deque()  # of writes, in bytes from the beginning of the stream
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=[alpn],
                server_name=server_name,
                verify_mode=ssl.CERT_NONE,  # the caller checks the certificate
                idle_timeout=idle_s,
                max_data=RECEIVE_WINDOW,
                max_stream_data=RECEIVE_WINDOW,
            )
        )

    async def open(self, family: int, address: Any) -> None:  # noqa: ANN401 - a socket address
        """Connect to an address of ``Addresses`` and complete the handshake. Raises EndedError if that fails.

        When it is cancelled or fails, everything is released.
        """
        try:
            # A system without IPv6 refuses even to create a socket.
            udp = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise EndedError(f"cannot connect: {error.strerror or error}") from None
        try:
            # Only a connected socket is told that nothing is listening at the address.
            udp.setblocking(False)
            udp.connect(address)
            self._transport, _ = await self._loop.create_datagram_endpoint(lambda: self, sock=udp)
            self._quic.connect(address, now=self._loop.time())
            self._flush()
            await asyncio.wait((self._connected, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done():
                self.ended.result()
        except OSError as error:
            udp.close()
            raise EndedError(f"cannot connect: {error.strerror or error}") from None
        except BaseException:
            self.close()
            if self._transport is None:
                udp.close()
            raise

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the peer's certificate. The handshake has proved that the peer has its key."""
        certificate = self._quic.tls._peer_certificate  # noqa: SLF001
        if certificate is None:
            raise EndedError("the peer has no certificate")
        return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()

    def has_room(self, size: int) -> bool:
        """Return True if a write of ``size`` bytes would reach the UDP socket before it returns."""
        return not self.ended.done() and not self._waiting and self._fits(size)

    def write(self, data: bytes) -> bool:
        """Send ``data`` at once, or as soon as there is room.

        Return False and send nothing if the connection has ended or too much is waiting already.
        """
        if self.ended.done() or sum(map(len, self._waiting)) + len(data) > MAX_WAITING:
            return False
        self._waiting.append(data)
        self._flush()
        return not self.ended.done()

    def ping(self) -> None:
        """Send a ping, which the peer must acknowledge."""
        if not self.ended.done():
            self._quic.send_ping(0)
            self._flush()

    def close(self, reason: str = "") -> None:
        """Tell the peer that the connection ends, and why, and release everything. Does nothing after the end."""
        if not self.ended.done():
            self._quic.close(reason_phrase=reason)
            self._guarded(self._send)
            self._end(EndedError(reason or "closed"))

    # --- asyncio.DatagramProtocol ---

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ANN401
        """See ``asyncio.DatagramProtocol``."""
        if not self.ended.done():
            self._guarded(lambda: self._quic.receive_datagram(data, addr, now=self._loop.time()))
            self._pump()
            self._on_room()

    def error_received(self, exc: Exception) -> None:
        """See ``asyncio.DatagramProtocol``. The system reports that a datagram did not arrive."""
        if isinstance(exc, ConnectionRefusedError):
            self._end(EndedError("nothing is listening there"))

    # --- private ---

    def _on_timer(self, due: float) -> None:
        self._timer = None
        self._guarded(lambda: self._quic.handle_timer(now=max(due, self._loop.time())))
        self._pump()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Let aioquic do a step. If aioquic fails, the connection ends, but not the miner."""
        try:
            step()
        except Exception as error:
            log.debug("aioquic failed", exc_info=error)
            self._end(EndedError(f"the peer sent something that cannot be handled ({type(error).__name__})"))

    def _pump(self) -> None:
        while not self.ended.done() and (event := self._quic.next_event()) is not None:
            self._handle(event)
        self._flush()

    def _flush(self) -> None:
        """Send what aioquic has to send, check whether the connection ended, and set the timer. Handles no events."""
        if self.ended.done():
            return
        self._guarded(self._send_waiting)
        closing = self._quic._close_event  # noqa: SLF001
        if closing is not None:
            self._end(_ending(closing))
        if self.ended.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        due = self._quic.get_timer()
        self._timer = None if due is None else self._loop.call_at(due, self._on_timer, due)

    def _send_waiting(self) -> None:
        """Send the waiting writes that have room, each in a separate packet, and aioquic's own packets."""
        while self._waiting and self._fits(len(self._waiting[0])):
            data = self._waiting.popleft()
            self._quic.send_stream_data(STREAM, data)
            self._keep_whole(len(data))
            self._send()
        self._send()

    def _keep_whole(self, size: int) -> None:
        """Prevent packets from splitting the write of ``size`` bytes just made, even when it is sent again.

        Nodes lose their position in the stream if a frame arrives in pieces.
        """
        sender = self._quic._streams[STREAM].sender  # noqa: SLF001
        if not self._ends:
            cut = sender.get_frame

            def get_frame(max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
                while len(self._ends) > 1 and self._ends[0] <= sender._buffer_start:  # noqa: SLF001
                    self._ends.popleft()
                start = sender.next_offset
                size = next((end - start for end in self._ends if end > start), max_size)
                return cut(size, max_offset) if size <= max_size else None

            sender.get_frame = get_frame  # type: ignore[method-assign]
        self._written += size
        self._ends.append(self._written)

    def _fits(self, size: int) -> bool:
        stream, loss = self._quic._streams.get(STREAM), self._quic._loss  # noqa: SLF001
        in_flight = 0 if stream is None else len(stream.sender._buffer)  # noqa: SLF001
        if not in_flight:
            return True
        if loss._pacer.next_send_time(self._loop.time()) is not None:  # noqa: SLF001
            return False
        free = loss.congestion_window - loss.bytes_in_flight
        return in_flight + size <= MAX_IN_FLIGHT and size + PACKET_OVERHEAD <= free

    def _send(self) -> None:
        if self._transport is not None:
            for data, address in self._quic.datagrams_to_send(now=self._loop.time()):
                self._transport.sendto(data, address)

    def _handle(self, event: events.QuicEvent) -> None:
        match event:
            case events.HandshakeCompleted():
                self._connected.set_result(None)
            case events.StreamDataReceived(stream_id=stream_id) if stream_id != STREAM:
                self.close("only one stream")
            case events.StreamDataReceived(data=data, end_stream=end):
                if data:
                    self._receive(data)
                if end:
                    self.close("the peer finished the stream")
            case events.StreamReset(error_code=code):
                self.close(f"the peer reset the stream (code {code})")
            case events.StopSendingReceived(error_code=code):
                self.close(f"the peer stopped the stream (code {code})")

    def _end(self, error: EndedError) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # mark it as retrieved, otherwise asyncio logs it


def _ending(event: events.ConnectionTerminated) -> EndedError:
    reason = legible(event.reason_phrase, MAX_PHRASE)
    text = f"closed: {reason or 'no reason given'} (code {event.error_code})"
    return EndedError(text, event.error_code, reason, by_application=event.frame_type is None)
