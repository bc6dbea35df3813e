"""Look up the addresses of a host and try them in turn, without delaying the event loop or the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Final

MAX_ADDRESSES: Final = 8
"""Addresses of one name that are tried, at most."""
NEXT_ADDRESS_S: Final = 0.25
"""Seconds after which the next address is tried over TCP, in parallel with the one before."""
FAILED_S: Final = 60.0
"""Seconds that a connection must last. Otherwise its address has failed, and the next attempt begins with another."""

WORDS: Final = {
    socket.EAI_NONAME: "no such host name",
    socket.EAI_NODATA: "the host name has no address",
    socket.EAI_AGAIN: "no name server answered",
    socket.EAI_FAIL: "the name server failed",
}
"""Texts for the errors of a resolver."""

Address = tuple[int, Any]
"""Family and socket address."""


class LookUpError(Exception):
    """Raised when a name cannot be looked up. ``str()`` is one line: the name, a colon and why."""


def resolve(host: str, port: int, kind: socket.SocketKind) -> list[Address]:
    """Return the addresses of a host, the first MAX_ADDRESSES of them. Blocks. Raises LookUpError if there are none."""
    try:
        infos = socket.getaddrinfo(host, port, type=kind)
    except socket.gaierror as error:
        raise LookUpError(f"{host}: {WORDS.get(error.errno or 0) or error.strerror or error}") from None
    except UnicodeError:
        raise LookUpError(f"{host}: not a host name") from None
    except OSError as error:
        raise LookUpError(f"{host}: {error.strerror or error}") from None
    if not infos:
        raise LookUpError(f"{host}: {WORDS[socket.EAI_NODATA]}")
    # Drop the zone's name from IPv6 addresses: asyncio would look it up. The tuple also has it as a number.
    return [
        (int(family), (str(address[0]).partition("%")[0], *address[1:]))
        for family, *_, address in infos[:MAX_ADDRESSES]
    ]


class Addresses:
    """The addresses of one host and port. ``kind``: SOCK_STREAM or SOCK_DGRAM. At most one look-up runs at a time.

    Each look-up has its own daemon thread, which is never joined: a resolver may hang for a minute. One of asyncio's
    threads would then be missing elsewhere and delay the end of the process.
    """

    def __init__(self, host: str, port: int, kind: socket.SocketKind) -> None:
        self._host = host
        self._port = port
        self._kind = kind
        self._running: asyncio.Future[list[Address] | LookUpError] | None = None
        self._last: Address | None = None
        self._failed = False

    async def look_up(self, timeout_s: float) -> list[Address]:
        """Return the addresses in the order to try them. Raises LookUpError if there are none.

        After a time-out the look-up continues, and the next call gets its result.
        """
        if self._running is None:
            self._running = self._start()
        try:
            async with asyncio.timeout(timeout_s):
                found = await asyncio.shield(self._running)
        except TimeoutError:
            raise LookUpError(f"{self._host}: no answer from the name servers within {timeout_s:g} s") from None
        self._running = None
        if isinstance(found, LookUpError):
            raise found
        if self._last in found:
            first = found.index(self._last) + self._failed
            found = found[first:] + found[:first]
        return found

    def ended(self, address: Address, seconds: float) -> None:
        """Record how long a connection to ``address`` lasted. The next attempt begins with it or the one after it."""
        self._last, self._failed = address, seconds < FAILED_S

    def _start(self) -> asyncio.Future[list[Address] | LookUpError]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Address] | LookUpError] = loop.create_future()

        def look_up() -> None:
            try:
                found: list[Address] | LookUpError = resolve(self._host, self._port, self._kind)
            except LookUpError as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(future.set_result, found)

        try:
            threading.Thread(target=look_up, name="resolver", daemon=True).start()
        except RuntimeError as error:  # no more threads are allowed
            future.set_result(LookUpError(f"{self._host}: cannot be looked up: {error}"))
        return future


async def connect_tcp(addresses: list[Address]) -> tuple[socket.socket, Address]:
    """Return the first TCP connection that succeeds, and its address. Raises the last OSError if all fail."""
    rest = list(addresses)
    trying: dict[asyncio.Task[socket.socket], Address] = {}
    failure: BaseException = OSError("the host has no address")
    try:
        while rest or trying:
            if rest:
                address = rest.pop(0)
                trying[asyncio.create_task(_connect_to(*address))] = address
            wait_s = NEXT_ADDRESS_S if rest else None
            done, _ = await asyncio.wait(trying, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = trying.pop(task)
                error = task.exception()
                if error is None:
                    return task.result(), address
                failure = error
        raise failure
    finally:
        for task in trying:
            task.cancel()
        for late in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()


async def _connect_to(family: int, address: Any) -> socket.socket:  # noqa: ANN401 - a socket address
    # asyncio sets TCP_NODELAY only if the protocol is named. A system without IPv6 refuses even to create a socket.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
