"""uvicorn inside our own event loop: no signal handlers, sockets opened (and refused) before anything starts."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quantus_miner import units
from quantus_miner.errors import MinerError
from quantus_miner.proto.api import encode_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CONNECTIONS: Final = 512
"""Connections that a server holds at once."""
MAX_HEAD: Final = 32_768
"""Bytes of a request's head, and of whatever else is no body."""
PIECE: Final = 8_192
"""Bytes that are parsed at a time."""
MAX_HEADERS: Final = 100
"""Header fields of a request, trailers included: each takes many times the bytes that it has on the wire."""
MAX_PIPELINED: Final = 8
"""Requests that wait on a connection for the replies to those before them."""
REQUEST_TIMEOUT_S: Final = 15.0
"""Seconds that a client may take to send a request, to begin one, and to read a reply."""
SOCKET_BUFFER: Final = 65_536
"""Bytes of each of the kernel's two buffers of a connection, which counts twice that: it would go up to megabytes."""
BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted."""
ACCEPTS: Final = 8
"""Connections accepted at a time: those that are turned away have a file descriptor until then too."""


def possible_connections() -> int:
    """Connections that a server can hold under this process's limit of file descriptors: half of it at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)


def listen(address: str, port: int, setting: str) -> socket.socket:
    """A listening TCP socket. Raises MinerError in one line, which names ``setting``, where that is refused."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = units.endpoint(address, port)
    try:
        # The protocol has to be named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:  # a system without IPv6, for one
        raise MinerError(f"{setting}: cannot listen on {where}: {error.strerror}; set --bind") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Each connection inherits these.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise MinerError(f"{setting}: cannot listen on {where}: {error.strerror}") from None
    return sock


def endpoint(sock: socket.socket) -> str:
    """``127.0.0.1:9833`` or ``[::1]:9833``, with the port that was really bound."""
    host, port = sock.getsockname()[:2]
    return units.endpoint(host, port)


class BoundedProtocol(HttpToolsProtocol):
    """A connection that a hostile client cannot make large or hold for ever; uvicorn bounds neither.

    What is no body (heads, trailers, chunk sizes, noise between requests) is bounded in bytes; a request, and whatever
    comes outside of one, in time; so is a reply that the client does not read. Bodies are bounded where they are read.
    Beyond ``most`` connections the one that has kept us waiting the longest makes room.
    """

    def __init__(self, most: int, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as uvicorn's own
        super().__init__(*args, **options)
        self._most = most
        self._overhead = 0
        self.since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A client has connected, and has to say what it wants."""
        super().connection_made(transport)
        # So that ``pause_writing`` is called whenever the client has not read all, however little is left.
        transport.set_write_buffer_limits(0)
        if len(self.connections) > self._most and not self._make_room():
            self._refuse(503, "too many connections")
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._request_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; those of bodies do not count."""
        # In pieces, so that little is parsed beyond the bound: a chunk of one byte costs as much time as a large one.
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._overhead += len(piece)
            super().data_received(piece)
            if self._overhead > MAX_HEAD:
                self.transport.abort()
            if self.transport.is_closing():
                return
        if self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            # uvicorn's own timer for idle connections ends with the next byte, whatever that is.
            self._expect_request()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field, or a trailer."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise ValueError("too many header fields")

    def on_headers_complete(self) -> None:
        """All of a head is there."""
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise ValueError("too many requests at once")

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        super().on_message_complete()
        self._request_arrived()
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

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers to bytes that are not HTTP, in JSON as everything else."""
        self._refuse(400, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is an offer, and we do not take it: nothing to warn of."""

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request, or the rest of one, or to read a reply."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered or self._deadline is not None or self._unread is not None

    def _make_room(self) -> bool:
        """Cuts off the connection that has waited for its client the longest; False where none but this one does."""
        others = (other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self)
        waiting = [other for other in others if other.waits_for_client]
        if not waiting:
            return False
        longest = min(waiting, key=lambda other: other.since)
        longest.transport.abort()
        self.connections.discard(longest)
        return True

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


class Server(uvicorn.Server):
    """Serves one ASGI application on one socket, ``connections`` at once, until ``stop``."""

    def __init__(self, app: Any, sock: socket.socket, connections: int = MAX_CONNECTIONS) -> None:  # noqa: ANN401 - any ASGI application
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]  # makes protocols all the same
                backlog=ACCEPTS,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
            )
        )
        self._socket = sock
        self.ready = asyncio.Event()
        """Set once connections are accepted."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections."""
        await super().startup(sockets)
        # asyncio takes one number for how many it accepts at a time and for how many wait.
        self._socket.listen(BACKLOG)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service handles signals, not this server."""
        yield

    async def run_until_stopped(self) -> None:
        """Accepts connections until ``stop``."""
        await self.serve(sockets=[self._socket])

    def stop(self, grace_s: float) -> None:
        """Lets requests under way end for ``grace_s`` seconds, then cuts off what is left."""
        self.should_exit = True
        asyncio.get_running_loop().call_later(grace_s, self._cut_off)

    def _cut_off(self) -> None:
        # Not close(): that waits for a client that does not read.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True
