"""Many stratum miners in one process, for ``benchmarks.fleet``. What they send are real shares.

    python -m benchmarks.fleet_miners PORT COUNT

A line on stdin is a request, its reply a line of JSON on stdout.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from functools import partial
from typing import Any, Final

from quantus_miner import native
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow

SLICE_S: Final = 0.25
"""Seconds between two slices of nonces of a miner."""
RATES: Final = (3.0, 30.0)
"""Slowest and fastest hash rate of a simulated miner, in nonces a second."""
KERNEL: Final = native.find_kernel(Pow.POSEIDON2, "baseline")


class Miner(asyncio.Protocol):
    """One connection. ``rate``: nonces a second that it tests when it mines."""

    transport: asyncio.Transport

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number
        self.rate = RATES[0] * (RATES[1] / RATES[0]) ** random.random()  # noqa: S311 - a simulation
        self._buffer = b""
        self._session = ""
        self.job: dict[str, Any] = {}
        self._native: native.NativeJob | None = None
        self._next = 0
        self._owed = 0.0
        self.prepared: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        login = {"login": f"wallet.{self._crowd.prefix}{self._number}", "pass": "x", "agent": "simulation"}
        self._send({"id": 1, "method": "login", "params": login})

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Count it."""
        self._crowd.lost += 1

    def data_received(self, data: bytes) -> None:
        """Take jobs and verdicts."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("method") == "job":
                self._take(message["params"]["job"])
            elif message["id"] == 1:
                self._session = message["result"]["id"]
                self._take(message["result"]["job"])
                self._crowd.here += 1
            elif message["error"] is None:
                self._crowd.accepted += 1
            else:
                reason = message["error"]["message"]
                self._crowd.refused[reason] = self._crowd.refused.get(reason, 0) + 1

    def _send(self, message: dict[str, Any]) -> None:
        self.transport.write(json.dumps(message).encode() + b"\n")

    def _take(self, job: dict[str, Any]) -> None:
        if self.job.get("mining_hash") != job["mining_hash"]:
            self._crowd.arrivals.setdefault(job["mining_hash"], []).append(time.monotonic())
            self._next = int(job["extranonce"], 16) << 480 | 1
        self.job = job
        header, target = bytes.fromhex(job["mining_hash"]), int(job["target"], 16)
        ranges = (NonceRange(self._next, MAX),)
        self._native = native.prepare(Job("", Pow.POSEIDON2, header, target, ranges, Order.COUNTING))

    def prepare(self, shares: int) -> None:
        """Find shares without sending them."""
        while len(self.prepared) < shares:
            self._search(shares - len(self.prepared), self.prepared.append)

    def mine(self) -> None:
        """Search for SLICE_S seconds at our rate."""
        self._owed += self.rate * SLICE_S
        count = int(self._owed)
        self._owed -= count
        self._search(count, self.transport.write)

    def _search(self, count: int, found: Any) -> None:  # noqa: ANN401 - takes bytes
        """Test ``count`` nonces, and pass each share on."""
        while count > 0 and self._native is not None:
            outcome = native.search(KERNEL, self._native, self._next, count, self._crowd.control)
            self._next += outcome.tested
            count -= outcome.tested
            if outcome.nonce is not None:
                found(self._share(outcome.nonce))

    def _share(self, nonce: int) -> bytes:
        value = native.poseidon2_hash(bytes.fromhex(self.job["mining_hash"]), nonce)
        share = {
            "id": self._session,
            "job_id": self.job["job_id"],
            "nonce": f"{nonce:0128x}",
            "result": f"{value:0128x}",
        }
        return json.dumps({"id": 2, "method": "submit", "params": share}).encode() + b"\n"


class Crowd:
    """All miners of this process, and what was said to them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.control = native.NativeControl()
        self.prefix = ""
        self.miners: list[Miner] = []
        self.here = self.lost = self.accepted = 0
        self.refused: dict[str, int] = {}
        self.arrivals: dict[str, list[float]] = {}
        self._mining: asyncio.Task[None] | None = None

    async def answer(self, request: str) -> dict[str, Any]:
        """Do what a line asks, and return the reply."""
        what, _, argument = request.partition(" ")
        if what == "connect":
            self.prefix, count = argument.split()[0], int(argument.split()[1])
            for number in range(count):
                create = partial(Miner, self, number)
                _, miner = await asyncio.get_running_loop().create_connection(create, "127.0.0.1", self._port)
                self.miners.append(miner)
        elif what == "prepare":
            for miner in self.miners:
                miner.prepare(int(argument))
        elif what == "flood":
            for miner in self.miners:
                miner.transport.write(b"".join(miner.prepared))
        elif what == "arrivals":
            return {"arrivals": self.arrivals.get(argument, [])}
        elif what == "mine":
            self._mining = asyncio.create_task(self._mine())
        elif what == "difficulties":
            return {"ratios": [int(miner.job["difficulty"]) / miner.rate for miner in self.miners]}
        elif what == "leave":
            for miner in self.miners:
                miner.transport.abort()
            self.miners.clear()
            self.here = 0
        return {"here": self.here, "lost": self.lost, "accepted": self.accepted, "refused": self.refused}

    async def _mine(self) -> None:
        """Have every miner mine, spread over SLICE_S."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for number, miner in enumerate(self.miners):
                miner.mine()
                if number % 50 == 49:
                    await asyncio.sleep(0)
            due += SLICE_S
            await asyncio.sleep(max(0.0, due - loop.time()))


async def _main(port: int) -> None:
    crowd = Crowd(port)
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    while line := await requests.readline():
        print(json.dumps(await crowd.answer(line.decode().strip())), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
