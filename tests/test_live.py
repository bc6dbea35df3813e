"""The live source with a real miner: jobs, solutions, failover, refusals; the other side of its links is the test."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from quantus_miner import pow as reference
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Pow, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Verdict
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.searcher import MinerSearcher

from .live import HEADER, Clock, ScriptedLink, job, mining, run, until


def test_solutions_go_back_again_and_again_each_nonce_once() -> None:
    async def test() -> None:
        link = ScriptedLink("node a")
        async with mining(link) as (source, _):
            listener = await link.connected()
            given = job("1", difficulty=300, prefix=b"\x00\x04\xf0\x05")
            link.give(listener, given)
            seen: Counter[int] = Counter()
            for _ in range(30):
                of, solution, _ = await link.solution()
                assert of is given
                assert reference.is_valid(Pow.POSEIDON2, HEADER, solution.nonce, given.target)
                assert solution.nonce.to_bytes(64).startswith(given.prefix)
                seen[solution.nonce] += 1
            assert set(seen.values()) == {1}
            (stats,) = source.stats()
            assert (stats.connected, stats.mined, stats.connects, stats.jobs) == (True, True, 1, 1)
            assert stats.sent >= 30

    run(test())


def test_a_new_job_replaces_the_old_one_and_late_solutions_are_counted_not_sent() -> None:
    async def test() -> None:
        link = ScriptedLink("node a")
        async with mining(link) as (source, miner):
            listener = await link.connected()
            first, second = job("1", difficulty=50), job("2", difficulty=400)
            link.give(listener, first)
            await link.solution()
            link.give(listener, second)
            while (await link.solution())[0] is not second:
                pass
            assert miner.stats().active_jobs == 1
            # On the loop solutions of the first job may still be under way; they were given to the link and refused.
            assert source._mined is not None
            source._submit(source._upstreams[0], first, source._mined.search, Solution(1, 1))
            assert source.stats()[0].late >= 1

    run(test())


def test_a_solution_that_waits_is_counted_when_it_is_known_what_became_of_it() -> None:
    async def test() -> None:
        link = ScriptedLink("pool a")
        async with mining(link) as (source, _):
            listener = await link.connected()
            given = job("1", difficulty=MAX)  # nothing is found by itself
            link.give(listener, given)
            solutions = [Solution(number, 0) for number in range(6)]

            def count(handover: Handover, solution: Solution) -> tuple[int, int]:
                listener.on_handover(given, solution, handover)
                return source.stats()[0].sent, source.stats()[0].late

            assert count(Handover.WAITS, solutions[0]) == (0, 0)
            assert count(Handover.WAITS, solutions[1]) == (0, 0)
            listener.on_handover(given, solutions[0], Handover.SENT)
            listener.on_handover(given, solutions[1], Handover.LATE)
            assert count(Handover.SURPLUS, solutions[2]) == (1, 2)
            assert count(Handover.SENT, solutions[3]) == (2, 2)

    run(test())


def test_a_lost_link_stops_its_job_and_is_tried_again() -> None:
    async def test() -> None:
        link, clock = ScriptedLink("node a"), Clock()
        async with mining(link, clock=clock) as (source, miner):
            listener = await link.connected()
            link.give(listener, job("1", difficulty=MAX))
            assert miner.stats().active_jobs == 1
            link.ending.set_exception(LinkLostError("gone"))
            await until(lambda: not source.stats()[0].connected)
            clock.now += 1
            listener = await link.connected()
            assert miner.stats().active_jobs == 0
            link.give(listener, job("1", difficulty=MAX))
            assert miner.stats().active_jobs == 1
            assert source.stats()[0].connects == 2

    run(test())


def test_a_withdrawn_job_is_not_mined() -> None:
    async def test() -> None:
        link = ScriptedLink("node a")
        async with mining(link) as (_, miner):
            listener = await link.connected()
            link.give(listener, job("1", difficulty=MAX))
            assert miner.stats().active_jobs == 1
            listener.on_no_job()
            assert miner.stats().active_jobs == 0
            link.give(listener, job("2", difficulty=MAX))
            assert miner.stats().active_jobs == 1

    run(test())


def test_failover_and_return_to_the_first() -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("pool first"), ScriptedLink("pool second")
        async with mining(first, second, clock=clock) as (source, miner):
            on_first = await first.connected()
            first.give(on_first, job("a", difficulty=MAX))
            first.ending.set_exception(LinkLostError("gone"))
            await until(lambda: not source.stats()[0].connected)
            clock.now += 6  # without a job
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            assert [stats.mined for stats in source.stats()] == [False, True]
            on_first = await first.connected()
            first.give(on_first, job("c", difficulty=MAX))
            assert [stats.mined for stats in source.stats()] == [False, True]
            for _ in range(3):
                clock.now += 25
                first.give(on_first, job("d", difficulty=MAX))
            assert [stats.mined for stats in source.stats()] == [True, False]
            assert miner.stats().active_jobs == 1
            await until(lambda: not second.open)
            assert source.stats()[1].connected is False

    run(test())


def test_when_all_refuse_the_source_goes_on_unless_it_is_told_to_end() -> None:
    async def test() -> None:
        clock, links = Clock(), (ScriptedLink("node a"), ScriptedLink("pool b"))
        async with mining(*links, clock=clock) as (source, _):
            for _ in range(3):
                for link in links:
                    await link.connected()
                    link.ending.set_exception(LinkRefusedError("auth failed"))
                await until(lambda: not any(link.open for link in links))
                clock.now += POLICY.max_refused_retry_s
            listener = await links[1].connected()
            links[1].give(listener, job("b", difficulty=MAX))
            assert source.stats()[1].mined

        miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05)
        only = ScriptedLink("node a")
        ended = asyncio.create_task(LiveSource(MinerSearcher(miner), [only], priority=1, exit_on_refusal=True).run())
        await only.connected()
        only.ending.set_exception(LinkRefusedError("auth failed"))
        with pytest.raises(LinkRefusedError, match="every live source refuses us: node a: auth failed"):
            await ended

    run(test())


def test_a_run_of_refused_shares_leads_to_a_new_login() -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            listener = await first.connected()
            first.give(listener, job("1", difficulty=MAX))
            for nonce in range(POLICY.refused_shares):
                listener.on_verdict(Verdict(False, False, "Invalid nonce", 0.1, nonce, 1))
                clock.now += POLICY.refused_shares_s / 2
            await until(lambda: not first.open)
            listener = await second.connected()
            second.give(listener, job("2", difficulty=MAX))
            clock.now += POLICY.retry_s
            listener = await first.connected()
            first.give(listener, job("3", difficulty=MAX))
            stats = source.stats()
            assert [link.mined for link in stats] == [False, True]
            assert [link.failing for link in stats] == ["shares refused", ""]
            assert stats[0].connects == 2

    run(test())


def test_shares_without_a_verdict_at_an_end_that_we_chose_do_not_count_against_a_pool() -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            clock.now += POLICY.first_job_s
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            on_first = await first.connected()
            first.give(on_first, job("a", difficulty=MAX))
            clock.now += POLICY.healthy_s - 1
            first.give(on_first, job("c", difficulty=MAX))
            clock.now += 1
            first.give(on_first, job("d", difficulty=MAX))
            second.unanswered = 100
            await until(lambda: not second.open)
            assert source.stats()[1].rejected == 100
            assert source._failover._sources[source._upstreams[1]].refused_shares == 0

    run(test())


def test_an_error_of_ours_in_a_link_costs_the_other_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("node a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            await first.connected()
            first.ending.set_exception(RuntimeError("a bug"))
            await until(lambda: not first.open)
            clock.now += POLICY.first_job_s
            listener = await second.connected()
            second.give(listener, job("b", difficulty=MAX))
            assert source.stats()[1].mined
            await first.connected()

    run(test())
    assert "The link to node a has failed" in caplog.text


def test_verdicts_are_counted_and_the_work_of_accepted_shares_is_added_up() -> None:
    async def test() -> None:
        link, clock = ScriptedLink("pool a"), Clock()
        async with mining(link, clock=clock) as (source, _):
            listener = await link.connected()
            (stats,) = source.stats()
            assert (stats.latency_s, stats.difficulty, stats.job_age_s, stats.accepted_age_s) == (None,) * 4
            link.give(listener, job("1", difficulty=MAX))
            clock.now += 2.0
            listener.on_verdict(Verdict(True, False, "", 0.1, 1, 100))
            listener.on_verdict(Verdict(True, False, "", 0.1, 1, 2**100))
            listener.on_verdict(Verdict(False, True, "Stale share", 0.2, 1, 100))
            listener.on_verdict(Verdict(False, False, "Invalid nonce", 0.3, 1, 100))
            clock.now += 1.0
            (stats,) = source.stats()
            assert (stats.accepted, stats.stale, stats.rejected, stats.latency_s) == (2, 1, 1, 0.3)
            assert (stats.difficulty, stats.job_age_s, stats.accepted_age_s) == (MAX, 3.0, 1.0)
            assert stats.work == 2**100 + 100

    run(test())


def test_the_nonces_tested_for_a_source_are_counted_while_it_is_mined_and_after() -> None:
    async def test() -> None:
        clock, links = Clock(), (ScriptedLink("pool a"), ScriptedLink("pool b"))
        async with mining(*links, clock=clock) as (source, miner):
            listener = await links[0].connected()
            links[0].give(listener, job("1", difficulty=MAX))
            seen = 0
            for number in range(2, 5):
                await until(lambda: source.stats()[0].hashes > seen)  # noqa: B023 - awaited here
                links[0].give(listener, job(str(number), difficulty=MAX))
                assert source.stats()[0].hashes >= seen
                seen = source.stats()[0].hashes
            links[0].ending.set_exception(LinkLostError("gone"))
            await until(lambda: not source.stats()[0].connected)
            ended = source.stats()[0].hashes
            clock.now += POLICY.first_job_s
            listener = await links[1].connected()
            links[1].give(listener, job("b", difficulty=MAX))
            await until(lambda: source.stats()[1].hashes > 0)
            assert source.stats()[0].hashes == ended
            assert sum(stats.hashes for stats in source.stats()) <= miner.stats().hashes

    run(test())


def test_shares_without_an_answer_at_the_end_of_a_session_count_as_one_that_was_refused() -> None:
    async def test() -> None:
        clock, link = Clock(), ScriptedLink("pool a")
        async with mining(link, clock=clock) as (source, _):
            for count in range(1, 4):
                listener = await link.connected()
                link.give(listener, job("1", difficulty=MAX))
                clock.now += POLICY.session_s
                listener.on_alive()
                link.unanswered = 2 * POLICY.refused_shares
                link.ending.set_exception(LinkLostError("it has lost our session"))
                await until(lambda: not source.stats()[0].connected)
                record = source._failover._sources[source._upstreams[0]]
                assert (record.refused_shares, source.stats()[0].rejected) == (count, count * link.unanswered)
                assert source.stats()[0].failing == ""
                clock.now += POLICY.retry_s

    run(test())


# --- links come, go and change places ---


def test_jobs_of_the_api_wait_while_a_live_job_is_mined() -> None:
    async def test() -> None:
        link = ScriptedLink("node a")
        async with mining(link) as (_, miner):
            listener = await link.connected()
            link.give(listener, job("1", difficulty=MAX))
            over_http = miner.submit(
                Job("http", Pow.POSEIDON2, HEADER, 0, (NonceRange(1, MAX),)), lambda _: None, priority=0
            )
            assert miner.hashes(over_http) == 0
            link.ending.set_exception(LinkLostError("gone"))
            await until(lambda: miner.hashes(over_http) > 0)
            miner.cancel(over_http)

    run(test())
