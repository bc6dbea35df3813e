"""One connection of an HTTP client, with limits on bytes and time."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quantus_miner.wire.api import encode_reply

if TYPE_CHECKING:
    import asyncio

MAX_HEAD: Final = 32_768
"""Bytes of a request's head. Chunk sizes, trailers and line ends before the head count too."""
PIECE: Final = 8_192
"""Bytes that are parsed at a time."""
BODY_PIECE: Final = 512
"""Bytes of a body that are parsed at a time once MAX_HEAD is almost used up."""
MAX_HEADERS: Final = 100
"""Header fields of a request, including trailers. In memory each takes many times its bytes on the wire."""
MAX_PIPELINED: Final = 8
"""Requests on one connection that may wait for the replies to earlier ones."""
REQUEST_TIMEOUT_S: Final = 15.0
"""Seconds that a client may take to send a request, to begin one, and to read a reply."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that a hostile client can neither make large nor hold for ever. uvicorn has no such limits.

    All that is not a body (heads, trailers, chunk sizes, line ends between requests) is limited in bytes. A request,
    any data outside of one, and a reply that the client does not read are limited in time. Bodies are limited where
    they are read. With more than ``most`` connections, the one that has waited longest for its client is closed.
    """

    def __init__(self, most: int, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as uvicorn's own
        super().__init__(*args, **options)
        self._most = most
        self._in_head = True
        self._overhead = 0
        self._piece_overhead = 0
        self._without_offer = b""
        self.since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start to wait for the first request of a client that has connected."""
        super().connection_made(transport)
        # Call ``pause_writing`` whenever the client has not read everything, however little is left.
        transport.set_write_buffer_limits(0)
        if len(self.connections) > self._most and not make_room(self.connections, self):
            self._refuse(503, "too many connections")
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers of a connection that is gone."""
        self._request_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client, in pieces that end where MAX_HEAD does."""
        self._unset_keepalive_if_required()
        start = 0
        while start < len(data):
            left = MAX_HEAD - self._overhead
            if self._in_head and left <= 0:
                self.transport.abort()
                return
            # A piece never reaches beyond the limit of a head. Bodies are parsed in larger pieces, because thousands
            # of tiny ones would block the event loop.
            size = min(PIECE, left if self._in_head else max(BODY_PIECE, left))
            piece = data[start : start + size]
            start += size
            self._overhead += len(piece)
            self._piece_overhead = len(piece)
            self._parse(piece)
            if self._overhead > MAX_HEAD:
                self.transport.abort()
            if self.transport.is_closing():
                return
        if self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            # uvicorn's own timer for idle connections stops at the next byte, whatever it is.
            self._expect_request()

    def _parse(self, data: bytes) -> None:
        """Feed the parser. A head that offers an upgrade is parsed again without the offer.

        llhttp stops at such a head and takes all that follows for another protocol. We support none, so it is the
        request's body.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = self._without_offer + data[stop.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError as error:
                # The exception of our own callback says more than the parser's text.
                self._refuse(400, f"not a valid HTTP request: {str(error.__context__ or error)[:200]}")
                return
            else:
                return

    def on_message_begin(self) -> None:
        """Reset the state of the request at its first byte."""
        super().on_message_begin()
        # After another request in the same piece, count all of the piece that was not a body for this one.
        self._overhead = max(self._overhead, self._piece_overhead)
        self._expect_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header field or trailer. Raises ValueError if there are too many."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise ValueError("too many header fields")

    def on_headers_complete(self) -> None:
        """Start the request, unless its head must be parsed again. Raises ValueError if it cannot be served."""
        method = self.parser.get_method()
        if self.parser.should_upgrade():
            if method == b"CONNECT":
                raise ValueError("CONNECT is for proxies")
            lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
            lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self._without_offer = b"\r\n".join([*lines, b"", b""])
            return
        self._in_head = False
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise ValueError("too many requests at once")

    def on_body(self, body: bytes) -> None:
        """Store a part of a body, which does not count as overhead."""
        self._overhead -= len(body)
        self._piece_overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish the request, unless its head must be parsed again."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._request_arrived()
        self._in_head = True
        self._overhead = 0
        self.since = self.loop.time()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read our reply."""
        super().pause_writing()
        self._unread = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer: the client has read everything."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def waits_for_client(self) -> bool:
        """True if it is the client's turn to send a request, or the rest of one, or to read a reply."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered or self._deadline is not None or self._unread is not None

    def _refuse(self, status: int, message: str) -> None:
        body = encode_reply("error", "", message)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _request_arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def make_room(connections: set[Any], newcomer: BoundedProtocol | None = None) -> bool:
    """Abort the connection that has waited longest for its client. Return False if none is waiting.

    ``newcomer``: a connection to keep.
    """
    others = (other for other in connections if isinstance(other, BoundedProtocol) and other is not newcomer)
    waiting = [other for other in others if other.waits_for_client]
    if not waiting:
        return False
    longest = min(waiting, key=lambda other: other.since)
    longest.transport.abort()
    connections.discard(longest)
    return True
