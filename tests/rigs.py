"""A hub with a real NATS server and its rigs, for tests: the test is the hub's live source, and a rig's."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import pow as reference
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.nats_server import NatsServer
from quantus_miner.hub.rigs import Rigs
from quantus_miner.hub.roster import Roster, new_key
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources import nats
from quantus_miner.sources.hub import HubLink
from quantus_miner.store.writer import Store
from quantus_miner.wire import fleet

from .hub import WAIT_S, Fixture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from quantus_miner.sources.link import Handover, Verdict

pytest.importorskip("nats", reason="needs the extra hub")
pytest.importorskip("nkeys", reason="needs the extra hub")
if not (shutil.which("nats-server") or Path(sys.executable).with_name("nats-server").exists()):
    pytest.skip("needs nats-server (apt install nats-server)", allow_module_level=True)

STATUS = fleet.StatusMessage("1.0", 10.0, 5e6, 50, 1, 4, 60.0, None)


def url_for(roster: Roster, name: str, *ports: int) -> fleet.HubUrl:
    """Invite a rig to servers on these ports of this machine, with the hub's certificate."""
    return roster.invite(name, tuple(("127.0.0.1", port) for port in ports), roster.fingerprint())


class RigListener:
    """What the live source of a rig learns."""

    def __init__(self) -> None:
        self.opened = 0
        self.jobs: asyncio.Queue[LiveJob | None] = asyncio.Queue()
        self.handovers: asyncio.Queue[tuple[Solution, Handover]] = asyncio.Queue()
        self.verdicts: asyncio.Queue[Verdict] = asyncio.Queue()

    def on_open(self) -> None:
        self.opened += 1

    def on_alive(self) -> None:
        pass

    def on_job(self, job: LiveJob) -> None:
        self.jobs.put_nowait(job)

    def on_no_job(self) -> None:
        self.jobs.put_nowait(None)

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        self.handovers.put_nowait((solution, handover))

    def on_verdict(self, verdict: Verdict) -> None:
        self.verdicts.put_nowait(verdict)

    async def job(self) -> LiveJob:
        job = await asyncio.wait_for(self.jobs.get(), WAIT_S)
        assert job is not None
        return job

    async def handover(self) -> tuple[Solution, Handover]:
        return await asyncio.wait_for(self.handovers.get(), WAIT_S)


class Fleet(Fixture):
    """A hub with a NATS server; the test is its live source."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.roster = Roster(folder)
        self.rigs = Rigs(self.hub, ShareHasher())
        self.seed, key = new_key()
        self.server = NatsServer(self.roster.folder, self.roster.certificate(), "127.0.0.1", 0, key)
        self.serving: asyncio.Task[None] | None = None
        self.client: Any = None

    async def open(self) -> None:
        await self.server.start(self.roster.load())
        await self.serve()

    async def serve(self) -> None:
        async def nothing(*_: object) -> None:
            pass

        pem = self.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
        self.client = await nats.connect(
            ("127.0.0.1", self.server.port),
            nats.trusting(pem),
            seed=self.seed,
            inbox="_INBOX.+hub",
            on_error=nothing,
            on_end=nothing,
        )
        self.serving = asyncio.create_task(self.rigs.serve(self.client))

    async def close(self) -> None:
        if self.serving is not None:
            self.serving.cancel()
            await asyncio.gather(self.serving, return_exceptions=True)
            await self.client.close()
        await self.server.stop()

    def invite(self, name: str) -> fleet.HubUrl:
        url = url_for(self.roster, name, self.server.port)
        self.reload()
        return url

    def reload(self) -> None:
        self.server.reload(self.roster.load())
        self.rigs.invite(self.roster.load())

    async def open_again(self) -> None:
        """With a new server on the same port."""
        self.seed, key = new_key()
        self.server = NatsServer(self.roster.folder, self.roster.certificate(), "127.0.0.1", self.server.port, key)
        await self.open()


@contextlib.asynccontextmanager
async def fleet_at(folder: Path) -> AsyncIterator[Fleet]:
    each = Fleet(folder)
    try:
        await each.open()
        yield each
    finally:
        await each.close()
        each.store.close(WAIT_S)


@contextlib.asynccontextmanager
async def rig_of(url: fleet.HubUrl, state: Path) -> AsyncIterator[tuple[HubLink, RigListener, asyncio.Task[Any]]]:
    store = Store(state, history_days=30)
    store.begin()
    link, listener = HubLink(url, store, lambda: STATUS), RigListener()
    task: asyncio.Task[Any] = asyncio.create_task(link.run(listener))
    try:
        yield link, listener, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close(WAIT_S)


@contextlib.asynccontextmanager
async def fleet_and_rig(folder: Path, difficulty: int = 3) -> AsyncIterator[tuple[Fleet, LiveJob, fleet.HubUrl]]:
    """A hub with a job, and the URL of ``rig``, which the server knows already. ``folder/rig`` is for its state."""
    async with fleet_at(folder / "hub") as each:
        job = each.give("1", difficulty=difficulty)
        url = each.invite("rig")
        await known(each, url, folder / "rig")
        yield each, job, url


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def known(each: Fleet, url: fleet.HubUrl, state: Path) -> None:
    """Wait until the server knows a rig that was just invited: it reads its file again by itself."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with rig_of(url, state) as (_, listener, task):
                waiting = asyncio.create_task(listener.jobs.get())
                await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not task.done():
                    return


def solve(job: LiveJob, number: int = 1) -> Solution:
    nonce = int.from_bytes(job.prefix.ljust(64, b"\0")) + number
    while (value := reference.evaluate(Pow.POSEIDON2, job.header, nonce)) > job.target:
        nonce += 1
    return Solution(nonce, value)
