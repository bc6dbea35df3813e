"""A GPU engine that sleeps for its duty, and one whose card is too hot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.base import Control
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.errors import DevicePausedError
from quantus_miner.gpu.telemetry import Thermostat
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Order

from .harness import WAIT_S, Watched, a_job, engine_on, exhaust, hits_of, open_watched, search

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device, Readout


class CountingControl(Control):
    """Writes down the sleeps, among the launches, instead of sleeping."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> bool:
        self.sleeps.append(seconds)
        self.events.append("sleep")
        return self.stopped


class Duty:
    """A device that works for a quarter of the time; its clock stands still. What it does goes to ``events``."""

    def __init__(self, cpu: Device, folder: Path, watched: list[Watched]) -> None:
        open_device = partial(open_watched, cpu, folder, watched)
        self.engine = engine_on(cpu, open_device, duty=25, clock=lambda: 1000.0)
        self.events: list[str] = []
        self.took: list[float] = []
        self.engine.open()
        watched[-1].lie = self.note

    def note(self, readout: Readout) -> Readout:
        self.took.append(readout.seconds)
        self.events.append("launch")
        return readout


def test_a_duty_below_100_sleeps_between_launches_with_nothing_in_flight(
    cpu: Device, folder: Path, watched: list[Watched]
) -> None:
    duty = Duty(cpu, folder, watched)
    control = CountingControl(duty.events)
    search(duty.engine, a_job(Order.WALK, MAX), 0, 10_000, control)
    launches = len(duty.took)
    assert launches > 2
    assert duty.events == ["sleep", "launch"] * launches  # the first one for the self test's last launch
    assert control.sleeps[1:] == pytest.approx([3 * seconds for seconds in duty.took[:-1]])
    assert watched[-1].most_in_flight == 1


def test_a_hit_is_reported_before_the_sleep_of_its_launch(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    duty = Duty(cpu, folder, watched)
    control = CountingControl(duty.events)
    job, start = a_job(Order.WALK, 200), 1 << 40
    found, end = [], start + 5000
    while start < end:
        duty.events.clear()
        outcome = search(duty.engine, job, start, end - start, control)
        start += outcome.tested
        if outcome.nonce is not None:
            found.append(start - 1)
            assert duty.events[-1:] != ["sleep"]
    assert found == hits_of(job, 1 << 40, 5000)
    # What has to be slept is not forgotten over a search that ends, nor over one that is stopped.
    duty.events.clear()
    stopped = CountingControl(duty.events)
    stopped.stop()
    assert duty.engine.search(job, 0, 100, stopped) == (0, None)
    search(duty.engine, job, 0, 1, control)
    assert duty.events == ["sleep", "launch"]


def test_a_stop_cuts_the_sleep_short_and_launches_nothing(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    duty = Duty(cpu, folder, watched)

    class Stopping(CountingControl):
        def sleep(self, seconds: float) -> bool:
            self.stop()
            return super().sleep(seconds)

    assert duty.engine.search(a_job(Order.WALK, MAX), 0, 10_000, Stopping(duty.events)) == (0, None)
    assert duty.events == ["sleep"]


def test_a_hot_card_pauses_until_it_is_cool(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    degrees, now = iter([79, 80, 79, 78, 77, 79.5]), iter(range(100))
    thermostat = Thermostat("a card", 80, lambda: next(degrees), lambda: float(next(now)))
    said = [thermostat.too_hot() for _ in range(6)]
    assert said == [False, True, True, True, False, False]


def test_a_hot_card_hands_back_what_it_has_not_launched(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    readings = iter([70.0, 70.0, 90.0, 90.0, 90.0, 70.0])
    thermostat = Thermostat("a card", 80, lambda: next(readings, 70.0), iter(range(10**6)).__next__)
    engine = engine_on(cpu, partial(open_watched, cpu, folder, watched))
    engine.open()
    engine._thermostat = thermostat
    engine._size = 1000
    before = len(watched[-1].launches)
    job, control = a_job(Order.WALK, MAX), Control()
    with pytest.raises(DevicePausedError):
        engine.search(job, 0, 50_000, control)
    tested = control.hashes
    assert 0 < tested == sum(count for *_, count in watched[-1].launches[before:]) < 50_000
    assert engine.fault is None
    control.reset()
    with pytest.raises(DevicePausedError):
        engine.search(job, tested, 50_000 - tested, control)
    assert control.hashes == 0
    assert search(engine, job, tested, 50_000 - tested) == (50_000 - tested, None)


def test_others_take_over_from_a_hot_card(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    always = Thermostat("a card", 80, lambda: 90.0, iter(range(10**6)).__next__)
    hot = engine_on(cpu, partial(open_watched, cpu, folder, watched), thermostat=always)
    with pytest.raises(DevicePausedError):
        hot.open()
    assert watched[-1].closed
    miner = Miner([hot, CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.02)
    miner.start()
    assert exhaust(miner, 100_000) == 100_000
    assert [gpu.up for gpu in miner.stats().gpus] == [True]
    assert miner.close(WAIT_S)  # at once, though the hot one waits


def test_a_card_that_stops_saying_how_hot_it_is_goes_on() -> None:
    readings, now = iter([90.0, None]), iter(range(10))
    thermostat = Thermostat("a card", 80, lambda: next(readings), lambda: float(next(now)))
    assert [thermostat.too_hot(), thermostat.too_hot()] == [True, False]
