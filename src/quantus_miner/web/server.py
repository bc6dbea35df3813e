"""uvicorn inside our own event loop, without its signal handlers. Sockets are opened before anything else starts."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import Response

from quantus_miner import units
from quantus_miner.errors import MachineError, MinerError
from quantus_miner.web.connection import BoundedProtocol, make_room
from quantus_miner.wire.api import encode_reply
from quantus_miner.wire.hosts import LOCAL_NAMES, misdirected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("miner.server")

MAX_CONNECTIONS: Final = 512
"""Connections that a server holds at once."""
MAX_SESSIONS: Final = 4096
"""Stratum miners that a hub serves at once."""
MAX_WATCHERS: Final = 128
"""Connections that the API of a hub holds at once."""
MAX_SCRAPERS: Final = 32
"""Connections that the metrics exporter holds at once."""
MIN_CONNECTIONS: Final = 2
"""Connections that the job API needs to be of use."""
MIN_FILES: Final = 16
"""File descriptors that the service needs to start, whatever its settings."""
RESERVED_FILES: Final = 2
"""File descriptors reserved for short uses: the store, a scrape."""
LINK_FILES: Final = 2
"""File descriptors for each node and pool: its connection, and one for looking up its name at the same time."""
SOCKET_BUFFER: Final = 65_536
"""Bytes of each of a connection's two buffers. The kernel doubles it. By default they would grow to megabytes."""
BACKLOG: Final = 1024
"""Connections that may wait in the kernel to be accepted."""
DATE_S: Final = 1.0
"""Seconds after which replies get a new date."""
END_PAUSE_S: Final = 0.005
"""Seconds between two checks whether all connections have ended."""
ACCEPT_PAUSE_S: Final = 0.1
"""Seconds to wait before accepting again when file descriptors have run out."""


def check_files() -> None:
    """Raise MachineError if the limit of open files is too low to start the service at all."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < MIN_FILES:
        raise _too_few_files(limit, MIN_FILES)


def share_connections(links: int, ports: Mapping[str, int]) -> dict[str, int]:
    """Return how many connections each port can hold. ``ports``: how many it may hold, by name, the one for work first.

    They share the file descriptors that are free now, minus those that other parts need later: for ``links``
    connections to nodes and pools, the store and look-ups. Each port but the first gets up to an eighth. Raises
    MachineError if too few are left.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return dict(ports)
    # Each port has its own socket and, for a moment, one connection more than it may hold.
    spent = _open_files() + RESERVED_FILES + LINK_FILES * links + 2 * len(ports)
    left = limit - spent
    first, *others = ports
    least = MIN_CONNECTIONS + len(others)
    if left < least:
        raise _too_few_files(limit, spent + least)
    shares = {name: max(1, min(ports[name], left // 8)) for name in others}
    return {first: min(ports[first], left - sum(shares.values())), **shares}


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def _too_few_files(limit: int, needed: int) -> MachineError:
    raise_it = "raise it with ulimit -n, or LimitNOFILE= in a systemd unit"
    return MachineError(f"the limit of file descriptors is {limit}, but at least {needed} are needed; {raise_it}")


def listen(address: str, port: int, setting: str) -> socket.socket:
    """Return a listening TCP socket. Raises MinerError, one line that names ``setting``, if the system refuses that."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = units.endpoint(address, port)
    try:
        # Name the protocol: asyncio sets TCP_NODELAY only on sockets that were created with it.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:  # a system without IPv6, for one
        raise MinerError(f"{setting}: cannot listen on {where}: {error.strerror}; use another address") from None
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


async def accept(
    sock: socket.socket, take: Callable[[socket.socket, str], Awaitable[object]], make_room: Callable[[], bool]
) -> None:
    """Accept one connection after the other until cancelled, so that there are never many more than the maximum.

    asyncio's own servers accept many connections before they handle the first one. Once file descriptors have run
    out, they accept none for a second. ``take``: handles a connection from an IP address, before the next one is
    accepted. ``make_room``: closes a connection; returns False if it may close none.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, address = await loop.sock_accept(sock)
        except ConnectionError:  # the client has gone already
            continue
        except OSError as error:
            log.warning("Cannot accept a connection: %s", error.strerror)
            # The event loop closes the aborted connection during the sleep.
            await asyncio.sleep(0 if make_room() else ACCEPT_PAUSE_S)
        else:
            await take(connection, address[0])


def taking(create: Callable[[], asyncio.Protocol]) -> Callable[[socket.socket, str], Awaitable[object]]:
    """Return what ``accept`` needs: each connection gets a protocol that ``create`` makes."""

    async def take(connection: socket.socket, _: str) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(create, connection)

    return take


def host_names(address: str) -> frozenset[str]:
    """Return the host names under which a socket that listens on ``address`` can be reached."""
    if ipaddress.ip_address(address).is_loopback:
        return LOCAL_NAMES
    name = socket.gethostname().lower()
    return LOCAL_NAMES | {name, name.partition(".")[0]}


def endpoint(sock: socket.socket) -> str:
    """Return ``127.0.0.1:9833`` or ``[::1]:9833``, with the port that was actually bound."""
    host, port = sock.getsockname()[:2]
    return units.endpoint(host, port)


def _for_hosts(app: ASGIApp, names: Callable[[], frozenset[str]]) -> ASGIApp:
    """Return ``app`` behind a check of the Host header."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if problem := misdirected(Headers(scope=scope).getlist("host"), names()):
            log.warning("Refused a request: %s", problem)
            await Response(encode_reply("error", "", problem), 421, media_type="application/json")(scope, receive, send)
        else:
            await app(scope, receive, send)

    return checked


class Server(uvicorn.Server):
    """Serves one ASGI application on one socket until ``stop``.

    ``connections``: maximum number held at once. ``names``: host names that requests may use besides IP addresses; they
    may change.
    """

    def __init__(
        self,
        app: Any,  # noqa: ANN401 - any ASGI application
        sock: socket.socket,
        connections: int = MAX_CONNECTIONS,
        names: frozenset[str] = LOCAL_NAMES,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                _for_hosts(app, lambda: self.names),
                http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]  # makes protocols all the same
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
            )
        )
        self.names = names
        self._socket = sock
        self._accepting: asyncio.Task[None] | None = None
        self.servers = []
        self.ready = asyncio.Event()
        """Set once connections are accepted."""
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - as uvicorn's own
        """Begin to accept connections."""
        await self.lifespan.startup()
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()

        def create() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        connections = self.server_state.connections
        self._accepting = asyncio.create_task(accept(self._socket, taking(create), lambda: make_room(connections)))
        self.started = True
        self.ready.set()

    async def main_loop(self) -> None:
        """Renew the date of replies once a second until ``stop``, which uvicorn's own loop notices only after 0.1 s."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - as uvicorn's own
        """Stop accepting connections and end those that are open. uvicorn's own method takes 0.1 s at least."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(END_PAUSE_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing, because the service handles signals."""
        yield

    async def run_until_stopped(self) -> None:
        """Accept connections until ``stop``."""
        try:
            await self.serve(sockets=[self._socket])
        finally:
            # uvicorn does not clean up if something in it fails.
            if self._accepting is not None:
                self._accepting.cancel()
            self._socket.close()

    def stop(self, grace_s: float) -> None:
        """Stop the server. Requests under way have ``grace_s`` seconds to end, then their connections are aborted."""
        self.should_exit = True
        self._stopping.set()
        asyncio.get_running_loop().call_later(grace_s, self._cut_off)

    def _cut_off(self) -> None:
        # Not close(): it would wait for a client that does not read.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True
