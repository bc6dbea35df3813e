"""The monitor: one look at everything, subscribers that fail, events from any thread, and the rates."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.events import DeviceChanged, Event
from quantus_miner.mining.rates import SAMPLES, WINDOWS_S, RateBook, RateMeter, WindowMeter
from quantus_miner.mining.stats import ApiStats, LinkStats
from quantus_miner.monitor import Monitor, Snapshot

from .test_metrics import CARD, MINER, READINGS

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT = DeviceChanged("0", "gpu-cuda", up=False, reason="test")


def boom(*_: object) -> Any:
    raise RuntimeError("boom")


def monitor(**other: Any) -> Monitor:
    """A monitor of parts that work, but for ``other``. To be called on an event loop."""
    arguments: dict[str, Any] = {
        "miner": lambda: MINER,
        "sources": lambda: (LinkStats("pool a", hashes=600),),
        "api": ApiStats,
        "store_ok": lambda: True,
        "readings": lambda pci: READINGS if pci else None,
        "effective_cpus": 4,
    }
    return Monitor(**arguments | other)


def on_a_loop(check: Callable[[], None]) -> None:
    async def run() -> None:
        check()

    asyncio.run(run())


# --- snapshots ---


def test_a_snapshot_has_all_parts_each_asked_once() -> None:
    asked: list[str] = []

    def counted(name: str, answer: object) -> Callable[..., object]:
        def ask(*_: object) -> object:
            asked.append(name)
            return answer

        return ask

    def check() -> None:
        now = 100.0
        links = (LinkStats("pool a", hashes=600),)
        watched = monitor(
            miner=counted("miner", MINER),
            sources=counted("sources", links),
            api=counted("api", ApiStats()),
            store_ok=counted("store", False),
            clock=lambda: now,
        )
        asked.clear()
        now = 102.0
        snapshot = watched.look()
        assert sorted(asked) == ["api", "miner", "sources", "store"]
        assert (snapshot.miner, snapshot.sources, snapshot.api, snapshot.store_ok) == (MINER, links, ApiStats(), False)
        assert (snapshot.uptime_s, snapshot.effective_cpus) == (2.0, 4)
        assert snapshot.readings == {CARD.id: READINGS}
        assert snapshot.rates is not None
        assert snapshot.worker_rates.keys() == {0, 1, 2}
        assert snapshot.source_rates.keys() == {"pool a"}

    on_a_loop(check)


@pytest.mark.parametrize(
    ("part", "name", "empty"),
    [
        ("miner", "miner", {"miner": None, "rates": None, "worker_rates": {}, "readings": {}}),
        ("sources", "sources", {"sources": (), "source_rates": {}}),
        ("api", "api", {"api": None}),
        ("store_ok", "store", {"store_ok": None}),
        ("readings", "readings", {"readings": {}}),
    ],
)
def test_a_part_that_fails_costs_its_part_of_the_snapshot(
    part: str, name: str, empty: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> None:
        broken = monitor(**{part: boom})
        broken.look()
        snapshot, whole = broken.look(), monitor().look()
        for field in Snapshot.__dataclass_fields__.keys() - {"time", "uptime_s", "part_failures"}:
            assert getattr(snapshot, field) == empty.get(field, getattr(whole, field))
        assert snapshot.part_failures == {**dict.fromkeys(whole.part_failures, 0), name: 3}

    on_a_loop(check)
    # The first in a row alone is logged: there is one a second.
    assert [record.getMessage() for record in caplog.records] == [f"The monitor cannot read the {name}"]


def test_rates_survive_a_part_that_fails_for_a_while_and_not_a_worker_that_is_another() -> None:
    def check() -> None:
        now, count, fails = 0.0, 0, False

        def links() -> tuple[LinkStats, ...]:
            return boom() if fails else (LinkStats("pool a", hashes=count),)

        watched = monitor(sources=links, clock=lambda: now)
        for second in range(1, 21):
            now, count, fails = float(second), 100 * second, second == 20
            watched.tick()
        fails = False
        assert watched.look().source_rates["pool a"].average_10s == pytest.approx(100)
        count = 5
        assert watched.look().source_rates["pool a"].average_10s is None

    on_a_loop(check)


# --- subscribers ---


def test_a_subscriber_that_raises_is_logged_and_counted_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def check() -> None:
        watched = monitor()
        watched.subscribe("first", on_snapshot=boom, on_event=boom)
        watched.subscribe("second", on_snapshot=seen.append, on_event=seen.append)
        for _ in range(3):
            watched.tick()
        watched.publish(EVENT)
        assert watched.look().failures == {"first": 4, "second": 0}

    on_a_loop(check)
    assert [type(one) for one in seen] == [Snapshot] * 3 + [DeviceChanged]
    assert [record.getMessage() for record in caplog.records] == [
        "The first has failed to handle a snapshot",
        "The first has failed to handle an event",
    ]


def test_an_event_from_another_thread_is_heard_on_the_loop() -> None:
    heard: list[tuple[Event, int]] = []

    async def run() -> Monitor:
        watched, done = monitor(), asyncio.Event()

        def hear(event: Event) -> None:
            heard.append((event, threading.get_ident()))
            done.set()

        watched.subscribe("test", on_event=hear)
        thread = threading.Thread(target=watched.publish, args=(EVENT,))
        thread.start()
        await done.wait()
        thread.join()
        return watched

    watched = asyncio.run(run())
    assert heard == [(EVENT, threading.get_ident())]
    # A worker that is the last to leave, after the end of the loop.
    late = threading.Thread(target=watched.publish, args=(EVENT,))
    late.start()
    late.join()
    assert len(heard) == 1


# --- rates ---


def test_a_rate_is_counts_over_wall_time_in_a_moving_window() -> None:
    meter = RateMeter(0.0)
    assert meter.rate(0.0, 0) == 0.0
    assert meter.rate(2.0, 10) == 5.0
    for second in range(1, 31):
        meter.sample(float(second), 100 * second if second <= 15 else 1500)
    assert meter.rate(30.0, 1500) == 0.0
    assert meter.rate(31.0, 1600) == pytest.approx(100 / 11)


@given(
    steps=st.lists(st.tuples(st.floats(0.5, 2.0), st.integers(0, 10**12)), min_size=1, max_size=400),
    stretch=st.sampled_from([1.0, 5.0]),
    since=st.floats(0.0, 5.0),
    more=st.integers(0, 10**9),
)
def test_windows_agree_with_all_samples(
    steps: list[tuple[float, int]], stretch: float, since: float, more: int
) -> None:
    """Against every sample: the average goes back to one that is as old as the window, or a little older."""
    now, count = 1000.0, 7
    samples = [(now, count)]
    meter = WindowMeter(now, count)
    highest = None
    for seconds, hashes in steps:
        now, count = now + stretch * seconds, count + hashes
        samples.append((now, count))
        meter.sample(now, count)
        average = meter.rates(now, count).average_10s
        if average is not None:
            highest = average if highest is None else max(highest, average)
    last = now
    now, count = now + since, count + more
    rates = meter.rates(now, count)
    assert rates.highest == highest
    for window_s, average in zip(WINDOWS_S, (rates.average_10s, rates.average_60s, rates.average_15m), strict=True):
        if now - samples[0][0] < window_s:
            assert average is None
            continue
        # How far back the window may begin: one sample is kept in a SAMPLES-th of it, and ticks are 2 s apart at most.
        reach = max(then for then, _ in samples if then <= now - window_s) if now - samples[0][0] >= window_s else 0
        oldest = reach - window_s / SAMPLES - since - 2 * 2.0 * stretch
        possible = [(count - before) / (now - then) for then, before in samples if oldest <= then <= reach]
        assert any(average == pytest.approx(value, rel=1e-9, abs=1e-9) for value in possible)
    # It falls by itself when nothing is counted any more.
    silent = meter.rates(last + 1e6, samples[-1][1])
    assert silent.current <= max(1.0, samples[-1][1] / 1e6)


def test_a_meter_of_years_is_as_small_as_one_of_minutes() -> None:
    meter = WindowMeter(0.0, 0)
    for second in range(1, 5000):
        meter.sample(float(second), second)
        assert all(len(window._samples) <= SAMPLES + 2 for window in meter._meters)
    rates = meter.rates(5000.0, 5000)
    assert rates.average_10s == rates.average_60s == rates.average_15m == rates.highest == 1.0


def test_counts_that_are_gone_are_forgotten_and_one_that_falls_begins_anew() -> None:
    book: RateBook[str] = RateBook()
    for second in range(21):
        rates = book.measure(float(second), {"a": 10 * second, "b": 5 * second}, sample=True)
    assert (rates["a"].average_10s, rates["b"].average_10s, rates["a"].average_60s) == (10.0, 5.0, None)
    assert book.measure(21.0, {"a": 210}, sample=False).keys() == {"a"}
    again = book.measure(22.0, {"a": 3, "b": 110}, sample=True)
    assert {rates.average_10s for rates in again.values()} == {None}
