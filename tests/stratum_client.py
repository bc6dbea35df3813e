"""A stratum miner written from the description of the dialect alone: it shares no code with the miner but the hash."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from quantus_miner import pow as reference
from quantus_miner.model import Pow

if TYPE_CHECKING:
    import ssl

MAX = 2**512 - 1
WAIT_S = 60.0


class StratumClient:
    """One connection. Shares are found with the reference, so targets must be easy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session = ""
        self.job: dict[str, Any] = {}
        self.jobs = 0
        self._requests = 1
        self._count = 0

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext | None = None) -> StratumClient:
        host = "localhost" if context else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host))

    @classmethod
    async def logged_in(
        cls, port: int, login: str = "wallet.rig", context: ssl.SSLContext | None = None
    ) -> StratumClient:
        client = await cls.connect(port, context)
        reply = await client.login(login)
        assert reply["error"] is None, reply
        return client

    async def login(self, login: str) -> dict[str, Any]:
        reply = await self.call("login", {"login": login, "pass": "x", "agent": "spec/1"})
        if reply["error"] is None:
            assert reply["result"]["status"] == "OK"
            self.session = reply["result"]["id"]
            self._take(reply["result"]["job"])
        return reply

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The reply. Jobs that come before it are taken."""
        self._requests += 1
        request = self._requests
        self.send({"id": request, "method": method, "params": params})
        while True:
            message = await self.hear()
            if message.get("id") == request and "method" not in message:
                return message

    def send(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """The next message. Raises EOFError at the end of the connection."""
        line = await asyncio.wait_for(self.reader.readline(), WAIT_S)
        if not line:
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "job":
            self._take(message["params"]["job"])
        return message

    async def next_job(self) -> dict[str, Any]:
        """The next job."""
        before = self.jobs
        while self.jobs == before:
            await self.hear()
        return self.job

    async def is_dropped(self) -> bool:
        """Wait for the end of the connection."""
        try:
            while True:
                await self.hear()
        except (EOFError, ConnectionError):
            return True

    def _take(self, job: dict[str, Any] | None) -> None:
        if job is not None:
            assert int(job["target"], 16) == MAX // int(job["difficulty"])
            assert len(bytes.fromhex(job["extranonce"])) == 4
            assert len(bytes.fromhex(job["mining_hash"])) == 32
            self.job = job
            self.jobs += 1

    def share(self, *, below: int | None = None, at_least: int = 0) -> dict[str, str]:
        """The next share of the current job: its hash is below its target, or ``below``, and not below ``at_least``."""
        job = self.job
        target = int(job["target"], 16) if below is None else below
        while True:
            self._count += 1
            nonce = bytes.fromhex(job["extranonce"]) + self._count.to_bytes(60)
            value = reference.evaluate(Pow.POSEIDON2, bytes.fromhex(job["mining_hash"]), int.from_bytes(nonce))
            if at_least <= value < target:
                return {"id": self.session, "job_id": job["job_id"], "nonce": nonce.hex(), "result": f"{value:0128x}"}

    async def submit(self, share: dict[str, str]) -> str:
        """Its verdict: OK or the error's message."""
        reply = await self.call("submit", share)
        return str(reply["error"]["message"] if reply["error"] else reply["result"]["status"])

    async def close(self) -> None:
        self.writer.close()
        await asyncio.wait({asyncio.ensure_future(self.writer.wait_closed())})
