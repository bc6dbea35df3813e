"""The live source with a real miner; the other side of its links is the test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, LiveJob, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Listener, Verdict
from quantus_miner.sources.live import LiveSource, ignore
from quantus_miner.sources.searcher import MinerSearcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Hashable

    from quantus_miner.events import Event


WAIT_S = 30.0
HEADER = bytes(range(32))


def job(job_id: str, difficulty: int = 200, prefix: bytes = b"") -> LiveJob:
    return LiveJob(job_id, HEADER, difficulty, prefix)


class ScriptedLink:
    """A link whose other side is the test."""

    def __init__(self, name: str, identity: Hashable = None) -> None:
        self.name = name
        self.identity = identity or name
        self.listeners: asyncio.Queue[Listener] = asyncio.Queue()
        self.submitted: asyncio.Queue[tuple[LiveJob, Solution, int]] = asyncio.Queue()
        self.ending: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self.open = 0
        self.unanswered = 0
        """Shares that are unanswered at the end of a session."""
        self.current: LiveJob | None = None

    async def run(self, listener: Listener) -> NoReturn:
        self.open += 1
        assert self.open == 1
        self.ending = asyncio.get_running_loop().create_future()
        self.listeners.put_nowait(listener)
        try:
            await self.ending
        finally:
            self.open -= 1
            for nonce in range(self.unanswered):
                listener.on_verdict(Verdict(False, False, "no reply", 0.1, nonce, 1, unanswered=True))
        raise AssertionError("it ended without an error")

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        assert hashes > 0
        assert elapsed >= 0
        if job is not self.current:
            return Handover.LATE
        self.submitted.put_nowait((job, solution, hashes))
        return Handover.SENT

    async def connected(self) -> Listener:
        async with asyncio.timeout(WAIT_S):
            listener = await self.listeners.get()
        listener.on_open()
        return listener

    def give(self, listener: Listener, job: LiveJob) -> None:
        self.current = job
        listener.on_job(job)

    async def solution(self) -> tuple[LiveJob, Solution, int]:
        async with asyncio.timeout(WAIT_S):
            return await self.submitted.get()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def mining(
    *links: ScriptedLink, clock: Clock | None = None, publish: Callable[[Event], None] = ignore
) -> AsyncIterator[tuple[LiveSource, Miner]]:
    miner = Miner([CpuEngine("cpu-fast", 2, fast_kernels(None))], chunk_s=0.05)
    miner.start()
    source = LiveSource(MinerSearcher(miner), links, priority=1, publish=publish, clock=clock or Clock())
    task = asyncio.create_task(source.run())
    try:
        yield source, miner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert miner.close(WAIT_S)
        assert not any(link.open for link in links)
        assert miner.stats().active_jobs == 0


@asynccontextmanager
async def mining_the_second() -> AsyncIterator[tuple[LiveSource, Miner, ScriptedLink, ScriptedLink, Listener]]:
    """Two pools, of which the second is mined, for the first job of the first was late; and the second's listener."""
    clock, first, second = Clock(), ScriptedLink("pool a"), ScriptedLink("pool b")
    async with mining(first, second, clock=clock) as (source, miner):
        on_first = await first.connected()
        clock.now += POLICY.first_job_s
        on_second = await second.connected()
        second.give(on_second, job("b", difficulty=MAX))
        first.give(on_first, job("a", difficulty=MAX))
        assert source.stats()[1].mined
        yield source, miner, first, second, on_second


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is observed has no event
            await asyncio.sleep(0)


def run(test: Coroutine[None, None, None]) -> None:
    """An asynchronous test, after which no task is left."""

    async def checked() -> None:
        await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    asyncio.run(checked())
