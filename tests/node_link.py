"""A link and a development node over real UDP sockets, for the tests of both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from quantus_miner import pow as reference
from quantus_miner.dev import node_files
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode, _Miner
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources.node import NodeLink
from quantus_miner.wire.messages import parse_fingerprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from quantus_miner.sources.link import Handover, Verdict

WAIT_S: Final = 20.0
HARD: Final = 2**128


class NodeListener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.opened = self.withdrawn = 0
        self.jobs: asyncio.Queue[LiveJob] = asyncio.Queue()
        self.handovers: list[tuple[LiveJob, Solution, Handover]] = []

    def on_open(self) -> None:
        self.opened += 1

    def on_job(self, job: LiveJob) -> None:
        self.jobs.put_nowait(job)

    def on_alive(self) -> None:
        pass

    def on_no_job(self) -> None:
        self.withdrawn += 1

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        self.handovers.append((job, solution, handover))

    def on_verdict(self, verdict: Verdict) -> None:
        raise AssertionError("nodes give no verdict")


def run(test: Coroutine[None, None, None]) -> None:
    """An asynchronous test, after which no task, no socket and no timer of a connection is left."""

    async def checked() -> None:
        before = sockets()
        async with asyncio.timeout(WAIT_S):
            await test
        await asyncio.sleep(0)  # a socket is closed in the turn after
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert sockets() == before
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert not [timer for timer in timers if not timer.cancelled() and "sources/quic.py" in repr(timer)]

    asyncio.run(checked())


def sockets() -> set[str]:
    links = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links.add(str(fd.readlink()))
    return {link for link in links if link.startswith("socket:")}


@asynccontextmanager
async def playing(folder: Path, *, port: int = 0, difficulty: int = 1, **options: Any) -> AsyncIterator[QuicNode]:
    """A node that retargets to blocks of an hour, so that nothing happens by itself."""
    node = QuicNode(Chain(Pow.POSEIDON2, difficulty, 3600.0), folder, **options)
    await node.start(port)
    try:
        yield node
    finally:
        await node.stop()


def link_to(node: QuicNode, **options: Any) -> NodeLink:
    token = options.pop("token", node.token)
    pin = options.pop("pin", parse_fingerprint((node.folder / node_files.FINGERPRINT).read_text()))
    return NodeLink("127.0.0.1", node.port, token, pin, **options)


@asynccontextmanager
async def linked(link: NodeLink) -> AsyncIterator[tuple[NodeListener, asyncio.Task[NoReturn]]]:
    """A link that runs; whoever wants to see its end awaits the task."""
    listener = NodeListener()
    task = asyncio.create_task(link.run(listener))
    try:
        yield listener, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def miner_of(node: QuicNode) -> _Miner:
    """The node's end of the one connection, once the node has taken the token."""
    await node.until(lambda: any(miner.authenticated for miner in node.miners))
    (miner,) = node.miners
    return miner


def solve(job: LiveJob) -> Iterator[Solution]:
    """Solutions of an easy job."""
    for nonce in itertools.count(1):
        value = reference.evaluate(Pow.POSEIDON2, job.header, nonce)
        if value <= job.target:
            yield Solution(nonce, value)
