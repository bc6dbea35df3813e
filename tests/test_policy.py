"""The policy for live sources on real sockets: a real miner, real links, development pools and nodes that misbehave.

The times are short; docs/failover.md has the real ones, and ``benchmarks.failover`` shows them.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import DEV_WALLET, DevPool
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Pow
from quantus_miner.sources.failover import Failing, Policy
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.pool import PoolLink
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.wire.node import ALPN
from quantus_miner.wire.pool_url import parse_pool_url

from .conftest import MinerProcess
from .node_link import WAIT_S, link_to, playing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

    from quantus_miner.mining.stats import LinkStats
    from quantus_miner.sources.link import Link

POLICY = Policy(
    first_job_s=1.0,
    session_s=1.0,
    silence_s=0.5,
    refused_shares_s=WAIT_S,
    penalty_s=WAIT_S,
    healthy_s=0.2,
    retry_s=0.02,
    max_retry_s=0.1,
    refused_retry_s=0.05,
    max_refused_retry_s=0.2,
)
EASY, HARD = 2_000, 2**100
JOB_S = 0.1
"""Between two jobs of a pool, or two times that a quiet one sends its only job."""


def pool(misbehaviour: PoolMisbehaviour | None = None, difficulty: int = EASY) -> DevPool:
    """A pool that never finds a block, and never changes the difficulty of a share."""
    return DevPool(Chain(Pow.POSEIDON2, HARD, JOB_S), difficulty, 3600.0, misbehaviour=misbehaviour)


class Mining:
    """A live source at work, seen from outside."""

    def __init__(self, source: LiveSource) -> None:
        self.source = source

    @property
    def stats(self) -> tuple[LinkStats, ...]:
        return self.source.stats()

    def failing(self, index: int) -> Failing | None:
        return self.source._failover.failing(self.source._upstreams[index], asyncio.get_running_loop().time())

    def heard_at(self, index: int) -> float:
        return self.source._failover._sources[self.source._upstreams[index]].heard_at

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - what is observed has no event
                await asyncio.sleep(0.005)


@asynccontextmanager
async def mining(links: Sequence[Link], policy: Policy = POLICY) -> AsyncIterator[Mining]:
    miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05)
    miner.start()
    source = LiveSource(MinerSearcher(miner), links, priority=1, policy=policy)
    task = asyncio.create_task(source.run())
    try:
        yield Mining(source)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert miner.close(WAIT_S)


@asynccontextmanager
async def mining_at(*pools: DevPool, policy: Policy = POLICY) -> AsyncIterator[Mining]:
    async with AsyncExitStack() as stack:
        for each in pools:
            await each.start()
            stack.push_async_callback(each.close)
        links = [PoolLink(parse_pool_url(each.url), f"{DEV_WALLET}.rig") for each in pools]
        yield await stack.enter_async_context(mining(links, policy))


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_a_pool_that_is_busy_once_is_mined_soon_after() -> None:
    async def test() -> None:
        busy = pool(PoolMisbehaviour.BUSY)
        async with mining_at(busy) as seen:
            await seen.until(lambda: busy.accepted > 0)
            assert busy.logins == 2
            assert (seen.stats[0].refusals, seen.stats[0].refusal) == (1, "")

    run(test())


def test_while_a_pool_refuses_the_login_the_next_is_mined_and_then_the_first_again() -> None:
    async def test() -> None:
        first, second = pool(PoolMisbehaviour.REFUSE_LOGIN), pool()
        async with mining_at(first, second) as seen:
            await seen.until(lambda: second.accepted > 0 and first.logins > 3)
            assert seen.stats[1].mined
            first.misbehaviour = None
            await seen.until(lambda: seen.stats[0].mined and not second.miners)
            await seen.until(lambda: first.accepted > 0)

    run(test())


@pytest.mark.parametrize("wrong", ["certificate", "version", "token"])
def test_a_stranger_on_the_port_of_a_node_is_not_the_end(tmp_path: Path, wrong: str) -> None:
    async def test() -> None:
        async with playing(tmp_path / "node") as node:
            link, port = link_to(node), node.port
        async with AsyncExitStack() as stack, AsyncExitStack() as for_a_while:
            folder = tmp_path / ("other" if wrong == "certificate" else "node")
            alpn = "quantus-miner/9" if wrong == "version" else ALPN
            stranger = await for_a_while.enter_async_context(playing(folder, port=port, alpn=alpn))
            if wrong == "token":
                stranger.token = "another"  # noqa: S105 - a wrong one
            seen = await stack.enter_async_context(mining([link]))
            await seen.until(lambda: seen.stats[0].refusals >= 2)
            assert (seen.stats[0].jobs, seen.failing(0)) == (0, Failing.LOGIN_REFUSED)
            await for_a_while.aclose()
            node = await stack.enter_async_context(playing(tmp_path / "node", port=port, difficulty=EASY))
            await node.until(lambda: node.tally.blocks > 0)
            assert seen.stats[0].refusal == ""

    run(test())


def test_a_pool_that_refuses_every_share_is_left_after_a_new_login() -> None:
    async def test() -> None:
        first, second = pool(PoolMisbehaviour.REFUSE_SHARES), pool()
        async with mining_at(first, second, policy=replace(POLICY, refused_shares_s=0.1)) as seen:
            await seen.until(lambda: second.accepted > 0 and first.logins == 2)
            assert seen.failing(0) is Failing.SHARES_REFUSED
            assert [stats.mined for stats in seen.stats] == [False, True]
            refused = seen.stats[0].rejected
            accepted = second.accepted
            await seen.until(lambda: second.accepted > accepted + 20)
            assert seen.stats[0].rejected == refused, "no more work goes there"

    run(test())


def test_a_pool_that_forgets_our_session_is_logged_in_to_again_and_goes_on_earning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "miner.live")

    async def test() -> None:
        only = pool(PoolMisbehaviour.FORGET)
        async with mining_at(only) as seen:
            await seen.until(lambda: only.logins >= 3 and only.accepted >= 6)
            assert seen.stats[0].rejected >= 2

    run(test())
    lost = [line for line in caplog.messages if line.startswith("Lost ")]
    assert len(lost) >= 2
    assert all("it has lost our session: Unauthenticated; next try in 0.0 s" in line for line in lost)


@pytest.mark.parametrize("misbehaviour", [PoolMisbehaviour.ONE_JOB, PoolMisbehaviour.DROP, PoolMisbehaviour.FORGET])
def test_a_pool_whose_sessions_never_last_is_left_for_the_next(misbehaviour: PoolMisbehaviour) -> None:
    async def test() -> None:
        first, second = pool(misbehaviour), pool()
        async with mining_at(first, second) as seen:
            await seen.until(lambda: seen.failing(0) is Failing.SESSIONS)
            await seen.until(lambda: second.accepted > 20)
            first.misbehaviour = None
            await seen.until(lambda: seen.stats[0].mined)

    run(test())


def test_a_quiet_pool_is_kept() -> None:
    async def test() -> None:
        first, second = pool(PoolMisbehaviour.QUIET, HARD), pool()
        async with mining_at(first, second) as seen:
            await seen.until(lambda: seen.stats[0].mined)
            began = seen.heard_at(0)
            await seen.until(lambda: seen.heard_at(0) - began > 4 * POLICY.silence_s)
            assert (seen.stats[0].jobs, seen.stats[0].connects, second.logins) == (1, 1, 0)
            assert seen.failing(0) is None
            # The same pool in silence.
            first.misbehaviour = PoolMisbehaviour.STALL
            assert first._refresher is not None
            first._refresher.cancel()
            await seen.until(lambda: seen.stats[1].mined)

    run(test())


def test_pools_are_replaced_while_the_miner_runs() -> None:
    async def test() -> None:
        first, second = pool(), pool()
        async with mining_at(first) as seen, AsyncExitStack() as stack:
            await seen.until(lambda: first.accepted > 0)
            await second.start()
            stack.push_async_callback(second.close)
            links = [PoolLink(parse_pool_url(each.url), f"{DEV_WALLET}.rig") for each in (first, second)]
            seen.source.set_links(links, priority=1, exit_on_refusal=False)
            accepted = first.accepted
            await seen.until(lambda: first.accepted > accepted + 5)
            assert (first.logins, second.logins) == (1, 0)
            seen.source.set_links(links[1:], priority=1, exit_on_refusal=False)
            await seen.until(lambda: second.accepted > 5 and not first.miners)
            (stats,) = seen.stats
            assert (stats.mined, stats.connects, first.logins) == (True, 1, 1)
            assert EASY * stats.accepted <= stats.work <= second.work
            assert stats.hashes > 0

    run(test())


# --- the service ---


async def _refused(*flags: str) -> tuple[int, list[str]]:
    refusing = pool(PoolMisbehaviour.REFUSE_LOGIN)
    await refusing.start()
    live = ("--pool", refusing.url, "--wallet", DEV_WALLET, "--worker-name", "rig")

    def serve() -> tuple[int, list[str]]:
        with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1", *live, *flags) as miner:
            if flags:
                code = miner.process.wait(WAIT_S)
                miner._reader.join(WAIT_S)
                return code, miner.log
            miner.wait_for_line("refuses us: it refuses the login: Invalid login; next try in ")
            assert miner.call("GET", "/health")[0] == 200
            source = frozenset({("source", f"pool {refusing.url}")})
            samples = miner.metrics()
            assert samples["miner_source_refusals_total", source] >= 1
            assert samples["miner_source_failing", source] == 1
            return miner.stop(), miner.log

    try:
        return await asyncio.to_thread(serve)
    finally:
        await refusing.close()


def test_a_refused_login_does_not_end_the_service() -> None:
    code, log = asyncio.run(_refused())
    assert code == 0
    assert sum(" ERROR " in line for line in log) == 1


def test_with_exit_on_refusal_it_ends_with_exit_code_3() -> None:
    code, log = asyncio.run(_refused("--exit-on-refusal"))
    assert code == 3
    assert log[-1].startswith("quantus-miner: every live source refuses us: pool stratum+tcp://127.0.0.1:")
