"""Sockets of a stratum server, with bounds on connections, time and unread bytes. Subclasses decide what it says."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from quantus_miner.web.server import accept
from quantus_miner.wire.core import Broken
from quantus_miner.wire.stratum_pool import LoginAsked, ShareCame, StratumPool, StratumPoolState

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

MAX_UNSENT: Final = 131_072
"""Bytes that a miner has not read, after which it is disconnected."""
HANDSHAKE_S: Final = 10.0
"""Seconds for a TLS handshake."""


class StratumSession(asyncio.Protocol):
    """One miner's connection. Subclasses answer ``on_login`` and ``on_share`` through ``core``, then ``flush``."""

    transport: asyncio.Transport

    def __init__(self, server: StratumServer) -> None:
        self._server = server
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.core = StratumPool(secrets.token_hex(8), self.began)
        self.address = ""
        """The miner's IP address."""
        self.ended_here = False
        """True if it was ended from here, not by the miner."""
        self._timer = self.loop.call_at(self.core.deadline, self._on_time)

    def on_login(self, login: str, agent: str) -> None:
        """Handle a login: accept or refuse it, now or later."""

    def on_share(self, came: ShareCame) -> None:
        """Handle a share: send a verdict, now or later."""

    def on_broken(self, reason: str) -> None:
        """Handle a breach of the protocol, or silence. The connection is being closed."""

    def on_lost(self) -> None:
        """Handle the end of the connection."""

    @property
    def is_open(self) -> bool:
        """True if the miner is logged in and can be sent jobs."""
        return self.core.state is StratumPoolState.OPEN and not self.transport.is_closing()

    def refuse_login(self, reason: str) -> None:
        """Refuse the login and close the connection."""
        self.core.refuse_login(reason)
        self.flush()
        self.close()

    def close(self) -> None:
        """End the connection once all is sent."""
        self.ended_here = True
        self.transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self.ended_here = True
        self.transport.abort()

    def may_give_way(self) -> bool:
        """Return True if a newcomer may take its place: it has not logged in."""
        return self.core.state is StratumPoolState.CONNECTED

    def drop(self, reason: str) -> None:
        """Close the connection at once, because of what the miner does."""
        if not self.transport.is_closing():
            self.abort()
            self.on_broken(reason)

    def flush(self) -> None:
        """Write what the core has to send. Drop a miner that does not read."""
        if self.transport.is_closing():
            return
        if data := b"".join(self.core.data_to_send()):
            self.transport.write(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.drop("it does not read what we send")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a TCP or TLS connection has
        self.transport = transport
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        self._server.sessions.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """See asyncio.Protocol."""
        self._timer.cancel()
        self._server.on_session_end(self)
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.transport.is_closing():
            return
        for event in self.core.receive(data, self.loop.time()):
            match event:
                case Broken(reason):
                    self.flush()
                    self.drop(reason)
                case _ if self.core.is_over or self.transport.is_closing():
                    pass  # no answer can be sent any more
                case LoginAsked(login, agent):
                    self.on_login(login, agent)
                case ShareCame():
                    self.on_share(event)
        self.flush()

    def _on_time(self) -> None:
        for event in self.core.tick(self.loop.time()):
            if isinstance(event, Broken):
                self.drop(event.reason)
        if not self.core.is_over:
            self._timer = self.loop.call_at(self.core.deadline, self._on_time)


class StratumServer:
    """Accepts miners on one socket, each with a session that ``create`` makes.

    ``max_sessions``: connections held at once. A newcomer takes the place of the oldest one that may give way; if there
    is none, it is turned away. ``admit``: returns False for an IP address that is turned away.
    """

    def __init__(
        self,
        create: Callable[[], StratumSession],
        *,
        max_sessions: int,
        admit: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._create = create
        self._max_sessions = max_sessions
        self._admit = admit
        self.sessions: set[StratumSession] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None
        self._changed = asyncio.Event()

    def start(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Accept miners on a listening socket, with TLS if there is a ``context``. The socket is closed at the end."""
        sock.setblocking(False)
        self._socket = sock
        take = partial(self._take, context=context)
        self._accepting = asyncio.create_task(accept(sock, take, self._make_room), name="stratum")

    async def close(self) -> None:
        """Stop accepting and end all sessions."""
        tasks = [task for task in (self._accepting, *self._connecting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
        for session in self.sessions:
            session.abort()
        while self.sessions:
            self._changed.clear()
            await self._changed.wait()

    def on_session_end(self, session: StratumSession) -> None:
        """Forget a session. Called by itself."""
        self.sessions.discard(session)
        self._changed.set()

    async def _take(self, connection: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        if not self._admit(address) or not self._has_room():
            connection.close()
            return
        task = asyncio.create_task(self._connect(connection, context))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        timeout_s = None if context is None else HANDSHAKE_S
        with contextlib.suppress(OSError):  # a failed handshake, for one
            await asyncio.get_running_loop().connect_accepted_socket(
                self._create, connection, ssl=context, ssl_handshake_timeout=timeout_s
            )

    def _has_room(self) -> bool:
        return len(self.sessions) + len(self._connecting) < self._max_sessions or self._make_room()

    def _make_room(self) -> bool:
        """Close the oldest connection that may give way. Return False if there is none."""
        waiting = [session for session in self.sessions if session.may_give_way()]
        if not waiting:
            return False
        longest = min(waiting, key=lambda session: session.began)
        longest.abort()
        self.sessions.discard(longest)
        return True
