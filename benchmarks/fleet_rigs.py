"""Many rigs in one process, for ``benchmarks.fleet``: what real ones say to NATS, over TLS, without hashing.

    python -m benchmarks.fleet_rigs PORT CERTIFICATE RIGS FIRST COUNT

RIGS is a file of names with their private and public keys. A line on stdin is a request, its reply a line of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import ssl
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quantus_miner.sources import nats
from quantus_miner.sources.hub import STATUS_S, new_backoff
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECTING: Final = 50
"""Rigs of a process that connect at once when the simulation begins."""
HELLO, SOLUTION = "h", "s"


class Farm:
    """All rigs of this process, and what they have seen. ``arrivals``: when each of them got the job, by header."""

    def __init__(self, port: int, certificate: str, rigs: dict[str, tuple[str, str]]) -> None:
        self.port = port
        self.context = nats.trusting(certificate)
        self.loop = asyncio.get_running_loop()
        self.arrivals: dict[str, list[float]] = {}
        self.job: fleet.JobMessage | None = None
        self.here = 0
        self.welcomes: list[float] = []
        self.lost = 0
        self.kept = 0
        self.others = 0
        self.solving = False
        self.status = fleet.encode(fleet.StatusMessage("simulated", 10.0, 5e6, 50, 1, 4, 60.0, 300.0))
        self.rigs = [Rig(self, name, *keys) for name, keys in rigs.items()]
        self._waiting = deque(self.rigs)

    def connect_some(self) -> None:
        """Connect the first ones; each that is here connects the next."""
        for _ in range(min(CONNECTING, len(self._waiting))):
            self._waiting.popleft().connect()

    def on_welcome(self) -> None:
        """Count a rig that is here, and connect the next one."""
        self.here += 1
        self.welcomes.append(time.monotonic())
        if self._waiting:
            self._waiting.popleft().connect()

    def on_job(self, job: fleet.JobMessage) -> None:
        """Note when a job came to a rig."""
        self.job = job
        self.arrivals.setdefault(job.header, []).append(time.monotonic())

    def answer(self, request: str) -> dict[str, Any]:
        """Do what a line asks, and return the reply."""
        what, _, argument = request.partition(" ")
        if what == "connect":
            self.connect_some()
        elif what == "arrivals":
            return {"arrivals": self.arrivals.get(argument, [])}
        elif what == "welcomes":
            return {"welcomes": self.welcomes}
        elif what == "forget":
            self.welcomes.clear()
        elif what == "solve":
            self.solving, self.kept, self.others = True, 0, 0
            for rig in self.rigs[: int(argument)]:
                rig.solve()
        elif what == "rest":
            self.solving = False
        return {"here": self.here, "lost": self.lost, "kept": self.kept, "others": self.others}


class Rig:
    """One rig: a socket that the event loop watches. The library's client would take several times the memory."""

    def __init__(self, farm: Farm, name: str, seed: str, public: str) -> None:
        self._farm = farm
        self._name = name
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        self._key = Ed25519PrivateKey.from_private_bytes(raw[2:34])
        self._public = public
        self._sock: socket.socket | ssl.SSLSocket = socket.socket()
        self._buffer = b""
        self._header = ""
        self._here = False
        self._backoff = new_backoff()
        self._timer: asyncio.TimerHandle | None = None

    def connect(self) -> None:
        """Connect, log in and say hello."""
        self._sock = socket.socket()
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._sock.connect_ex(("127.0.0.1", self._farm.port))
        self._farm.loop.add_reader(self._sock, self._contained, self._on_info)
        self._timer = self._farm.loop.call_later(nats.CONNECT_S, self._on_lost)

    def solve(self) -> None:
        """Send a solution for the job. Its difficulty is 1, so any nonce is one."""
        if self._here and self._farm.job is not None:
            found = fleet.SolutionMessage(self._farm.job.header, secrets.token_hex(64))
            self._publish(fleet.SOLUTION, fleet.encode(found), SOLUTION)

    # --- the connection ---

    def _contained(self, step: Any) -> None:  # noqa: ANN401 - one of the methods below
        try:
            step()
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError:
            self._on_lost()

    def _on_info(self) -> None:
        """The server has said who it is: go over to TLS."""
        self._buffer += self._sock.recv(65_536)
        if not self._buffer:
            raise ConnectionResetError
        if b"\r\n" not in self._buffer:
            return
        info = msgspec.json.decode(self._buffer.partition(b"\r\n")[0].removeprefix(b"INFO "))
        self._nonce = info["nonce"].encode()
        self._buffer = b""
        loop = self._farm.loop
        loop.remove_reader(self._sock)
        self._sock = self._farm.context.wrap_socket(self._sock, do_handshake_on_connect=False)
        loop.add_reader(self._sock, self._contained, self._shake_hands)
        self._contained(self._shake_hands)

    def _shake_hands(self) -> None:
        assert isinstance(self._sock, ssl.SSLSocket)
        self._sock.do_handshake()
        signature = base64.urlsafe_b64encode(self._key.sign(self._nonce)).rstrip(b"=").decode()
        login = {
            "verbose": False, "pedantic": False, "tls_required": True, "lang": "simulation", "version": "1",
            "protocol": 1, "nkey": self._public, "sig": signature,
        }  # fmt: skip
        inbox = f"{fleet.INBOX}.{self._name}"
        self._sock.sendall(
            b"CONNECT " + json.dumps(login).encode() + b"\r\n"
            + f"SUB {fleet.RIG}.{self._name} 1\r\nSUB {inbox}.* 2\r\n".encode()
        )  # fmt: skip
        self._publish(fleet.HELLO, b"", HELLO)
        self._sock.sendall(f"SUB {fleet.JOB} 3\r\n".encode())
        self._farm.loop.remove_reader(self._sock)
        self._farm.loop.add_reader(self._sock, self._contained, self._read)
        self._contained(self._read)

    def _publish(self, subject: str, data: bytes, reply: str = "") -> None:
        inbox = f" {fleet.INBOX}.{self._name}.{reply}" if reply else ""
        self._sock.sendall(f"PUB {subject}.{self._name}{inbox} {len(data)}\r\n".encode() + data + b"\r\n")

    def _read(self) -> None:
        while True:
            data = self._sock.recv(65_536)
            if not data:
                raise ConnectionResetError
            self._buffer += data
            for subject, message in self._messages():
                self._on_message(subject, message)

    def _messages(self) -> Iterator[tuple[str, bytes]]:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            verb, *words = self._buffer[:end].decode().split()
            if verb == "MSG":
                until = end + 2 + int(words[-1])
                if len(self._buffer) < until + 2:
                    return
                message, self._buffer = self._buffer[end + 2 : until], self._buffer[until + 2 :]
                yield words[0], message
                continue
            self._buffer = self._buffer[end + 2 :]
            if verb == "PING":
                self._sock.sendall(b"PONG\r\n")
            elif verb == "-ERR":
                raise ConnectionResetError

    def _on_message(self, subject: str, data: bytes) -> None:
        if subject == fleet.JOB:
            self._take(fleet.decode(data, fleet.JobMessage))
        elif subject.endswith(f".{HELLO}"):
            self._on_welcome(fleet.decode(data, fleet.Welcome))
        elif subject.endswith(f".{SOLUTION}"):
            kept = fleet.decode(data, fleet.SolutionReply).state == "kept"
            self._farm.kept += kept
            self._farm.others += not kept
            if self._farm.solving:
                self.solve()

    def _on_welcome(self, welcome: fleet.Welcome) -> None:
        self._here = True
        self._backoff = new_backoff()
        self._set_timer(STATUS_S * secrets.randbits(16) / 2**16)
        self._farm.on_welcome()
        if welcome.job is not None:
            self._take(welcome.job)

    def _take(self, job: fleet.JobMessage) -> None:
        if job.header != self._header:
            self._header = job.header
            self._farm.on_job(job)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._farm.loop.call_later(seconds, self._contained, self._report)

    def _report(self) -> None:
        self._publish(fleet.STATUS, self._farm.status)
        self._set_timer(STATUS_S)

    def _on_lost(self) -> None:
        """Connect again, as a real rig does."""
        self._farm.loop.remove_reader(self._sock)
        self._sock.close()
        self._farm.here -= self._here
        self._farm.lost += 1
        self._here = False
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._backoff.wait_s(secrets.randbits(16) / 2**16)
        self._timer = self._farm.loop.call_later(wait_s, self.connect)


async def _main(farm: Callable[[], Farm]) -> None:
    all_rigs = farm()
    requests = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    while line := await requests.readline():
        print(json.dumps(all_rigs.answer(line.decode().strip())), flush=True)


def main() -> None:
    """Simulate."""
    port, first, count = int(sys.argv[1]), int(sys.argv[4]), int(sys.argv[5])
    certificate = Path(sys.argv[2]).read_text(encoding="ascii").partition("-----BEGIN PRIVATE")[0]
    rigs = msgspec.json.decode(Path(sys.argv[3]).read_bytes(), type=dict[str, tuple[str, str]])
    asyncio.run(_main(partial(Farm, port, certificate, dict(list(rigs.items())[first : first + count]))))


if __name__ == "__main__":
    main()
