"""uvicorn inside our own event loop: no signal handlers, sockets opened (and refused) before anything starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
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
"""Connections that a server holds at once: half of the usual limit of file descriptors."""
MAX_HEAD: Final = 32_768
"""Bytes of a request's head, and of whatever else is no body."""
REQUEST_TIMEOUT_S: Final = 15.0
"""Seconds that a client may take to send a request, to begin one, and to read a reply."""


def listen(address: str, port: int, setting: str) -> socket.socket:
    """A listening TCP socket. Raises MinerError in one line, which names ``setting``, where that is refused."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # The protocol has to be named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise MinerError(f"{setting}: cannot listen on {address}:{port}: {error.strerror}") from None
    return sock


def endpoint(sock: socket.socket) -> str:
    """``127.0.0.1:9833`` or ``[::1]:9833``, with the port that was really bound."""
    host, port = sock.getsockname()[:2]
    return units.endpoint(host, port)


class BoundedProtocol(HttpToolsProtocol):
    """A connection that a hostile client cannot make large or hold for ever; uvicorn bounds neither.

    What is no body (heads, trailers, chunk sizes, noise between requests) is bounded in bytes; a request, and whatever
    comes outside of one, in time; so is a reply that the client does not read. Bodies are bounded where they are read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A client has connected, and has to say what it wants."""
        super().connection_made(transport)
        self._overhead = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
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
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MAX_HEAD:
            self.transport.abort()
        elif self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            # uvicorn's own timer for idle connections ends with the next byte, whatever that is.
            self._expect_request()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_request()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        super().on_message_complete()
        self._request_arrived()
        self._overhead = 0

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
    """Serves one ASGI application on one socket until ``stop``."""

    def __init__(self, app: Any, sock: socket.socket) -> None:  # noqa: ANN401 - any ASGI application
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
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
