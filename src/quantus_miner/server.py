"""uvicorn inside our own event loop: no signal handlers, sockets opened (and refused) before anything starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from quantus_miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import Iterator


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


class Server(uvicorn.Server):
    """Serves one ASGI application on one socket until ``stop``."""

    def __init__(self, app: Any, sock: socket.socket) -> None:  # noqa: ANN401 - any ASGI application
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
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
