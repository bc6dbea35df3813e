"""One connection of an HTTP client, bounded in bytes and time."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quantus_miner.wire.api import encode_reply

if TYPE_CHECKING:
    import asyncio

MAX_HEAD: Final = 32_768
"""Bytes of a request's head; chunk sizes, trailers and line ends before the head count too."""
PIECE: Final = 8_192
"""Bytes that are parsed at a time."""
BODY_PIECE: Final = 512
"""Bytes of a body that are parsed at a time once MAX_HEAD is almost used up."""
MAX_HEADERS: Final = 100
"""Header fields of a request, trailers included: each takes many times the bytes that it has on the wire."""
MAX_PIPELINED: Final = 8
"""Requests that wait on a connection for the replies to those before them."""
REQUEST_TIMEOUT_S: Final = 15.0
"""Seconds that a client may take to send a request, to begin one, and to read a reply."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that a hostile client cannot make large or hold for ever; uvicorn bounds neither.

    What is not a body (heads, trailers, chunk sizes, line ends between requests) is bounded in bytes; a request, and
    whatever comes outside of one, in time; so is a reply that the client does not read. Bodies are bounded where they
    are read. Beyond ``most`` connections the one that has kept us waiting the longest makes room.
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
        # So that ``pause_writing`` is called whenever the client has not read all, however little is left.
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
            # A head ends exactly at the bound or not at all. Bodies are parsed in larger pieces: thousands of tiny
            # ones would take the event loop's time.
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
            # uvicorn's own timer for idle connections ends with the next byte, whatever that is.
            self._expect_request()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which stops at each head that offers an upgrade; such a head is parsed again without it.

        llhttp takes all that follows such a head for another protocol. We speak none, so it is the request's body.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = self._without_offer + data[stop.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError as error:
                # What a callback of ours raised says more than the parser's words for it.
                self._refuse(400, f"not a valid HTTP request: {str(error.__context__ or error)[:200]}")
                return
            else:
                return

    def on_message_begin(self) -> None:
        """Reset what is known of the request, at its first byte."""
        super().on_message_begin()
        # Behind another request in the same piece: all of the piece that was no body may be this one's.
        self._overhead = max(self._overhead, self._piece_overhead)
        self._expect_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header field, or a trailer. Raises ValueError if there are too many."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise ValueError("too many header fields")

    def on_headers_complete(self) -> None:
        """Start the request, unless its head has to be parsed again. Raises ValueError if it cannot be served."""
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
        """Keep a part of a body, which does not count as overhead."""
        self._overhead -= len(body)
        self._piece_overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless its head has to be parsed again."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._request_arrived()
        self._in_head = True
        self._overhead = 0
        self.since = self.loop.time()

    def pause_writing(self) -> None:
        """The client does not read what we write."""
        super().pause_writing()
        self._unread = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request, or the rest of one, or to read a reply."""
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
    """Cut off the connection that has waited for its client the longest; return False if there is none.

    ``newcomer``: a connection that stays.
    """
    others = (other for other in connections if isinstance(other, BoundedProtocol) and other is not newcomer)
    waiting = [other for other in others if other.waits_for_client]
    if not waiting:
        return False
    longest = min(waiting, key=lambda other: other.since)
    longest.transport.abort()
    connections.discard(longest)
    return True
