"""A link to a pool for tests, and pools whose lines the test writes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import pow as reference
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.pool import DevPool
from quantus_miner.errors import LinkLostError
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.pool_url import parse_pool_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from quantus_miner.sources.link import Verdict
    from quantus_miner.wire.stratum_miner import Timing


LOGIN = "qzpFUhjXpZnRCbNr9LW5sAkWmTus52Ffcf31MBpig82u1JArX.rig"
WAIT_S = 20.0
"""For what must come, so that a test that fails ends."""


class PoolListener:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.jobs: asyncio.Queue[LiveJob] = asyncio.Queue()
        self.verdicts: asyncio.Queue[Verdict] = asyncio.Queue()

    def on_open(self) -> None:
        assert not self.opened.is_set()
        self.opened.set()

    def on_job(self, job: LiveJob) -> None:
        assert self.opened.is_set()
        self.jobs.put_nowait(job)

    def on_alive(self) -> None:
        pass

    def on_no_job(self) -> None:
        raise AssertionError("pools withdraw no job")

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        raise AssertionError("to pools shares go at once")

    def on_verdict(self, verdict: Verdict) -> None:
        self.verdicts.put_nowait(verdict)

    async def job(self) -> LiveJob:
        return await asyncio.wait_for(self.jobs.get(), WAIT_S)

    async def verdict(self) -> Verdict:
        return await asyncio.wait_for(self.verdicts.get(), WAIT_S)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it, and looks whether tasks or connections are left over; ResourceWarnings are errors already."""

    async def watched() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched(), debug=True)


def dev_pool(difficulty: int = 1, **options: Any) -> DevPool:
    # Blocks so hard that none is found by chance, and so slow that no proposal is renewed.
    chain = Chain(Pow.POSEIDON2, 2**100, 3600.0)
    return DevPool(chain, difficulty, options.pop("share_time", 3600.0), **options)


@contextlib.asynccontextmanager
async def started(pool: DevPool) -> AsyncIterator[DevPool]:
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def linked(
    url: str, timing: Timing | None = None
) -> AsyncIterator[tuple[PoolLink, PoolListener, asyncio.Task[None]]]:
    """A link that runs, until the end of the block."""
    link, listener = PoolLink(parse_pool_url(url), LOGIN, timing=timing), PoolListener()
    task: asyncio.Task[None] = asyncio.ensure_future(link.run(listener))
    try:
        yield link, listener, task
    finally:
        task.cancel()
        await asyncio.wait({task})
        # Nothing of the connection is left.
        assert link.submit(LiveJob("x", bytes(32), 1), Solution(1, 1), 1, 1.0) is Handover.LATE


async def lost(task: asyncio.Task[None]) -> str:
    """How the link was lost."""
    return await failure(task, LinkLostError)


async def failure(task: asyncio.Task[None], kind: type[Exception]) -> str:
    """What the link's error of that kind says."""
    with pytest.raises(kind) as error:
        await asyncio.wait_for(task, WAIT_S)
    return str(error.value)


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A peer that does what ``handle`` does, once; its URL."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield f"stratum+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await asyncio.wait_for(ended.wait(), WAIT_S)
        server.close()
        await server.wait_closed()


def solve(job: LiveJob, number: int = 1) -> Solution:
    """The first valid nonce from ``number`` on after the job's extranonce."""
    nonce = int.from_bytes(job.prefix.ljust(64, b"\0")) + number
    while (value := reference.evaluate(Pow.POSEIDON2, job.header, nonce)) > job.target:
        nonce += 1
    return Solution(nonce, value)
