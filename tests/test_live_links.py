"""The live source whose links come, go and change places."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Verdict
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.sources.searcher import MinerSearch, MinerSearcher
from quantus_miner.wire.pool_url import parse_pool_url

from .live import Clock, ScriptedLink, job, mining, mining_the_second, run, until

if TYPE_CHECKING:
    from collections.abc import Hashable


def test_a_new_backup_costs_the_mined_pool_nothing() -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, clock=clock) as (source, miner):
            listener = await first.connected()
            first.give(listener, job("1", difficulty=MAX))
            assert source._mined is not None
            mined, before = source._mined, source.stats()[0]
            source.set_links([ScriptedLink("pool a"), second], priority=1, exit_on_refusal=False)
            assert source._mined is mined
            await until(lambda: mined.search.hashes > before.hashes)
            assert (source._mined, miner.stats().active_jobs) == (mined, 1)
            stats = source.stats()
            assert [link.name for link in stats] == ["pool a", "pool b"]
            assert (stats[0].connects, stats[0].jobs, stats[0].mined, first.open, second.open) == (1, 1, True, 1, 0)
            # It is there when it is needed.
            first.ending.set_exception(LinkLostError("gone"))
            await until(lambda: not source.stats()[0].connected)
            clock.now += POLICY.first_job_s
            listener = await second.connected()
            second.give(listener, job("2", difficulty=MAX))
            assert source.stats()[1].mined

    run(test())


def test_when_the_mined_pool_is_removed_the_next_is_mined_at_once() -> None:
    async def test() -> None:
        async with mining_the_second() as (source, miner, first, second, on_second):
            found = Solution(1, 0)
            first.unanswered = second.unanswered = 100
            source.set_links([first], priority=1, exit_on_refusal=False)
            assert source._mined is not None
            assert (source._mined.job.id, miner.stats().active_jobs) == ("a", 1)
            # What still comes from the other changes nothing.
            gone = source._mined
            on_second.on_alive()
            on_second.on_job(job("late", difficulty=MAX))
            on_second.on_verdict(Verdict(True, False, "", 0.1, 1, 1))
            on_second.on_handover(job("b"), found, Handover.LATE)
            on_second.on_no_job()
            await until(lambda: not second.open)
            assert source._mined is gone
            (stats,) = source.stats()
            assert (stats.name, stats.mined, stats.failing, stats.rejected) == ("pool a", True, "", 0)
            source.set_links([], priority=1, exit_on_refusal=True)
            await until(lambda: not first.open)
            assert source._mined is None
            assert (source.stats(), miner.stats().active_jobs) == ((), 0)
            source.set_links([second], priority=1, exit_on_refusal=False)
            listener = await second.connected()
            second.give(listener, job("c", difficulty=MAX))
            (stats,) = source.stats()
            assert (stats.mined, stats.connects, stats.accepted) == (True, 1, 0)

    run(test())


def test_at_the_end_no_link_takes_over_from_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "miner.live")

    async def test() -> None:
        async with mining_the_second():
            pass

    run(test())
    assert [line for line in caplog.messages if line.startswith("Mining for")] == ["Mining for pool b"]


def test_another_order_is_followed_when_the_better_pool_has_been_healthy() -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            on_first = await first.connected()
            first.give(on_first, job("a", difficulty=MAX))
            source.set_links([second, first], priority=1, exit_on_refusal=False)
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            assert [stats.name for stats in source.stats() if stats.mined] == ["pool a"]
            clock.now += POLICY.healthy_s - 1
            first.give(on_first, job("c", difficulty=MAX))
            second.give(on_second, job("d", difficulty=MAX))
            assert [stats.name for stats in source.stats() if stats.mined] == ["pool a"]
            clock.now += 1
            second.give(on_second, job("e", difficulty=MAX))
            assert [stats.name for stats in source.stats() if stats.mined] == ["pool b"]
            await until(lambda: not first.open)
            assert [stats.connects for stats in source.stats()] == [1, 1]

    run(test())


def test_a_link_made_from_other_settings_is_another_one() -> None:
    async def test() -> None:
        old, new = ScriptedLink("pool a", "an old login"), ScriptedLink("pool a", "a new login")
        async with mining(old) as (source, _):
            listener = await old.connected()
            old.give(listener, job("1", difficulty=MAX))
            source.set_links([new], priority=1, exit_on_refusal=False)
            assert source._mined is None
            listener = await new.connected()
            new.give(listener, job("2", difficulty=MAX))
            await until(lambda: not old.open)
            (stats,) = source.stats()
            assert (stats.name, stats.jobs, stats.mined) == ("pool a", 1, True)

    run(test())


def test_another_priority_holds_for_the_job_that_is_mined() -> None:
    async def test() -> None:
        link = ScriptedLink("pool a")
        async with mining(link) as (source, miner):
            listener = await link.connected()
            given = job("1", difficulty=MAX)
            link.give(listener, given)
            source.set_links([link], priority=0, exit_on_refusal=False)
            assert source._mined is not None
            search = source._mined.search
            assert isinstance(search, MinerSearch)
            assert (source._mined.job, search.search.priority, miner.stats().active_jobs) == (given, 0, 1)
            assert (source.stats()[0].connects, source.stats()[0].jobs) == (1, 1)

    run(test())


def test_to_end_on_refusal_can_be_chosen_later() -> None:
    async def test() -> None:
        miner, link = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05), ScriptedLink("node a")
        source = LiveSource(MinerSearcher(miner), [], priority=1, exit_on_refusal=True)
        ended = asyncio.create_task(source.run())
        source.set_links([link], priority=1, exit_on_refusal=False)
        await link.connected()
        link.ending.set_exception(LinkRefusedError("auth failed"))
        await until(lambda: source.stats()[0].refusals > 0)
        source.set_links([link], priority=1, exit_on_refusal=True)
        with pytest.raises(LinkRefusedError, match="every live source refuses us: node a: auth failed"):
            await ended

    run(test())


def test_a_link_is_told_by_all_that_it_was_made_from() -> None:
    def pool(url: str, login: str = "wallet.rig", timeout_s: float = 1.0) -> Hashable:
        return PoolLink(parse_pool_url(url), login, connect_timeout_s=timeout_s).identity

    def node(port: int, token: str = "token", pin: bytes = b"pin", kind: str = "node") -> Hashable:  # noqa: S107
        return NodeLink("a", port, token, pin, kind=kind).identity

    pin = "?pin=" + 64 * "0"
    assert pool("stratum+ssl://a:1") == pool("stratum+ssl://a:1")
    assert node(1) == node(1)
    others = [
        pool("stratum+tcp://a:1"),
        pool("stratum+ssl://a:1"),
        pool("stratum+ssl://a:1" + pin),
        pool("stratum+tcp://a:2"),
        pool("stratum+tcp://b:1"),
        pool("stratum+tcp://a:1", "wallet.other"),
        pool("stratum+tcp://a:1", timeout_s=2.0),
        node(1),
        node(2),
        node(1, token="another"),  # noqa: S106
        node(1, pin=b"nip"),
        node(1, kind="pool"),
    ]
    assert len(set(others)) == len(others)
