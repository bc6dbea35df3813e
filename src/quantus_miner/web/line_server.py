"""A TCP server for protocols of one request and one reply a connection, with limits on bytes, time and connections."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner.web.server import accept, taking

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = logging.getLogger("miner.rigs")

MAX_CLIENTS: Final = 8
"""Connections that a server holds at once."""
MAX_REQUEST: Final = 4_096
"""Bytes of a request."""
CLIENT_S: Final = 5.0
"""Seconds that a connection may last."""
BLANK: Final = b"\0 \t\r\n"
"""Bytes around a request that mean nothing."""


class LineServer:
    """Serves the requests that come to ``sock``. The reply is the end of a connection.

    ``connections``: how many it holds at once; for one more, the oldest is closed. ``answer``: returns the reply to a
    request, whatever its bytes are. It is called on the event loop, so it must not block.
    """

    def __init__(self, sock: socket.socket, connections: int, answer: Callable[[bytes], bytes]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._most = connections
        self._answer = answer
        self._open: dict[_Connection, None] = {}  # in the order of their age

    async def run(self) -> None:
        """Accept connections until cancelled."""
        create = partial(_Connection, self._answer, self._enter, self._leave)
        await accept(self._socket, taking(create), self._make_room)

    def close(self) -> None:
        """Close the socket and all connections."""
        self._socket.close()
        while self._make_room():
            pass

    def _enter(self, connection: _Connection) -> None:
        if len(self._open) >= self._most:
            self._make_room()
        self._open[connection] = None

    def _leave(self, connection: _Connection) -> None:
        self._open.pop(connection, None)

    def _make_room(self) -> bool:
        """Abort the oldest connection. Return False if there is none."""
        oldest = next(iter(self._open), None)
        if oldest is None:
            return False
        del self._open[oldest]
        oldest.transport.abort()
        return True


class _Connection(asyncio.Protocol):
    """One client. It has CLIENT_S seconds in all."""

    transport: asyncio.Transport

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        enter: Callable[[_Connection], None],
        leave: Callable[[_Connection], None],
    ) -> None:
        self._answer = answer
        self._enter = enter
        self._leave = leave
        self._received = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the types
        self.transport = transport
        self._timer = asyncio.get_running_loop().call_later(CLIENT_S, transport.abort)
        self._enter(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_REQUEST:
            self.transport.abort()
        elif not self._answered and is_complete(self._received):
            self._reply()

    def eof_received(self) -> bool:
        """Answer a request whose end is only that of the stream, and close once the reply is sent."""
        if not self._answered and self._received.strip(BLANK):
            self._reply()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio's own
        self._timer.cancel()
        self._leave(self)

    def _reply(self) -> None:
        """Send the reply and the end of the stream, and leave it to the client to close.

        If it is still sending, perhaps a line end, closing would reset the connection, and the reply could get lost.
        """
        self._answered = True
        try:
            reply = self._answer(self._received.strip(BLANK))
        except Exception:
            log.exception("A rig manager's request has failed")
            self.transport.abort()
        else:
            self.transport.write(reply)
            self.transport.write_eof()


def is_complete(request: bytes) -> bool:
    """Return True at the end of a line or text, and at the end of a JSON object: many clients send no line end."""
    if request.endswith((b"\n", b"\0")):
        return True
    if not request.endswith(b"}"):
        return False
    try:
        msgspec.json.decode(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
