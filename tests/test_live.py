"""The live source with a real miner: jobs, solutions, failover, refusals; the other side of its links is the test."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from quantus_miner import pow as reference
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.events import ShareJudged, SolutionSent, SolutionUnsent, SourceChanged
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, LiveJob, NonceRange, Pow, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Listener, Verdict
from quantus_miner.sources.live import REMOVED, LiveSource, ignore
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.sources.searcher import MinerSearch, MinerSearcher
from quantus_miner.sources.source_log import MINUTE_S, REPEAT_S
from quantus_miner.wire.pool_url import parse_pool_url

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


def test_a_refusal_is_not_final_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "miner.live")

    async def test() -> None:
        clock = Clock()
        first, second = ScriptedLink("node a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            for count in range(1, 4):
                await first.connected()
                first.ending.set_exception(LinkRefusedError("auth failed"))
                await until(lambda: source.stats()[0].refusals == count)  # noqa: B023 - awaited here
                clock.now += REPEAT_S / 4
            assert (source.stats()[0].failing, source.stats()[0].refusal) == ("login refused", "auth failed")
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            assert source.stats()[1].mined
            await first.connected()
            clock.now += REPEAT_S / 4
            first.ending.set_exception(LinkRefusedError("auth failed"))
            await until(lambda: source.stats()[0].refusals == 4)
            clock.now += REPEAT_S / 4
            await first.connected()
            first.ending.set_exception(LinkRefusedError("server busy"))
            await until(lambda: source.stats()[0].refusals == 5)
            clock.now += REPEAT_S
            on_first = await first.connected()
            first.give(on_first, job("a", difficulty=MAX))
            assert source.stats()[0].refusal == ""
            assert [stats.mined for stats in source.stats()] == [False, True]

    run(test())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [line.partition("; next try")[0] for line in errors] == [
        "node a refuses us: auth failed",
        "node a refuses us: auth failed",
        "node a refuses us: server busy",
    ]


def test_what_goes_wrong_again_and_again_is_a_warning_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "miner.live")

    async def test() -> None:
        clock, link = Clock(), ScriptedLink("pool a")
        async with mining(link, clock=clock) as (source, _):
            for count in range(1, 5):
                listener = await link.connected()
                link.give(listener, job(str(count), difficulty=MAX))
                for nonce in range(3):
                    listener.on_handover(job("1"), Solution(nonce, 0), Handover.LATE)
                link.ending.set_exception(LinkLostError(f"gone at {clock.now}"))
                await until(lambda: not source.stats()[0].connected)
                clock.now += MINUTE_S / 3

    run(test())
    lines = [record.getMessage().partition("; next")[0] for record in caplog.records if record.levelno >= logging.INFO]
    assert [line for line in lines if not line.startswith("Connected")] == [
        "Solution for job 1 came too late for pool a",
        "Lost pool a: gone at 1000.0",
        "Lost pool a: gone at 1060.0",
    ]
    assert "s (2 more since the last such line)" in caplog.text


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


def test_what_happens_is_published() -> None:
    events: list[Event] = []

    async def test() -> None:
        clock, links = Clock(), (ScriptedLink("pool a"), ScriptedLink("pool b"))
        async with mining(*links, clock=clock, publish=events.append) as (source, _):
            listener = await links[0].connected()
            given = job("1", difficulty=MAX)
            links[0].give(listener, given)
            listener.on_handover(given, Solution(7, 0), Handover.WAITS)
            listener.on_handover(given, Solution(7, 0), Handover.SENT)
            listener.on_handover(given, Solution(8, 0), Handover.LATE)
            listener.on_verdict(Verdict(True, False, "", 0.1, 7, 300))
            listener.on_verdict(Verdict(False, True, "Stale share", 0.2, 8, 300))
            links[0].ending.set_exception(LinkLostError("gone"))
            await until(lambda: not source.stats()[0].connected)
            clock.now += POLICY.first_job_s
            await links[1].connected()
            links[1].ending.set_exception(LinkRefusedError("auth failed"))
            await until(lambda: source.stats()[1].refusals > 0)
            listener = await links[0].connected()
            links[0].give(listener, job("2", difficulty=MAX))
            clock.now += POLICY.healthy_s - 1
            listener.on_alive()
            await until(lambda: source.stats()[0].mined)
            events.append(SourceChanged("the test", "idle"))
            clock.now += 1
            links[0].give(listener, job("3", difficulty=MAX))
            source.set_links([], priority=1, exit_on_refusal=False)

        assert events == [
            SourceChanged("pool a", "connected"),
            SourceChanged("pool a", "mined"),
            SolutionSent("pool a", given, Solution(7, 0)),
            SolutionUnsent("pool a", given, Solution(8, 0)),
            ShareJudged("pool a", 7, "accepted", "", 300, 0.1),
            ShareJudged("pool a", 8, "stale", "Stale share", 300, 0.2),
            SourceChanged("pool a", "lost", "gone"),
            SourceChanged("pool a", "idle"),
            SourceChanged("pool a", "failing", "no job"),
            SourceChanged("pool b", "connected"),
            SourceChanged("pool b", "refused", "auth failed"),
            SourceChanged("pool b", "failing", "login refused"),
            SourceChanged("pool a", "connected"),
            SourceChanged("pool a", "healthy"),
            SourceChanged("pool a", "mined"),
            SourceChanged("the test", "idle"),
            SourceChanged("pool b", "idle", "not needed now"),
            SourceChanged("pool a", "idle"),
            SourceChanged("pool a", "idle", REMOVED),
        ]

    run(test())


def test_records_of_the_log_have_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "miner.live")

    async def test() -> None:
        link = ScriptedLink("pool a")
        async with mining(link):
            listener = await link.connected()
            given = job("1", difficulty=MAX)
            link.give(listener, given)
            listener.on_handover(given, Solution(7, 0), Handover.SENT)
            link.ending.set_exception(LinkLostError("gone"))
            await until(lambda: not link.open)

    run(test())
    names = ("source", "job", "difficulty")
    fields = {
        record.getMessage().partition(":")[0]: tuple(getattr(record, name, None) for name in names)
        for record in caplog.records
        if record.name == "miner.live"
    }
    assert fields == {
        "Connected to pool a": ("pool a", None, None),
        "Job 1 from pool a": ("pool a", "1", MAX),
        "Solution for job 1 sent to pool a": ("pool a", "1", MAX),
        "Lost pool a": ("pool a", None, None),
    }


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
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, miner):
            on_first = await first.connected()
            clock.now += POLICY.first_job_s
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            first.give(on_first, job("a", difficulty=MAX))
            assert source.stats()[1].mined
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
        clock = Clock()
        first, second = ScriptedLink("pool a"), ScriptedLink("pool b")
        async with mining(first, second, clock=clock) as (source, _):
            on_first = await first.connected()
            clock.now += POLICY.first_job_s
            on_second = await second.connected()
            second.give(on_second, job("b", difficulty=MAX))
            first.give(on_first, job("a", difficulty=MAX))
            assert source.stats()[1].mined

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


def test_jobs_without_end_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "miner.live")

    async def test() -> None:
        link = ScriptedLink("node a")
        async with mining(link):
            listener = await link.connected()
            for number in range(20):
                link.give(listener, job(str(number), MAX))

    run(test())
    assert caplog.messages == ["Connected to node a"]
