"""What the service says of itself: each text, and how much of it, from a real monitor."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner import units, wording
from quantus_miner.events import PauseChanged, ShareJudged, SolutionSent, SourceChanged
from quantus_miner.mining.pauses import Pause
from quantus_miner.mining.rates import WINDOWS_S
from quantus_miner.mining.stats import ApiStats, JobStats, LinkStats, MinerStats, WorkerStats
from quantus_miner.model import MAX, LiveJob, Rates, Solution, Status
from quantus_miner.monitor import Monitor, Snapshot, Tally
from quantus_miner.parts.console import IDLE_AGAIN_S, IDLE_S, JOBS, SHARES, SPEED_S, Narrator

from .test_metrics import CARD, SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

POOL, NODE, OVER_QUIC = "pool stratum+tcp://pool.example:3333", "node 127.0.0.1:9833", "pool quic://pool.example:9834"
SCREEN = 45
"""Lines of a terminal."""
BUSY = MinerStats((WorkerStats(0, "cpu-fast", 0, busy=True),), 1, 0, 0, 0, {}, frozenset())
MIDDLE = Rates(3.26e6, 3.26e6, 3.25e6, None, 3.31e6)


def judged(
    judgement: Literal["accepted", "rejected", "stale"] = "accepted", reason: str = "", difficulty: int = 10**9
) -> ShareJudged:
    return ShareJudged(POOL, 7, judgement, reason, difficulty, 0.0312)


# --- numbers ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (512, "512"),
        (999, "999"),
        (1000, "1.0k"),
        (12_345, "12.3k"),
        (999_949, "999.9k"),
        (999_950, "1.0M"),
        (10**9, "1.0G"),
        (3 * 10**30, "3.0Q"),
        (MAX, "1.3e154"),
    ],
)
def test_a_difficulty_is_written_as_people_do(value: int, text: str) -> None:
    assert units.difficulty(value) == text


@given(st.integers(1, MAX))
def test_a_difficulty_is_short_and_keeps_its_size(value: int) -> None:
    text = units.difficulty(value)
    assert len(text) <= 7
    prefix = units.PREFIXES.index(text[-1]) if text[-1] in units.PREFIXES else 0
    shown = float(text[:-1] if prefix else text) * 1000.0**prefix
    assert abs(shown - value) <= 0.051 * value


@given(st.lists(st.none() | st.floats(0, 1e15), max_size=4))
def test_rates_share_the_unit_of_the_largest(rates: list[float | None]) -> None:
    *numbers, unit = units.hash_rates(rates).split(" ")
    prefix = unit.removesuffix("H/s")
    assert [number == "n/a" for number in numbers if number] == [rate is None for rate in rates]
    for number, rate in zip([number for number in numbers if number], rates, strict=True):
        if rate is not None:
            scale = 1000.0 ** units.PREFIXES.index(prefix)
            assert len(number) <= 4
            assert abs(float(number) * scale - rate) <= 0.0051 * max(1.0, *(rate or 0.0 for rate in rates))


# --- lines ---


def test_the_speed_says_what_it_does_not_know_yet() -> None:
    assert wording.speed(MIDDLE) == "speed 10s/60s/15m 3.26 3.25 n/a MH/s max 3.31 MH/s"
    assert wording.speed(Rates(5.0, None, None, None, None)) == "speed 10s/60s/15m n/a n/a n/a H/s"
    assert wording.speed(None) == "speed unknown"
    assert WINDOWS_S == (10, 60, 900)


def test_a_share_says_all_in_one_line() -> None:
    assert wording.share(judged(), Tally(12)) == "accepted (12/0) diff 1.0G 31 ms pool.example:3333"
    refused = wording.share(judged("stale", "Stale" + "!" * 1000), Tally(12, 2, 1))
    assert refused.startswith("stale (12/3) diff 1.0G 31 ms pool.example:3333: Stale!!")
    assert len(refused) < 300
    job = LiveJob("42", bytes(32), 1_900_000)
    assert wording.solution(SolutionSent(NODE, job, Solution(1, 1)), Tally(blocks=35)) == (
        "solution (35) diff 1.9M 127.0.0.1:9833"
    )
    assert wording.solution(SolutionSent(OVER_QUIC, job, Solution(1, 1)), Tally()) == (
        "solution diff 1.9M pool.example:9834"
    )
    assert wording.short(f"pool stratum+ssl://[::1]:3333?pin={'ab' * 32}") == "[::1]:3333"


def test_the_status_is_one_line() -> None:
    snapshot = Snapshot(0.0, 8045.0, 2, BUSY, (LinkStats(POOL, connected=True, mined=True),), rates=MIDDLE)
    snapshot = replace(snapshot, tally=Tally(12, 1, 2))
    line = "speed 10s/60s/15m 3.26 3.25 n/a MH/s max 3.31 MH/s | shares 12/1/2 | up 2 h 14 min"
    assert wording.status(snapshot) == line
    # What was removed from the settings still counts.
    assert wording.status(replace(snapshot, sources=())) == line
    node = LinkStats(NODE, connected=True, mined=True)
    both = replace(snapshot, sources=(node,), tally=Tally(12, 1, 2, 35))
    assert wording.status(both).endswith("| shares 12/1/2 | blocks 35 | up 2 h 14 min")
    assert wording.summary(replace(both, miner=replace(BUSY, hashes=10**9, solved_by_engine={"cpu-fast": 50}))) == (
        "Stopped: 1000000000 hashes, 50 solutions in 2 h 14 min, 124 kH/s on average | shares 12/1/2 | blocks 35"
    )
    assert wording.summary(Snapshot(0.0, 0.0, 2)) == "Stopped: 0 hashes, 0 solutions in 0 s, 0.00 H/s on average"


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ((), "no node or pool is set; jobs come over HTTP"),
        ((LinkStats(POOL, now=250.0, changed_at=10.0),), f"{POOL} not connected for 4 min"),
        ((LinkStats(POOL, connected=True),), f"{POOL} has not sent a job yet"),
        ((LinkStats(POOL, refusal="bad wallet"),), f"{POOL} refuses us: bad wallet"),
        (
            (LinkStats(NODE, connected=True, failing="no job"), LinkStats(POOL)),
            f"{NODE} is failing (no job), {POOL} not connected for 0 s",
        ),
    ],
)
def test_it_says_why_it_is_idle(links: tuple[LinkStats, ...], reason: str) -> None:
    snapshot = Snapshot(0.0, 5.0, 2, replace(BUSY, active_jobs=0), links, rates=MIDDLE)
    assert wording.idle(snapshot) == f"idle: no source has work: {reason}"
    assert wording.status(snapshot).startswith(f"idle: no source has work: {reason} | ")
    assert wording.idle(replace(snapshot, sources=(LinkStats(POOL, mined=True),))) == "idle: no source has work"
    assert wording.idle(replace(snapshot, miner=BUSY)) == wording.idle(replace(snapshot, miner=None)) == ""


def test_every_device_has_its_rate_and_so_have_the_workers() -> None:
    assert wording.devices(SNAPSHOT) == [
        "speed 10s/60s/15m 10.0 11.0 n/a H/s max 12.0 H/s | cpu-fast",
        "speed 10s/60s/15m 840 689 n/a H/s max 890 H/s | gpu-cuda 0000:01:00.0, a card, 61 °C, 420 W",
        "speed 10s/60s/15m n/a n/a n/a H/s | gpu-opencl 1, another, lost",
    ]
    assert wording.workers(SNAPSHOT) == []
    miner = replace(BUSY, workers=tuple(WorkerStats(number, "cpu-fast", 0) for number in range(10)))
    rates = {number: Rates(1.0, 1e6 * number, 1.0, None, 2.0) for number in range(9)}
    many = replace(SNAPSHOT, miner=miner, worker_rates=rates)
    assert wording.devices(many) == [], "one device is the whole miner"
    assert wording.workers(many) == [
        "workers 0, 1, 2, 3, 4, 5, 6, 7 in 10s: 0.00 1.00 2.00 3.00 4.00 5.00 6.00 7.00 MH/s",
        "workers 8, 9 in 10s: 8.00 n/a MH/s",
    ]
    two = replace(miner, workers=(*miner.workers[:3], WorkerStats(3, "cpu-baseline", 0)))
    assert wording.devices(replace(many, miner=two)) == [
        "speed 10s/60s/15m 3.00 0.00 n/a MH/s max 2.00 H/s | cpu-baseline",
        "speed 10s/60s/15m 3.00 0.00 n/a MH/s | cpu-fast, 3 workers",
    ]


def test_a_pause_is_said_with_its_reasons() -> None:
    both = replace(BUSY.workers[0], paused=True), replace(BUSY.workers[0], index=1, engine="gpu-cuda", gpu=CARD)
    one = replace(BUSY, workers=both, pauses=(Pause("cpu", "user"),))
    every = replace(one, workers=both[:1], pauses=(Pause(None, "schedule"), Pause(None, "user")))
    snapshot = Snapshot(0.0, 5.0, 2, one, (LinkStats(POOL),), rates=MIDDLE)
    assert wording.paused(snapshot) == ""
    assert wording.devices(snapshot)[0].endswith(" | cpu-fast, paused")
    fault = f"{POOL} not connected for 0 s"
    assert wording.status(snapshot).endswith(f" | up 5 s; {fault}; cpu is paused (user)")
    assert wording.pause(PauseChanged("cpu", True, "user"), snapshot) == "paused cpu (user)"
    snapshot = replace(snapshot, miner=every)
    assert wording.status(snapshot) == f"paused (schedule, user) | shares 0/0/0 | up 5 s; {fault}"
    assert wording.pause(PauseChanged(None, True, "user"), snapshot) == "paused (user)"
    assert wording.pause(PauseChanged(None, False, "busy"), snapshot) == "resumed (busy), still paused (schedule, user)"
    assert wording.pause(PauseChanged(None, False, "user"), replace(snapshot, miner=BUSY)) == "resumed (user)"
    assert wording.paused(replace(snapshot, miner=None)) == ""


def test_sources_and_connections_have_a_line_each() -> None:
    link = LinkStats(POOL, connected=True, mined=True, connects=2, job_at=95.0, difficulty=10**9, now=100.0)
    link.accepted, link.stale, link.late, link.accepted_at, link.latency_s = 12, 1, 3, 88.0, 0.031
    link.work, link.hashes, link.changed_at = 50, 100, 40.0
    node = LinkStats(NODE, sent=5, refusal="bad token", now=100.0)
    job = JobStats("a", "cpu-fast", Status.RUNNING, ())
    api = ApiStats(ended_jobs={("cpu-fast", "completed"): 2}, jobs=(job, replace(job, status=Status.FAILED)))
    snapshot = Snapshot(0.0, 70.0, 2, BUSY, (link, node), api, source_rates={POOL: MIDDLE}, tally=Tally(12, 0, 1, 5))
    assert wording.sources(snapshot) == [
        "shares 12/0/1 | blocks 5 | up 70 s",
        f"{POOL}: mined, 3.26 MH/s, shares 12/0/1, late 3, luck 50 %, last share 12 s ago",
        f"{NODE}: solutions 5, late 0",
        "job API: 1 jobs running, 2 ended",
    ]
    assert wording.connections(snapshot) == [
        f"{POOL}: connected for 60 s, 2 connections so far, last job 5 s ago, diff 1.0G, latency 31 ms",
        f"{NODE}: refuses us: bad token",
    ]
    link.failing = "old job"
    assert wording.connections(snapshot)[0].startswith(f"{POOL}: connected for 60 s, is failing (old job), ")
    assert wording.connections(replace(snapshot, sources=())) == [wording.HTTP_ONLY]


# --- when ---


class Life:
    """A real monitor with a narrator, of a miner and a pool that the test changes, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hashes = 0
        self.miner = BUSY
        self.link = LinkStats(POOL, connected=True, mined=True, difficulty=2000)
        self.monitor = Monitor(
            lambda: replace(self.miner, hashes=self.hashes),
            sources=lambda: (self.link.copy(self.now),),
            api=lambda: None,
            store_ok=lambda: True,
            readings=lambda _: None,
            effective_cpus=2,
            clock=lambda: self.now,
        )
        narrator = Narrator(self.monitor)
        self.monitor.subscribe("console", on_snapshot=narrator.on_snapshot, on_event=narrator.on_event)

    def pass_(self, seconds: int, each_second: Callable[[], object] = lambda: None) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.hashes += 1000 * self.miner.active_jobs
            each_second()
            self.monitor.tick()


def live(check: Callable[[Life], None]) -> None:
    async def run() -> None:
        life = Life()
        check(life)
        assert life.monitor.look().failures == {"console": 0}

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "miner")


def said(caplog: pytest.LogCaptureFixture, start: str = "", level: int = logging.INFO) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= level and record.getMessage().startswith(start)
    ]


def test_two_minutes_in_a_fast_pool_fit_on_a_screen(caplog: pytest.LogCaptureFixture) -> None:
    """Ten shares and a new difficulty a second; one share in ten is refused, each for another reason."""

    def second(life: Life) -> None:
        life.link.difficulty = round(2000 + 1000 * life.now)
        for number in range(10):
            refused = number == 5
            life.monitor.publish(judged("rejected", f"bad {life.now}") if refused else judged())

    def check(life: Life) -> None:
        life.pass_(120, lambda: second(life))

    live(check)
    lines = said(caplog)
    print(len(lines), "lines")
    # The start has about 11.
    assert 20 < len(lines) <= SCREEN - 11
    (first, second_speed) = said(caplog, "speed ")
    assert first == "speed 10s/60s/15m 1.00 n/a n/a kH/s max 1.00 kH/s | shares 90/10/0 | up 10 s"
    assert second_speed.startswith("speed 10s/60s/15m 1.00 1.00 n/a kH/s max 1.00 kH/s | shares 630/70/0 | up 70 s")
    # All is there at debug, and the last line at info counts those before it.
    assert len(said(caplog, "accepted (", logging.DEBUG)) == 9 * 120
    assert said(caplog, "accepted (")[-1].startswith("accepted (10")


def test_a_pool_as_they_are_has_a_line_for_each_share(caplog: pytest.LogCaptureFixture) -> None:
    def check(life: Life) -> None:
        life.monitor.publish(SourceChanged(POOL, "mined"))
        for _ in range(12):
            life.pass_(10)
            life.monitor.publish(judged())

    live(check)
    assert said(caplog, "accepted (") == [
        f"accepted ({count}/0) diff 1.0G 31 ms pool.example:3333" for count in range(1, 13)
    ]
    assert said(caplog, "new job ") == ["new job from pool.example:3333 diff 2.0k"], "at once, and not again"
    (record,) = [record for record in caplog.records if record.getMessage().startswith("accepted (1/0)")]
    fields = ("source", "difficulty", "latency_ms")
    assert [record.__dict__[name] for name in fields] == [POOL, 10**9, 31.2]


def test_a_difficulty_that_looks_the_same_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    def check(life: Life) -> None:
        for difficulty in (2000, 2001, 2049, 2051, 512, 512):
            life.link.difficulty = difficulty
            life.pass_(30)

    live(check)
    assert [line.rpartition(" ")[2] for line in said(caplog, "new job ")] == ["2.0k", "2.1k", "512"]


def test_refused_shares_of_one_reason_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def check(life: Life) -> None:
        for _ in range(60):
            life.pass_(1)
            life.monitor.publish(judged("rejected", "bad\n\x1b[2J"))
        life.pass_(541)
        life.monitor.publish(judged("rejected", "bad\n\x1b[2J"))

    live(check)
    first, second = said(caplog, "rejected ", logging.WARNING)
    assert first == "rejected (0/1) diff 1.0G 31 ms pool.example:3333: bad\n\x1b[2J"
    assert second.endswith("(59 more since the last such line)")


def test_solutions_for_a_node_are_said_and_those_for_a_pool_when_it_has_judged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = LiveJob("42", bytes(32), 1_900_000)

    def check(life: Life) -> None:
        for source in (NODE, POOL, OVER_QUIC):
            life.monitor.publish(SolutionSent(source, job, Solution(1, 1)))
        assert life.monitor.look().tally == Tally(blocks=1)

    live(check)
    assert said(caplog) == ["solution (1) diff 1.9M 127.0.0.1:9833", "solution diff 1.9M pool.example:9834"]
    assert {record.__dict__["job"] for record in caplog.records} == {"42"}


def test_without_work_it_says_why_after_a_while_and_not_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    def check(life: Life) -> None:
        life.pass_(20)
        life.link.mined = life.link.connected = False
        life.miner = replace(BUSY, active_jobs=0)
        life.pass_(int(IDLE_S))
        assert said(caplog, "idle") == []
        life.pass_(int(IDLE_AGAIN_S))
        life.miner = BUSY
        life.link.mined = life.link.connected = True
        life.pass_(int(SPEED_S))

    live(check)
    assert said(caplog, "idle") == [f"idle: no source has work: {POOL} not connected for 24 s | shares 0/0/0 | up 24 s"]
    assert [line.rpartition(" | ")[2] for line in said(caplog, "speed ")] == ["up 10 s", "up 10 min"]


def test_work_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def check(life: Life) -> None:
        for _ in range(30):
            life.link.mined, life.miner = True, BUSY
            life.pass_(1)
            life.link.mined, life.miner = False, replace(BUSY, active_jobs=0)
            life.pass_(int(IDLE_S) + 1)

    live(check)
    assert len(said(caplog, "idle")) == 5


def test_a_pause_is_said_once_and_then_every_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    pause = Pause(None, "user")

    def check(life: Life) -> None:
        life.miner = replace(BUSY, workers=(replace(BUSY.workers[0], paused=True),), pauses=(pause,))
        life.monitor.publish(PauseChanged(None, True, "user"))
        life.pass_(int(IDLE_AGAIN_S) + 1)
        life.miner, life.link.mined = replace(BUSY, active_jobs=0), False
        life.monitor.publish(PauseChanged(None, False, "user"))
        life.pass_(int(IDLE_S) + 1)

    live(check)
    assert [line for line in said(caplog) if not line.startswith("new job")] == [
        "paused (user)",
        "paused (user) | shares 0/0/0 | up 10 min",
        "resumed (user)",
        f"idle: no source has work: {POOL} has not sent a job yet | shares 0/0/0 | up 10 min",
    ]


def test_the_allowances_are_what_they_say() -> None:
    assert sum(most + 120 / refill for most, refill in (SHARES, JOBS)) == 27
