"""uvicorn inside our own event loop: no signal handlers, sockets opened (and refused) before anything starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quantus_miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CONNECTIONS: Final = 512
"""Connections that a server holds at once: half of the usual limit of file descriptors."""
MAX_HEAD: Final = 32_768
"""Bytes of a request's head."""
HEAD_TIMEOUT_S: Final = 10.0
"""Seconds that a client may take for a request's head, and to begin its first."""

_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: 63\r\n\r\n"
    b'{"status":"error","job_id":"","message":"too many connections"}'
)


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
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class BoundedProtocol(HttpToolsProtocol):
    """A connection whose request heads are bounded in size and time, and whose number is bounded.

    uvicorn bounds neither; bodies are bounded where they are read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """A client has connected, and has to say what it wants."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What comes before the end of a head is counted, in whole reads."""
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._head_arrived()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service handles signals, not this server."""
        yield

    async def run_until_stopped(self) -> None:
        """Accepts connections until ``stop``."""
        await self.serve(sockets=[self._socket])

    def stop(self, grace_s: float) -> None:
        """Lets requests under way end for ``grace_s`` seconds, then closes what is left."""
        self.should_exit = True
        asyncio.get_running_loop().call_later(grace_s, setattr, self, "force_exit", True)
