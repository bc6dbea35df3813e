"""The addresses of a host: looked up without holding up the event loop or the end of the process, tried in turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Final

MAX_ADDRESSES: Final = 8
"""Addresses of one name that are tried."""
NEXT_ADDRESS_S: Final = 0.25
"""Seconds until the next address of a name is tried over TCP beside the one before."""
FAILED_S: Final = 60.0
"""Seconds that a connection must last, or its address has failed and the next attempt begins with another."""

WORDS: Final = {
    socket.EAI_NONAME: "no such host name",
    socket.EAI_NODATA: "the host name has no address",
    socket.EAI_AGAIN: "no name server answered",
    socket.EAI_FAIL: "the name server failed",
}
"""What the errors of a resolver mean."""

Address = tuple[int, Any]
"""Family and socket address."""


class LookUpError(Exception):
    """A name could not be looked up; ``str()`` is one line, which begins with the name."""


class Addresses:
    """The addresses of one host and port; ``kind``: SOCK_STREAM or SOCK_DGRAM. At most one look-up runs at a time.

    Each look-up has a daemon thread, which nobody joins: a resolver may hang for a minute, and asyncio's own threads
    would then be missing elsewhere and hold up the end of the process.
    """

    def __init__(self, host: str, port: int, kind: socket.SocketKind) -> None:
        self._host = host
        self._port = port
        self._kind = kind
        self._running: asyncio.Future[list[Address] | LookUpError] | None = None
        self._last: Address | None = None
        self._failed = False

    async def look_up(self, timeout_s: float) -> list[Address]:
        """The addresses, in the order to try them. Raises LookUpError.

        After a time-out the look-up goes on, and the next call gets its result.
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
        """A connection to ``address`` has ended after so long: the next attempt begins with it, or the one after it."""
        self._last, self._failed = address, seconds < FAILED_S

    def _start(self) -> asyncio.Future[list[Address] | LookUpError]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Address] | LookUpError] = loop.create_future()

        def look_up() -> None:
            found = self._ask()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(future.set_result, found)

        try:
            threading.Thread(target=look_up, name="resolver", daemon=True).start()
        except RuntimeError as error:  # no more threads are allowed
            future.set_result(LookUpError(f"{self._host}: cannot be looked up: {error}"))
        return future

    def _ask(self) -> list[Address] | LookUpError:
        try:
            infos = socket.getaddrinfo(self._host, self._port, type=self._kind)
        except socket.gaierror as error:
            return LookUpError(f"{self._host}: {WORDS.get(error.errno or 0) or error.strerror or error}")
        except UnicodeError:
            return LookUpError(f"{self._host}: not a host name")
        except OSError as error:
            return LookUpError(f"{self._host}: {error.strerror or error}")
        # The zone of an IPv6 address is in the tuple as a number, too; asyncio would look up one with a name.
        return [
            (int(family), (str(address[0]).partition("%")[0], *address[1:]))
            for family, *_, address in infos[:MAX_ADDRESSES]
        ] or LookUpError(f"{self._host}: {WORDS[socket.EAI_NODATA]}")


async def connect_tcp(addresses: list[Address]) -> tuple[socket.socket, Address]:
    """The first TCP connection that stands, and its address. Raises OSError, that of the last to fail."""
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
    # asyncio sets TCP_NODELAY only on sockets that say they are TCP. A system without IPv6 refuses even to make one.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
