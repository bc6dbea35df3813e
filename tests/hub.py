"""A hub with its stratum door, over real sockets, for tests: the test is its live source."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.events import SolutionSent, SolutionUnsent
from quantus_miner.hub.door import Door
from quantus_miner.hub.work import Hub
from quantus_miner.model import LiveJob, Solution
from quantus_miner.sources.node import NodeLink
from quantus_miner.store.writer import Store
from quantus_miner.web.server import listen

from .conftest import MinerProcess
from .stratum_client import StratumClient

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from quantus_miner.sources.searcher import LiveSearch

WAIT_S = 60.0
HEADER, OTHER_HEADER = bytes(range(32)), bytes(range(1, 33))
HARD = 2**100
"""A network difficulty that no share meets by chance."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fixture:
    """A hub with its door on a free port. The test is the live source: it gives jobs, and takes solutions."""

    def __init__(self, folder: Path, difficulty: int = 2, max_sessions: int = 100) -> None:
        self.clock = Clock()
        self.store = Store(folder, history_days=30)
        self.store.start()
        self.hub = Hub(self.store, clock=self.clock)
        self.hub.outbox.restore(self.store.outbox)
        self.door = Door(self.hub, share_time=5.0, difficulty=difficulty, wallet=DEV_WALLET)
        self.sent: asyncio.Queue[tuple[LiveJob, Solution]] = asyncio.Queue()
        self.takes: Callable[[Solution], bool] = lambda _: True
        self.node = NodeLink("127.0.0.1", 9833, "token", None)
        self.max_sessions = max_sessions
        self.port = 0

    def start(self, context: ssl.SSLContext | None = None) -> None:
        sock = listen("127.0.0.1", 0, "--stratum-port")
        self.port = sock.getsockname()[1]
        self.door.start(sock, context, max_sessions=self.max_sessions)

    def give(self, job_id: str = "1", header: bytes = HEADER, difficulty: int = HARD, link: Any = None) -> LiveJob:
        job = LiveJob(job_id, header, difficulty)

        def on_solution(search: LiveSearch, solution: Solution) -> None:
            assert search.elapsed >= 0
            event = SolutionSent if self.takes(solution) else SolutionUnsent
            if event is SolutionSent:
                self.sent.put_nowait((job, solution))
            self.hub.outbox.on_event(event("node", job, solution))

        self.hub.search(link or self.node, job, on_solution, priority=0, replaces=self.hub.work)
        return job

    async def next_sent(self) -> Solution:
        return (await asyncio.wait_for(self.sent.get(), WAIT_S))[1]

    def refusals(self) -> dict[str, int]:
        return dict(self.door.stats().refusals)


@contextlib.asynccontextmanager
async def hub_at(folder: Path, **options: Any) -> AsyncIterator[Fixture]:
    context = options.pop("context", None)
    fixture = Fixture(folder, **options)
    fixture.start(context)
    try:
        yield fixture
    finally:
        await fixture.door.close()
        fixture.store.close(WAIT_S)


@contextlib.asynccontextmanager
async def client_of(fixture: Fixture, login: str = "wallet.rig", **options: Any) -> AsyncIterator[StratumClient]:
    client = await StratumClient.logged_in(fixture.port, login, **options)
    try:
        yield client
    finally:
        await client.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def watched() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched(), debug=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is observed has no event
            await asyncio.sleep(0.005)


class HubProcess(MinerProcess):
    """A hub for the node in ``folder``."""

    def __init__(self, port: int, folder: Path, state: Path, *flags: str) -> None:
        super().__init__(
            "hub",
            f"--node-addr=127.0.0.1:{port}",
            f"--auth-token-file={folder / 'miner-auth-token'}",
            f"--tls-cert-sha256-file={folder / 'miner-tls-cert-sha256'}",
            "--stratum-share-time=1",
            "--port=0",
            *flags,
            MINER_STATE_DIR=str(state),
        )

    @property
    def stratum_port(self) -> int:
        return self._port("Stratum miners can connect to ")
