"""What the live source publishes and logs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.events import ShareJudged, SolutionSent, SolutionUnsent, SourceChanged
from quantus_miner.model import MAX, Solution
from quantus_miner.sources.failover import POLICY
from quantus_miner.sources.link import Handover, Verdict
from quantus_miner.sources.live import REMOVED
from quantus_miner.sources.source_log import MINUTE_S, REPEAT_S

from .live import Clock, ScriptedLink, job, mining, run, until

if TYPE_CHECKING:
    import pytest

    from quantus_miner.events import Event


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
