"""What hostile clients do to the job API; needs nothing but Python, so that it runs beside any service.

    python3 benchmarks/attacks.py ATTACK [--port 9833] [--metrics-port 9900] [--seconds 10] [--connections 600]

Prints how often each thing was done, as JSON. ``benchmarks.load`` and the tests under systemd measure what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST: Final = "127.0.0.1"
DRIP_S: Final = 0.2
"""Seconds between two bytes of a slow client."""
MANY: Final = 20_000
"""Jobs, and paths, that differ."""
RUNNING: Final = 990
"""Jobs that run at once, of the 1,000 that may."""
CALLERS: Final = 16
"""Connections on which those are asked for."""

MALFORMED: Final = (
    b"\x00\xff\xfe\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"POST /mine HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /mine HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n",
    b"GET /mine HTTP/1.1\r\n" + b"aa:bb\r\n" * 4_000 + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
POST: Final = b"POST /mine HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
HUGE: Final = (
    b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
    b"GET / HTTP/1.1\r\n" + b"aa:bb\r\n" * 150_000,
    POST + b"content-length: 1000000000\r\n\r\n" + b"z" * 4_000_000,
    POST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 200_000,
    POST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"aa:bb\r\n" * 150_000,
    b"\r\n" * 500_000,
)
"""None of these ends: the service has to end them."""


class Attacker:
    """Does one kind of harm until ``seconds`` are over."""

    def __init__(self, port: int, metrics_port: int, seconds: float, connections: int) -> None:
        self._port = port
        self._metrics_port = metrics_port
        self._connections = connections
        self._end = time.monotonic() + seconds
        self.done: Counter[str] = Counter()

    async def attack(self, name: str) -> None:
        """Runs the attack of that name on all connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._end - time.monotonic()):
                if name in CALLS:
                    await asyncio.gather(*(CALLS[name](self, MANY // CALLERS) for _ in range(CALLERS)))
                else:
                    one = ATTACKS[name]
                    await asyncio.gather(*(self._again(one, number) for number in range(self._connections)))

    async def _again(self, one: Callable[[Attacker, int], Awaitable[None]], number: int) -> None:
        while True:
            try:
                await one(self, number)
                self.done["ended"] += 1
            except OSError as error:
                self.done[type(error).__name__] += 1
                await asyncio.sleep(DRIP_S)  # gives the listen queue, and our own ports, time

    async def connect(self, *, metrics: bool = False) -> socket.socket:
        """A connection whose receive buffer is as small as it can be."""
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.setblocking(False)
            address = (HOST, self._metrics_port if metrics else self._port)
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        self.done["connected"] += 1
        return sock

    async def idle(self, _: int) -> None:
        """A connection on which nothing is said, until the service ends it."""
        with await self.connect() as sock:
            await _until_closed(sock)

    async def drip(self, number: int) -> None:
        """A head, or a body, of which a byte comes now and then."""
        head = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "
        body = POST + b"content-length: 65536\r\n\r\n"
        loop = asyncio.get_running_loop()
        with await self.connect() as sock:
            await loop.sock_sendall(sock, body if number % 2 else head)
            while True:
                await loop.sock_sendall(sock, b"y")
                await asyncio.sleep(DRIP_S)

    async def unread(self, number: int) -> None:
        """Requests without end of which no reply is read, a part of them to the exporter."""
        metrics = number % 8 == 0
        path = b"/metrics" if metrics else b"/openapi.json"
        with await self.connect(metrics=metrics) as sock:
            while True:
                request = b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % path
                await asyncio.get_running_loop().sock_sendall(sock, request)
                await asyncio.sleep(DRIP_S / 10)

    async def pipelined(self, _: int) -> None:
        """Thousands of small requests in one piece, whose replies are not read."""
        with await self.connect() as sock:
            while True:
                await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n" * 14_000)

    async def huge(self, number: int) -> None:
        """Heads, bodies and trailers that do not end."""
        with await self.connect() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HUGE[number % len(HUGE)])
            await _until_closed(sock)

    async def malformed(self, number: int) -> None:
        """What is no HTTP, as fast as it is refused."""
        with await self.connect() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, MALFORMED[number % len(MALFORMED)])
            await _until_closed(sock)

    async def jobs(self, count: int) -> None:
        """Jobs that differ, each cancelled, with ids as long as they may be."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        for _ in range(count):
            job_id = uuid.uuid4().hex * 4
            job = {"job_id": job_id, "mining_hash": uuid.uuid4().hex * 2, "difficulty": str(2**511)}
            await self._call(reader, writer, POST, json.dumps(job).encode())
            await self._call(reader, writer, b"POST /cancel/%b HTTP/1.1\r\nhost: 127.0.0.1\r\n" % job_id.encode())
            self.done["jobs"] += 1
        writer.close()

    async def paths(self, count: int) -> None:
        """Paths that differ, and methods."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        methods = cycle((b"GET", b"POST", b"PUT", b"DELETE", b"PROPFIND"))
        for number, method in zip(range(count), methods, strict=False):
            path = (b"/result/%b" if number % 2 else b"/%b") % uuid.uuid4().hex.encode()
            await self._call(reader, writer, b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\n" % (method, path))
            self.done["paths"] += 1
        writer.close()

    async def status(self, count: int) -> None:
        """The status without a pause, of as many jobs as may run. They are left behind."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        for _ in range(RUNNING // CALLERS):
            job = {"job_id": uuid.uuid4().hex, "mining_hash": uuid.uuid4().hex * 2, "difficulty": str(2**512 - 1)}
            await self._call(reader, writer, POST, json.dumps(job).encode())
        for _ in range(count):
            await self._call(reader, writer, b"GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\n")
            self.done["statuses"] += 1
        writer.close()

    @staticmethod
    async def _call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes = b"") -> None:
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.partition(b"content-length:")[2].split()[0]))


ATTACKS: Final = {
    "idle": Attacker.idle,
    "drip": Attacker.drip,
    "unread": Attacker.unread,
    "pipelined": Attacker.pipelined,
    "huge": Attacker.huge,
    "malformed": Attacker.malformed,
}
CALLS: Final = {"jobs": Attacker.jobs, "paths": Attacker.paths, "status": Attacker.status}
"""Attacks by CALLERS clients whose every request is answered."""
NAMES: Final = (*ATTACKS, *CALLS)


async def _until_closed(sock: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(sock, 4096):
        pass


def main() -> None:
    """Attacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("attack", choices=NAMES)
    parser.add_argument("--port", type=int, default=9833)
    parser.add_argument("--metrics-port", type=int, default=9900)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=600)
    options = parser.parse_args()
    attacker = Attacker(options.port, options.metrics_port, options.seconds, options.connections)
    asyncio.run(attacker.attack(options.attack))
    print(json.dumps(attacker.done))


if __name__ == "__main__":
    main()
