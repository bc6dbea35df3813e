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
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, LiveJob, NonceRange, Pow, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Listener, Verdict
from quantus_miner.sources.live import MINUTE_S, REPEAT_S, LiveSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

WAIT_S = 30.0
HEADER = bytes(range(32))


def job(job_id: str, difficulty: int = 200, prefix: bytes = b"") -> LiveJob:
    return LiveJob(job_id, HEADER, difficulty, prefix)


class ScriptedLink:
    """A link whose other side is the test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners: asyncio.Queue[Listener] = asyncio.Queue()
        self.submitted: asyncio.Queue[tuple[LiveJob, Solution, int]] = asyncio.Queue()
        self.ending: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self.open = 0
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
async def mining(*links: ScriptedLink, clock: Clock | None = None) -> AsyncIterator[tuple[LiveSource, Miner]]:
    miner = Miner([CpuEngine("cpu-fast", 2, fast_kernels(None))], chunk_s=0.05)
    miner.start()
    source = LiveSource(miner, links, priority=1, clock=clock or Clock())
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
            source._submit(0, first, source._search, Solution(1, 1))  # type: ignore[arg-type]
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
                source.on_handover(0, given, solution, handover)
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
                    for _ in range(2 * POLICY.accepted_for_refused):
                        listener.on_verdict(Verdict(True, False, "", 0.1, nonce))
                    listener.on_verdict(Verdict(False, False, f"{clock.now}", 0.1, nonce))
                    listener.on_verdict(Verdict(False, True, "Stale share", 0.1, nonce))
                link.ending.set_exception(LinkLostError(f"gone at {clock.now}"))
                await until(lambda: not source.stats()[0].connected)
                clock.now += MINUTE_S / 3

    run(test())
    lines = [record.getMessage().partition("; next")[0] for record in caplog.records if record.levelname == "WARNING"]
    assert lines == [
        "Share rejected by pool a: 1000.0",
        "Share stale by pool a: Stale share",
        "Lost pool a: gone at 1000.0",
        "Share rejected by pool a: 1060.0 (8 more since the last such line)",
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
        ended = asyncio.create_task(LiveSource(miner, [only], priority=1, exit_on_refusal=True).run())
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
                listener.on_verdict(Verdict(False, False, "Invalid nonce", 0.1, nonce))
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
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "pool b")
            await until(lambda: bool(task.cancelling()))
            for nonce in range(100):
                on_second.on_verdict(Verdict(False, False, "no reply", 0.1, nonce))
                clock.now += 1
            assert source._failover._sources[1].refused_shares == 0

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


def test_verdicts_are_counted() -> None:
    async def test() -> None:
        link = ScriptedLink("pool a")
        async with mining(link) as (source, _):
            listener = await link.connected()
            listener.on_verdict(Verdict(True, False, "", 0.1, 1))
            listener.on_verdict(Verdict(False, True, "Stale share", 0.2, 1))
            listener.on_verdict(Verdict(False, False, "Invalid nonce", 0.3, 1))
            (stats,) = source.stats()
            assert (stats.accepted, stats.stale, stats.rejected, stats.latency_s) == (1, 1, 1, 0.3)

    run(test())


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
    assert [line for line in caplog.messages if line.startswith("Job ")] == [
        f"Job 0 from node a: header {HEADER.hex()}, difficulty {MAX}"
    ]
