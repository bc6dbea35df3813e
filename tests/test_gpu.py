"""GPU engines: the real kernel through OpenCL, on the CPU (PoCL); CUDA as far as it goes without a card."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import subprocess
import sys
import threading
import types
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import bench, native
from quantus_miner import pow as reference
from quantus_miner.backends import gpu as gpu_engine
from quantus_miner.backends.base import Control, EngineStatus
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.registry import create_engines, unavailable_reason, update_engines
from quantus_miner.backoff import Backoff
from quantus_miner.devices import lines, look
from quantus_miner.errors import DeviceLostError, DevicePausedError, EngineUnavailableError, SettingError
from quantus_miner.gpu import binaries, drivers, telemetry, tuning
from quantus_miner.gpu.device import IN_FLIGHT, Device, DriverError, Launcher, Readout, number_equals
from quantus_miner.gpu.source import MAX_HITS
from quantus_miner.gpu.telemetry import Readings, Telemetry, Thermostat
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow, Status, target_from_difficulty
from quantus_miner.native import Outcome
from quantus_miner.pow.order import last_position, nonce_at
from quantus_miner.settings import load

from .conftest import MinerProcess, vectors
from .test_commands import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = bytes(range(32))
WAIT_S = 60.0
SCALAR = native.find_kernel(Pow.POSEIDON2, "scalar")
each_order = pytest.mark.parametrize("order", Order)


def a_job(order: Order, difficulty: int, header: bytes = HEADER) -> Job:
    target = target_from_difficulty(difficulty)
    return Job(f"{order} {difficulty}", Pow.POSEIDON2, header, target, (NonceRange(0, last_position(order)),), order)


def hits_of(job: Job, start: int, count: int) -> list[int]:
    """The positions of all valid nonces, by a kernel of the CPU."""
    prepared, found, end = native.prepare(job), [], start + count
    while start < end:
        outcome = native.search(SCALAR, prepared, start, end - start, native.NativeControl())
        start += outcome.tested
        if outcome.nonce is not None:
            found.append(start - 1)
    return found


def search(engine: GpuEngine, job: Job, start: int, count: int, control: Control | None = None) -> Outcome:
    control = control or Control()
    control.reset()
    outcome = engine.search(job, start, count, control)
    assert control.hashes == outcome.tested
    return outcome


def search_all(engine: GpuEngine, job: Job, start: int, count: int) -> list[int]:
    """The positions of all hits, each search going on behind the hit of the last one."""
    found, end = [], start + count
    while start < end:
        outcome = search(engine, job, start, end - start)
        start += outcome.tested
        if outcome.nonce is not None:
            assert outcome.nonce == nonce_at(job.order, start - 1)
            found.append(start - 1)
        else:
            assert start == end
    return found


class Watched:
    """A real launcher; writes down (words, first, count) of each launch, and fails or lies where it is told to."""

    def __init__(self, inner: Launcher) -> None:
        self.inner = inner
        self.launches: list[tuple[Order, tuple[int, ...], int, int]] = []
        self.most_in_flight = self.in_flight = 0
        self.fail_at: int | None = None  # number of the launch that fails
        self.lie: Callable[[Readout], Readout] = lambda readout: readout
        self.closed = False

    @property
    def multiprocessors(self) -> int:
        return self.inner.multiprocessors

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        if len(self.launches) == self.fail_at:
            raise DeviceLostError("unplugged")
        self.launches.append((order, words, first, count))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.inner.launch(order, words, top_target, first, count, blocks)

    def collect(self) -> Readout:
        self.in_flight -= 1
        return self.lie(self.inner.collect())

    def close(self) -> None:
        self.closed = True
        self.inner.close()


@pytest.fixture(scope="module")
def cpu(opencl_on_cpu: None) -> Device:
    """The OpenCL device that the CPU is."""
    return next(device for device in drivers.load("opencl").devices() if device.kind == "cpu")


@pytest.fixture(scope="module")
def opencl(cpu: Device) -> Any:
    """Its driver."""
    return drivers.load("opencl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For compiled kernels."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def watched(cpu: Device, folder: Path) -> Iterator[list[Watched]]:
    """The launchers that the fixture ``engine`` opened, the newest last."""
    opened: list[Watched] = []
    yield opened
    for launcher in opened:
        launcher.close()


@pytest.fixture
def engine(cpu: Device, folder: Path, watched: list[Watched]) -> GpuEngine:
    made = GpuEngine("gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1)
    made.open()
    watched[-1].launches.clear()
    return made


def open_watched(cpu: Device, folder: Path, opened: list[Watched]) -> Watched:
    opened.append(Watched(drivers.load("opencl").open_device(cpu, folder)))
    return opened[-1]


# --- what is found ---


def test_the_golden_searches(engine: GpuEngine) -> None:
    for case in vectors("qpow_poseidon2_search")["cases"]:
        header, start = bytes.fromhex(case["header_hex"]), int(case["nonce_start"], 16)
        job = a_job(Order.COUNTING, int(case["difficulty"]), header)
        expected = case["chain_first_nonce"]
        outcome = search(engine, job, start, case["length"])
        if expected is None:
            assert outcome == (case["length"], None), case["label"]
        else:
            assert outcome == (int(expected, 16) - start + 1, int(expected, 16)), case["label"]


@each_order
@pytest.mark.parametrize("difficulty", [1, 3, 100, 5000])
def test_all_hits_come_in_order_and_none_twice(engine: GpuEngine, order: Order, difficulty: int) -> None:
    job, start, count = a_job(order, difficulty), 5 << 40, min(20 * difficulty, 20_000) + 7
    assert search_all(engine, job, start, count) == hits_of(job, start, count)


@each_order
def test_a_search_behind_a_hit_tests_nothing_again(engine: GpuEngine, watched: list[Watched], order: Order) -> None:
    job, start, count = a_job(order, 1000), 3 << 40, 30_000
    assert len(search_all(engine, job, start, count)) > 3
    tested = [offset for _, _, first, size in watched[-1].launches for offset in range(first, first + size)]
    assert sorted(tested) == list(range(count))
    assert watched[-1].most_in_flight == IN_FLIGHT


@each_order
def test_a_search_elsewhere_drops_what_is_in_flight(engine: GpuEngine, order: Order) -> None:
    job, other = a_job(order, 1000), a_job(order, 1001)
    for start, task in ((0, job), (1 << 50, job), (1 << 50, other), (100, other)):
        expected = hits_of(task, start, 20_000)[0]
        outcome = search(engine, task, start, 20_000)
        assert outcome == (expected - start + 1, nonce_at(order, expected))


@each_order
def test_a_shorter_slice_behind_a_hit_ends_where_it_is_told(engine: GpuEngine, order: Order) -> None:
    job, start = a_job(order, 2000), 1 << 45
    first, second = hits_of(job, start, 40_000)[:2]
    assert search(engine, job, start, 40_000).tested == first - start + 1
    assert search(engine, job, first + 1, second - first - 1) == (second - first - 1, None)
    assert search(engine, job, second, 1) == (1, nonce_at(order, second))


@each_order
def test_launches_do_not_cross_the_end_of_a_span(engine: GpuEngine, watched: list[Watched], order: Order) -> None:
    span = 1 << native.SPAN_BITS[order]
    job, start, count = a_job(order, 500), (7 << 60) + span - 3000, 9000
    assert search_all(engine, job, start, count) == hits_of(job, start, count)
    spans = {words for _, words, _, _ in watched[-1].launches}
    assert len(spans) == 2
    assert all(first + size <= span for _, _, first, size in watched[-1].launches)


@each_order
def test_the_last_positions_of_all(engine: GpuEngine, order: Order) -> None:
    job, start = a_job(order, 50), last_position(order) - 700
    assert search_all(engine, job, start, 701) == hits_of(job, start, 701)


def test_the_nonce_zero_is_no_hit(engine: GpuEngine) -> None:
    everything = Job("a", Pow.POSEIDON2, HEADER, MAX, (NonceRange(0, MAX),))
    assert search(engine, everything, 0, 10) == (2, 1)
    assert engine.false_positives == 0


@each_order
def test_too_many_candidates_are_searched_again_in_parts(
    engine: GpuEngine, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    monkeypatch.setattr(gpu_engine, "EXPECTED_HITS", 10 * MAX_HITS)
    overflows = []

    def note(readout: Readout) -> Readout:
        overflows.append(readout.candidates > MAX_HITS)
        return readout

    watched[-1].lie = note
    job, start, count = a_job(order, 2), 9 << 40, 3000
    assert search_all(engine, job, start, count) == hits_of(job, start, count)
    assert any(overflows)


# --- stop, pause ---


def test_a_stopped_control_ends_a_search_before_it_begins(engine: GpuEngine, watched: list[Watched]) -> None:
    control = Control()
    control.stop()
    assert engine.search(a_job(Order.WALK, MAX), 0, 1000, control) == (0, None)
    assert watched[-1].launches == []


@each_order
def test_a_stop_ends_a_search_and_what_was_launched_counts(
    engine: GpuEngine, watched: list[Watched], order: Order
) -> None:
    job, control, outcomes = a_job(order, 20_000), Control(), deque[Outcome]()
    job = Job(job.id, job.pow, job.header, 0, job.ranges, order)  # nothing meets this
    thread = threading.Thread(target=lambda: outcomes.append(engine.search(job, 0, 2**40, control)))
    thread.start()
    while control.hashes == 0:
        pass
    control.stop()
    thread.join(WAIT_S)
    assert list(outcomes) == [(control.hashes, None)]
    assert control.hashes == sum(size for _, _, _, size in watched[-1].launches)
    assert watched[-1].in_flight == 0


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
        self.engine = GpuEngine(
            "gpu-opencl", cpu, open_device, language="opencl", blocks=1, duty=25, clock=lambda: 1000.0
        )
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
    engine = GpuEngine("gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1)
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
    hot = GpuEngine(
        "gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1, thermostat=always
    )
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


# --- devices that fail ---


def test_a_device_that_finds_nothing_fails_the_self_test(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    def open_blind() -> Watched:
        launcher = open_watched(cpu, folder, watched)
        launcher.lie = lambda readout: Readout(readout.seconds, 0, ())
        return launcher

    engine = GpuEngine("gpu-opencl", cpu, open_blind, language="opencl", blocks=1)
    with pytest.raises(DeviceLostError, match="its kernel fails the self test"):
        engine.open()
    assert engine.fault == "its kernel fails the self test"
    assert watched[-1].closed


def test_a_few_false_positives_are_counted_and_dropped(
    engine: GpuEngine, watched: list[Watched], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reference in Python, which keeps all other threads waiting, is not asked.
    monkeypatch.setattr(reference, "evaluate", lambda *_: pytest.fail("asked the reference"))
    job = a_job(Order.WALK, MAX)
    watched[-1].lie = lambda readout: Readout(readout.seconds, 2, (5, 2**31))
    assert search(engine, job, 0, 100) == (100, None)
    assert engine.false_positives == 2
    assert caplog.text.count("reported a false positive") == 1


def test_false_positives_among_many_hits_are_forgotten(engine: GpuEngine, watched: list[Watched]) -> None:
    job, count, seen = a_job(Order.WALK, 2), 3000, [0]

    def lie(readout: Readout) -> Readout:
        seen[0] += readout.candidates
        if seen[0] < gpu_engine.CANDIDATES_TO_FORGET:
            return readout
        seen[0] = 0
        return Readout(readout.seconds, readout.candidates + 1, (*readout.offsets, 2**31))

    watched[-1].lie = lie
    assert search_all(engine, job, 0, count) == hits_of(job, 0, count)
    assert engine.false_positives > gpu_engine.FALSE_POSITIVES


def test_what_is_valid_in_its_first_64_bits_only_is_no_false_positive(
    engine: GpuEngine, watched: list[Watched]
) -> None:
    hit = hits_of(a_job(Order.WALK, 1000), 0, 20_000)[0]
    value = reference.evaluate(Pow.POSEIDON2, HEADER, nonce_at(Order.WALK, hit))
    job = Job("a", Pow.POSEIDON2, HEADER, value - 1, (NonceRange(0, MAX),), Order.WALK)
    for _ in range(10):
        assert search(engine, job, hit, 1) == (1, None)
    assert engine.false_positives == 0
    watched[-1].lie = lambda readout: Readout(readout.seconds, 1, (hit + 1,))
    assert search(engine, job, hit + 1, 1) == (1, None)
    assert engine.false_positives == 1


def test_a_device_with_many_false_positives_is_set_aside(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    now = [1000.0]
    open_device = partial(open_watched, cpu, folder, watched)
    engine = GpuEngine("gpu-opencl", cpu, open_device, language="opencl", blocks=1, clock=lambda: now[0])
    engine.open()
    job = a_job(Order.WALK, MAX)
    for number, seconds in enumerate((60, 600, 3600, 3600), 1):
        opened, before = len(watched), engine.false_positives
        watched[-1].lie = lambda readout: Readout(readout.seconds, 100, range(100))
        message = f"it reported 5 false positives within few candidates.* tested again after {seconds} s"
        with pytest.raises(DeviceLostError, match=message):
            search(engine, job, 0, 100)
        assert engine.false_positives == before + gpu_engine.FALSE_POSITIVES  # and no more are looked at
        assert watched[-1].closed
        now[0] += seconds - 0.5
        with pytest.raises(DeviceLostError, match=message):
            search(engine, job, 0, 100)
        assert (engine.fault or "").startswith("it reported 5 false positives")
        assert len(watched) == opened == number
        now[0] += 0.5
        assert search(engine, job, 0, 100) == (100, None)  # after the self test
        assert engine.fault is None
        assert len(watched) == opened + 1


def test_others_mine_on_while_a_device_is_set_aside_and_it_is_told_once(
    cpu: Device, folder: Path, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.01)  # with none it would take the lock from the others
    engine = GpuEngine("gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1)
    engine.open()
    false = range(2**31, 2**31 + 100)
    watched[-1].lie = lambda readout: Readout(readout.seconds, min(100, watched[-1].launches[-1][-1]), false)
    miner = Miner([engine, CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.02)
    miner.start()
    while miner.stats().gpu_devices:
        assert exhaust(miner, 100_000) == 100_000
    assert exhaust(miner, 300_000) == 300_000
    (gpu,) = miner.stats().gpus
    assert (gpu.up, gpu.false_positives) == (False, 5)
    assert miner.close(WAIT_S)
    assert caplog.text.count("false positives") == caplog.text.count("has lost its device") == 1
    assert len(watched) == 1


def test_more_candidates_than_nonces_is_a_lost_device(engine: GpuEngine, watched: list[Watched]) -> None:
    watched[-1].lie = lambda readout: Readout(readout.seconds, 2**32 - 1, range(MAX_HITS))
    with pytest.raises(DeviceLostError, match="4294967295 candidates among 100 nonces"):
        search(engine, a_job(Order.WALK, MAX), 0, 100)
    assert watched[-1].closed


def test_a_lost_device_costs_no_nonce_and_comes_back(
    cpu: Device, folder: Path, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)
    refusals = iter(range(2))

    def open_failing() -> Launcher:
        if watched and next(refusals, None) is not None:
            raise DeviceLostError("still unplugged")
        return open_watched(cpu, folder, watched)

    engine = GpuEngine("gpu-opencl", cpu, open_failing, language="opencl", blocks=1)
    engine.open()
    watched[-1].fail_at = len(watched[-1].launches) + 3
    miner = Miner([engine], chunk_s=0.05)
    with caplog.at_level(logging.INFO, "miner"):
        miner.start()
        assert exhaust(miner, 40_000) == miner.stats().hashes == 40_000
        assert miner.close(WAIT_S)
    assert len(watched) == 2
    assert caplog.text.count("has lost its device: unplugged") == 1
    assert caplog.text.count("has its device back") == 1


def test_a_device_is_opened_by_what_it_is_and_not_by_its_index(
    cpu: Device, opencl: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencl.open_device(replace(cpu, index=cpu.index + 7), folder).close()
    for other in (replace(cpu, pci="0000:01:00.0"), replace(cpu, platform="x"), replace(cpu, name="x")):
        with pytest.raises(DeviceLostError, match=r"OpenCL: no driver lists .* any more"):
            opencl.open_device(other, folder)

    parts = number_equals(replace(cpu, index=index, pci="0000:01:00.0") for index in range(2))
    assert [device.id for device in (*parts, cpu)] == ["0000:01:00.0/0", "0000:01:00.0/1", str(cpu.index)]

    # Of two equal devices one is gone: it could be either.
    handle = opencl._handles()[cpu.index]
    monkeypatch.setattr(opencl, "_handles", lambda: [handle, handle])
    twins = opencl.devices()
    assert [(twin.index, twin.ordinal, twin.equals) for twin in twins] == [(0, 0, 2), (1, 1, 2)]
    opencl.open_device(twins[1], folder).close()
    monkeypatch.setattr(opencl, "_handles", lambda: [handle])
    for twin in twins:
        with pytest.raises(DeviceLostError, match="no driver lists"):
            opencl.open_device(twin, folder)


def test_a_device_that_answers_nothing_does_not_hide_the_others(
    cpu: Device, opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyopencl

    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise pyopencl.LogicError(name, -2)

    handle = opencl._handles()[cpu.index]
    monkeypatch.setattr(opencl, "_handles", lambda: [Gone(), handle])
    assert opencl.devices() == [replace(cpu, index=1)]


@pytest.mark.parametrize("platforms", ["none", "no devices"])
def test_a_device_that_vanished_is_tried_again_and_told(
    cpu: Device,
    opencl: Any,
    folder: Path,
    watched: list[Watched],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    platforms: str,
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)
    handles, tries = opencl._handles, iter(range(3))

    def vanished() -> Any:
        if not watched or next(tries, None) is None:
            return handles()
        if platforms == "none":
            raise DriverError("no OpenCL driver is installed")
        return []

    monkeypatch.setattr(opencl, "_handles", vanished)
    engine = GpuEngine("gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1)
    engine.open()
    watched[-1].fail_at = len(watched[-1].launches) + 1
    miner = Miner([engine], chunk_s=0.05)
    with caplog.at_level(logging.INFO, "miner"):
        miner.start()
        assert exhaust(miner, 40_000) == 40_000
        assert miner.close(WAIT_S)
    assert next(tries, None) is None
    assert "retired" not in caplog.text
    assert caplog.text.count("has lost its device") == caplog.text.count("has its device back") == 1


@pytest.mark.parametrize(
    ("extensions", "attributes", "expected"),
    [
        ("cl_khr_pci_bus_info cl_nv_device_attribute_query", {}, "0001:65:02.3"),
        ("cl_nv_device_attribute_query", {"pci_domain_id_nv": 2}, "0002:0a:03.1"),
        ("cl_nv_device_attribute_query", {}, "0000:0a:03.1"),
        ("cl_amd_device_attribute_query", {}, "0000:c3:00.1"),
        ("cl_khr_fp64", {}, None),
    ],
)
def test_what_drivers_say_of_pci_addresses(
    cpu: Device,
    opencl: Any,
    monkeypatch: pytest.MonkeyPatch,
    extensions: str,
    attributes: dict[str, int],
    expected: str | None,
) -> None:
    import pyopencl

    class Handle:
        int_ptr = 7

        def __getattr__(self, name: str) -> Any:
            answers = {
                "extensions": extensions,
                "pci_slot_id_nv": 3 << 3 | 1,
                "pci_bus_id_nv": 10,
                "topology_amd": types.SimpleNamespace(bus=-61, device=0, function=1),
            } | attributes
            if name not in answers:
                raise pyopencl.LogicError(name, -30)
            return answers[name]

    def ask(handle: int, number: int, size: int, place: Any, _: None) -> int:
        assert (handle, number, size) == (7, 0x410F, 16)
        place[:] = (1, 0x65, 2, 3)
        return 0

    monkeypatch.setattr(opencl, "_ask", ask)
    assert opencl._pci(Handle()) == expected


def test_pyopencl_and_we_call_the_same_library(cpu: Device, opencl: Any) -> None:
    units = (ctypes.c_uint32 * 1)()
    handle = opencl._handles()[cpu.index]
    assert opencl._ask(handle.int_ptr, 0x1002, 4, units, None) == 0  # CL_DEVICE_MAX_COMPUTE_UNITS
    assert units[0] == handle.max_compute_units
    assert opencl._ask(handle.int_ptr, 0x410F, 16, (ctypes.c_uint32 * 4)(), None) != 0  # a CPU has no PCI address


def exhaust(miner: Miner, count: int) -> int:
    """Has the miner search ``count`` nonces that are not valid; how many it says it tested."""
    ended = threading.Event()
    job = Job("a", Pow.POSEIDON2, HEADER, 0, (NonceRange(0, count - 1),), Order.WALK)
    found = miner.submit(job, lambda _: ended.set())
    assert ended.wait(WAIT_S)
    assert found.status is Status.FAILED
    return miner.hashes(found)


def test_while_a_device_is_lost_others_go_on_and_it_is_told(
    cpu: Device, folder: Path, watched: list[Watched], caplog: pytest.LogCaptureFixture
) -> None:
    def open_once() -> Launcher:
        if watched:
            raise DeviceLostError("gone")
        return open_watched(cpu, folder, watched)

    engine = GpuEngine("gpu-opencl", cpu, open_once, language="opencl", blocks=1)
    engine.open()
    watched[-1].fail_at = len(watched[-1].launches)
    miner = Miner([engine, CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.02)
    miner.start()
    # One job after the other, until the device has had a slice, and lost it.
    while miner.stats().gpu_devices:
        assert exhaust(miner, 100_000) == 100_000
    stats = miner.stats()
    assert [gpu.up for gpu in stats.gpus] == [False]
    assert miner.healthy
    assert miner.supports(Pow.POSEIDON2)
    assert miner.close(WAIT_S)  # at once, though it waits for its next try
    assert "has lost its device: unplugged" in caplog.text


def test_a_miner_whose_only_device_is_lost_is_not_healthy_but_keeps_its_job(
    engine: GpuEngine, watched: list[Watched]
) -> None:
    watched[-1].fail_at = 0
    miner = Miner([engine], chunk_s=0.05)
    miner.start()
    found = miner.submit(a_job(Order.WALK, MAX), lambda _: pytest.fail("ended"))
    while miner.healthy:
        pass
    assert found.status is Status.RUNNING
    assert miner.supports(Pow.POSEIDON2)
    assert miner.close(WAIT_S)


def test_what_an_opencl_compiler_says_is_one_line(cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opencl = drivers.load("opencl")
    monkeypatch.setattr(opencl, "source", lambda _: "nonsense")
    with pytest.raises(EngineUnavailableError) as caught:
        create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=str(cpu.index)), 1)
    assert re.fullmatch(
        r"engine 'gpu-opencl' is not available: OpenCL: .+; use cpu-fast or cpu-baseline", str(caught.value)
    )


def test_a_device_that_fails_at_the_start_is_left_out_until_it_works(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)
    opencl = drivers.load("opencl")
    with monkeypatch.context() as broken:
        broken.setattr(opencl, "source", lambda _: "nonsense")
        engines = create_engines(settings(tmp_path, "gpu-opencl,cpu-fast", gpu_devices=str(cpu.index)), 1)
    assert [engine.status().fault is None for engine in engines] == [False, True]
    miner = Miner(engines, chunk_s=0.02)
    assert [gpu.up for gpu in miner.stats().gpus] == [False]
    assert miner.healthy
    miner.start()
    with caplog.at_level(logging.INFO, "miner"):
        while not miner.stats().gpu_devices:
            assert exhaust(miner, 100_000) == 100_000
    assert "has its device back" in caplog.text
    assert engines[0].status().fault is None
    assert miner.close(WAIT_S)


def test_bench_of_a_device_that_fails_says_so(engine: GpuEngine, watched: list[Watched]) -> None:
    watched[-1].fail_at = len(watched[-1].launches) + 1
    with pytest.raises(DeviceLostError, match="unplugged"):
        bench.measure(engine, Pow.POSEIDON2, 0.05, lambda *_: None)


def test_bench_of_a_hot_device_counts_the_time_that_it_worked(
    engine: GpuEngine, watched: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PAUSE_S", 0.02)
    readings = iter([70.0] * 3 + [90.0] * 5)
    engine._thermostat = Thermostat("a card", 80, lambda: next(readings, 70.0), iter(range(10**9)).__next__)
    result = bench.measure(engine, Pow.POSEIDON2, 0.5, lambda *_: None)
    assert next(readings, None) is None
    assert result.paused >= 3 * 0.02
    assert result.hash_rate == result.hashes / result.seconds
    # It goes on where it ended: each launched nonce counts once.
    tested = [offset for _, _, first, size in watched[-1].launches for offset in range(first, first + size)]
    assert len(set(tested)) == len(tested) == result.hashes
    assert re.search(r"\d s of work, \d\.\d s too hot\)", bench.row(result, []))


def test_bench_of_a_device_that_is_always_too_hot_says_so(
    engine: GpuEngine, watched: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PAUSE_S", 0.01)
    engine._thermostat = Thermostat("a card", 80, lambda: 90.0, iter(range(10**9)).__next__)
    with pytest.raises(
        DevicePausedError, match=r"did not run opencl on device .* too hot for --gpu-temp-limit all the"
    ):
        bench.measure(engine, Pow.POSEIDON2, 0.1, lambda *_: None)
    assert watched[-1].launches == []


def test_bench_ends_with_the_error_of_a_worker(engine: GpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Outcome:
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "search", fail)
    with pytest.raises(ZeroDivisionError):
        bench.measure(engine, Pow.POSEIDON2, 3600, lambda *_: None)


def test_a_binary_that_the_driver_does_not_take_is_compiled_anew(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "cached", lambda *_: b"of an older driver")
    GpuEngine(
        "gpu-opencl", cpu, partial(drivers.load("opencl").open_device, cpu, tmp_path), language="opencl", blocks=1
    ).open()


# --- which devices ---


def settings(tmp_path: Path, engine: str, **flags: str) -> Any:
    return load({"state_dir": str(tmp_path), "engine": engine, **flags}, {}, None)


def test_a_cpu_has_to_be_named(cpu: Device, tmp_path: Path) -> None:
    if unavailable_reason("gpu-opencl") is not None:
        with pytest.raises(EngineUnavailableError) as caught:
            create_engines(settings(tmp_path, "gpu-opencl"), 1)
        said = str(caught.value)
        assert said.startswith(
            "engine 'gpu-opencl' is not available: its drivers list no GPU; to mine on a CPU through it"
        )
        assert f" name its index with --gpu-devices: {cpu.index} is {cpu.name} (cpu)" in said
        assert said.endswith("; use cpu-fast or cpu-baseline")
    (engine,) = create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=str(cpu.index)), 1)
    assert (engine.name, engine.status().device, engine.workers) == ("gpu-opencl", cpu, 1)
    assert cpu.name in (engine.kernel(Pow.POSEIDON2) or "")
    assert engine.kernel(Pow.SHA3) is None


def test_devices_that_are_not_there(cpu: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EngineUnavailableError, match=rf"has no device 77, only: .*{cpu.index} is .* \(cpu\); use cpu"):
        create_engines(settings(tmp_path, "gpu-opencl", gpu_devices="77"), 1)
    # A card that fell off the bus does not keep the others from mining.
    (engine,) = create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=f"{cpu.index},ff:00.0"), 1)
    assert engine.status() == EngineStatus(cpu)
    assert caplog.messages == ["--gpu-devices: there is no device 0000:ff:00.0; mining with the others"]


def cards(monkeypatch: pytest.MonkeyPatch, listed: dict[str, list[Device] | str]) -> None:
    """Has the drivers list these, or say why they cannot."""

    def devices(name: str) -> list[Device]:
        found = listed[f"gpu-{name}"]
        if isinstance(found, str):
            raise DriverError(found)
        return found

    monkeypatch.setattr(
        drivers, "load", lambda name: types.SimpleNamespace(devices=lambda: devices(name), open_device=min)
    )
    monkeypatch.setattr(GpuEngine, "open", lambda _: None)


def engines_of(tmp_path: Path, names: str, **flags: str) -> list[tuple[str, str | None]]:
    engines = create_engines(settings(tmp_path, names, **flags), 1)
    return [(engine.name, device.name if (device := engine.status().device) else None) for engine in engines]


def card(index: int, name: str, pci: str | None, platform: str) -> Device:
    return Device(index, name, "gpu", pci, "1", platform)


def test_a_card_is_worked_by_one_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = "0000:01:00.0", "0000:02:00.0"
    cards(
        monkeypatch,
        {
            "gpu-cuda": [card(0, "one", first, "CUDA")],
            "gpu-opencl": [
                card(0, "one", first, "NVIDIA CUDA"),
                card(1, "two", second, "rusticl"),
                card(2, "two", second, "AMD"),
                card(3, "three", None, "AMD"),
                card(4, "three", None, "AMD"),
                card(5, "part", "0000:03:00.0", "Intel"),
                card(6, "part", "0000:03:00.0", "Intel"),
            ],
        },
    )
    cuda, rest = ("gpu-cuda", "one"), [("gpu-opencl", name) for name in ("two", "three", "three", "part", "part")]
    assert engines_of(tmp_path, "gpu-cuda,gpu-opencl") == [cuda, *rest]
    assert engines_of(tmp_path, "gpu-opencl,gpu-cuda") == [("gpu-opencl", "one"), *rest]
    assert engines_of(tmp_path, "gpu-cuda,gpu-opencl", gpu_devices="0,1,2") == [cuda, rest[0]]
    assert engines_of(tmp_path, "gpu-cuda,gpu-opencl", gpu_devices="02:00.0,01:00.0") == [cuda, rest[0]]
    assert engines_of(tmp_path, "gpu-cuda,gpu-opencl", gpu_devices="0") == [cuda]


@pytest.mark.parametrize(
    ("broken", "running"),
    [
        (set(), [("gpu-cuda", None)]),
        ({"CUDA"}, [("gpu-opencl", None)]),
        ({"CUDA", "NVIDIA CUDA"}, [("gpu-opencl", None)]),
        ({"CUDA", "NVIDIA CUDA", "other"}, [("gpu-cuda", "broken"), ("cpu-baseline", None)]),
    ],
)
def test_a_card_that_one_driver_cannot_use_is_worked_by_another(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: set[str],
    running: list[tuple[str, str | None]],
) -> None:
    address = "0000:01:00.0"
    platforms = [card(index, "one", address, platform) for index, platform in enumerate(("NVIDIA CUDA", "other"))]
    cards(monkeypatch, {"gpu-cuda": [card(0, "one", address, "CUDA")], "gpu-opencl": platforms})

    def open_device(engine: GpuEngine) -> None:
        if engine.device.platform in broken:
            engine.fault = "broken"
            raise DeviceLostError("broken")

    monkeypatch.setattr(GpuEngine, "open", open_device)
    names = "gpu-cuda,gpu-opencl" + ",cpu-baseline" * (len(running) - 1)
    engines = create_engines(settings(tmp_path, names), 1)
    assert [(engine.name, engine.status().fault) for engine in engines] == running
    assert len(caplog.messages) == len(broken) - (running[0][1] is not None)
    assert all(re.fullmatch(r"Engine \S+ leaves device \d, one to gpu-\S+: broken", text) for text in caplog.messages)


@pytest.mark.parametrize(
    ("names", "running"),
    [
        ("gpu-cuda,gpu-opencl", [("gpu-cuda", "one")]),
        ("gpu-opencl,gpu-cuda", [("gpu-cuda", "one")]),
        ("gpu-opencl,cpu-baseline", [("cpu-baseline", None)]),
    ],
)
def test_an_engine_without_a_device_is_left_out_if_another_runs(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    names: str,
    running: list[tuple[str, str | None]],
) -> None:
    cards(
        monkeypatch,
        {"gpu-cuda": [card(0, "one", "0000:01:00.0", "CUDA")], "gpu-opencl": "no OpenCL driver is installed"},
    )
    assert engines_of(tmp_path, names) == running
    assert caplog.messages == ["Engine gpu-opencl is left out: no OpenCL driver is installed"]


def test_if_no_engine_can_run_each_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cards(monkeypatch, {"gpu-cuda": "the NVIDIA driver is not installed", "gpu-opencl": []})
    with pytest.raises(EngineUnavailableError) as caught:
        engines_of(tmp_path, "gpu-cuda,gpu-opencl")
    assert str(caught.value) == (
        "engine 'gpu-cuda' is not available: the NVIDIA driver is not installed;"
        " engine 'gpu-opencl' is not available: its drivers list no GPU; use cpu-fast or cpu-baseline"
    )


@pytest.mark.parametrize(
    ("name", "module"), [("gpu-cuda", "cuda.bindings"), ("gpu-opencl", "pyopencl")], ids=["cuda", "opencl"]
)
@pytest.mark.parametrize("where", ["venv", "service", "package"])
def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, module: str, where: str
) -> None:
    extra = name.removeprefix("gpu-")
    for missing in (module, drivers.MODULES[extra]):
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setitem(drivers.MODULES, "opencl" if extra == "cuda" else "cuda", "json")  # is there
    monkeypatch.delitem(sys.modules, f"quantus_miner.gpu.{extra}", raising=False)
    monkeypatch.delattr(f"quantus_miner.gpu.{extra}", raising=False)
    monkeypatch.setitem(sys.modules, "pip", None if where == "package" else drivers)
    if where == "service":
        monkeypatch.setattr(sys, "prefix", drivers.SERVICE_PREFIX)
        hint = "to add it to the service, run `sudo make install EXTRAS=cuda,opencl` in the miner's source folder"
    elif where == "package":
        hint = f"to add it, install a package, an image or a bundle that was made with EXTRAS={extra}"
    else:
        hint = f"to add it, run `{sys.executable} -m pip install '.[{extra}]'` in the miner's source folder"
    with pytest.raises(EngineUnavailableError) as caught:
        create_engines(settings(tmp_path, name), 1)
    assert re.fullmatch(
        rf"engine '{name}' is not available: \S+ is missing; {re.escape(hint)}; use cpu-fast or cpu-baseline",
        str(caught.value),
    )


def test_the_service_is_where_the_hint_looks_for_it() -> None:
    script = (Path(__file__).parents[1] / "systemd" / "install").read_text()
    assert f"\nhome={drivers.SERVICE_PREFIX}\n" in script


def test_a_card_without_a_thermometer_takes_no_limit(cpu: Device, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"--gpu-temp-limit: device {cpu.index}, .* does not report its temperature"):
        create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=str(cpu.index), gpu_temp_limit="80"), 1)


@pytest.mark.parametrize("text", ["x", "all,0", "0,", "1000", "1:2:3", "01:00.8", "0-3"])
def test_malformed_devices_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"--gpu-devices: .* is not allowed; allowed: all, or indices and PCI"):
        load({"gpu_devices": text}, {}, None)


def test_devices_are_chosen_by_index_or_address() -> None:
    assert load({"gpu_devices": " 2, 0000:65:00.0,0A:00.1 ,2"}, {}, None).gpu_devices == (
        "2",
        "0000:65:00.0",
        "0000:0a:00.1",
    )


def test_devices_lists_them(cpu: Device) -> None:
    assert f"    {cpu.index}: {cpu.name} (cpu, PCI ?, driver {cpu.driver})" in list(lines(look()))


# --- other options while it works ---


def test_duty_and_limit_change_while_the_device_works(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"engine": "gpu-opencl", "gpu_devices": str(cpu.index)}
    (engine,) = engines = create_engines(settings(tmp_path, **flags), 0)
    assert isinstance(engine, GpuEngine)
    launcher = engine._launcher
    with pytest.raises(SettingError, match=r"--gpu-temp-limit: .* does not report its temperature"):
        update_engines(engines, settings(tmp_path, **flags, gpu_duty="50", gpu_temp_limit="80"), 0)
    assert (engine._duty, engine._thermostat) == (100, None)
    monkeypatch.setattr(Telemetry, "temperature", lambda *_: 79.0)
    miner = Miner(engines, chunk_s=0.02)
    miner.start()
    search = miner.submit(
        Job("a", Pow.POSEIDON2, HEADER, 0, (NonceRange(0, MAX),), Order.COUNTING), lambda _: pytest.fail("ended")
    )
    for duty, limit in ((50, 80), (50, 90), (100, 79), (30, None)):
        more = {} if limit is None else {"gpu_temp_limit": str(limit)}
        assert update_engines(engines, settings(tmp_path, **flags, gpu_duty=str(duty), **more), 0) == engines
        miner.set_engines(engines)
        assert engine._duty == duty
        if limit == 79:
            assert engine._thermostat is not None
            while not engine._thermostat._hot:
                pass
        else:
            before = miner.hashes(search)
            while miner.hashes(search) == before:
                pass
    assert engine._thermostat is None
    assert engine._launcher is launcher
    assert miner.close(WAIT_S)


def test_a_device_that_is_not_wanted_any_more_is_let_go(cpu: Device, folder: Path, watched: list[Watched]) -> None:
    engine = GpuEngine("gpu-opencl", cpu, partial(open_watched, cpu, folder, watched), language="opencl", blocks=1)
    engine.open()
    miner = Miner([engine], chunk_s=0.05)
    miner.start()
    ended = threading.Event()
    search = miner.submit(
        Job("a", Pow.POSEIDON2, HEADER, 0, (NonceRange(0, 299_999),), Order.WALK), lambda _: ended.set()
    )
    while not miner.hashes(search):
        pass
    miner.set_engines([CpuEngine("cpu-fast", 1, fast_kernels(None))])
    assert ended.wait(WAIT_S)
    assert miner.hashes(search) == 300_000
    assert miner.stats().gpus == ()
    assert miner.close(WAIT_S)
    assert watched[-1].closed


# --- what is kept ---


def test_a_compiled_kernel_is_kept_until_anything_changes(tmp_path: Path) -> None:
    built: list[bytes] = []

    def build() -> bytes:
        built.append(b"\x7fELF%d" % len(built))
        return built[-1]

    def cached(*identity: str) -> bytes:
        return binaries.cached(tmp_path / "gpu", "cuda sm_89/x", identity, build)

    assert cached("source", "12.9") == cached("source", "12.9") == b"\x7fELF0"
    assert cached("source", "13.0") == b"\x7fELF1"
    (path,) = (tmp_path / "gpu").iterdir()
    for damage in (b"", b"x" * 10, path.read_bytes()[:-1], bytes(32) + path.read_bytes()[32:]):
        path.write_bytes(damage)
        assert cached("source", "13.0") == built[-1]
        assert cached("source", "13.0") == built[-1]
    assert len(built) == 6


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "gpu").write_text("a file, not a folder")
    assert binaries.cached(tmp_path / "gpu", "x", ("y",), lambda: b"z") == b"z"


def test_what_was_tuned_is_kept_for_the_device_and_its_driver(tmp_path: Path) -> None:
    card, newer = Device(0, "card", "gpu", None, "1"), Device(0, "card", "gpu", None, "2")
    assert tuning.load(tmp_path, "gpu-cuda", card) == tuning.BLOCKS
    tuning.save(tmp_path, "gpu-cuda", card, 16)
    tuning.save(tmp_path, "gpu-cuda", newer, 3)
    assert tuning.load(tmp_path, "gpu-cuda", card) == 16
    assert tuning.load(tmp_path, "gpu-cuda", newer) == 3
    assert tuning.load(tmp_path, "gpu-opencl", card) == tuning.BLOCKS
    for damage in (
        "",
        "[]",
        '{"gpu-cuda: card, 1": "x"}',
        '{"gpu-cuda: card, 1": 1000000}',
        "\u00e9",
        '{"gpu-cuda: card, 1": 8.0}',
        "[" * 5000,
    ):
        (tmp_path / "gpu" / "tuning.json").write_text(damage)
        blocks = tuning.load(tmp_path, "gpu-cuda", card)
        assert (type(blocks), blocks) == (int, tuning.BLOCKS)


def test_bench_tunes_and_the_service_takes_it(cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--engine", "gpu-opencl", "--gpu-devices", str(cpu.index), "--state-dir", str(tmp_path))
    ended = run("bench", *flags, "--tune", "--seconds", "0.1")
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"  gpu-opencl +\S+ .H/s  \(qpow-poseidon2, kernel opencl on device .*\)\n", ended.stdout)
    tried = [int(blocks) for blocks in re.findall(r"^ +(\d+) blocks a multiprocessor", ended.stderr, re.MULTILINE)]
    assert tried == list(tuning.CANDIDATES)
    (engine,) = create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=str(cpu.index)), 1)
    assert isinstance(engine, GpuEngine)
    kept = tuning.load(tmp_path, "gpu-opencl", cpu)
    assert engine.blocks == kept
    assert str(kept) in (tmp_path / "gpu" / "tuning.json").read_text()

    rates = dict.fromkeys(tuning.CANDIDATES, 100.0) | {4: 100.2, 16: 110.0, 64: 110.1}

    def measured(engine: GpuEngine, *_: object) -> bench.BenchResult:
        return bench.BenchResult("e", "k", "p", 1, 1, 1.0, rates[engine.blocks], 0.0)

    monkeypatch.setattr(bench, "measure", measured)
    assert bench.tune(engine, 1.0, lambda *_: None) == engine.blocks == 16


def test_bench_leaves_out_an_engine_without_a_device() -> None:
    ended = run("bench", "--engine", "gpu-opencl,cpu-baseline", "--gpu-devices", "77", "--seconds", "0.1")
    assert ended.returncode == 0
    assert re.fullmatch(r"  cpu-baseline .*\n", ended.stdout)
    assert re.fullmatch(r"quantus-miner: engine 'gpu-opencl' is not available: .*\n", ended.stderr)


def test_tune_is_for_gpus() -> None:
    ended = run("bench", "--tune", "--engine", "cpu-baseline", "--seconds", "0.1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "quantus-miner: --tune goes with --engine gpu-cuda or gpu-opencl\n"


# --- in the service ---


def mine(miner: MinerProcess, job_id: str, **fields: str) -> tuple[int, Any]:
    return miner.call("POST", "/mine", {"job_id": job_id, "mining_hash": "07" * 32, **fields})


def test_a_miner_with_a_gpu_and_no_cpu_engine(cpu: Device) -> None:
    flags = ("--port", "0", "--metrics-port", "0", "--engine", "gpu-opencl", "--gpu-devices", str(cpu.index))
    with MinerProcess(*flags) as miner:
        miner.wait_for_line(f"Engine gpu-opencl searches qpow-poseidon2 with kernel opencl on device {cpu.index}")
        assert not any("--workers" in line for line in miner.log)
        assert mine(miner, "a", difficulty="20000")[0] == 200
        result = miner.result("a")
        assert result["status"] == "completed"
        checked = run("verify", "--difficulty", "20000", "--header", "07" * 32, "--nonce", result["nonce"])
        assert checked.returncode == 0
        code, refusal = mine(miner, "b", distance_threshold="1", nonce_start="00" * 64, nonce_end="ff" * 64)
        assert (code, refusal["message"]) == (400, "no engine here searches qpow-sha3")
        samples = miner.metrics()
        assert samples["miner_gpu_devices", frozenset()] == samples["miner_workers", frozenset()] == 1
        labels = frozenset({("device", str(cpu.index)), ("engine", "gpu-opencl")})
        assert samples["miner_gpu_up", labels] == 1
        assert samples["miner_gpu_false_positives_total", labels] == 0
        assert samples["miner_gpu_info", labels | {("name", cpu.name)}] == 1
        assert not any(name == "miner_gpu_temperature_celsius" for name, _ in samples)
        # Stopped while it works.
        assert mine(miner, "c", difficulty=str(MAX))[0] == 200
        while not miner.metrics()["miner_gpu_hash_rate", frozenset()]:
            pass
        assert miner.stop() == 0


def test_a_gpu_that_fails_at_the_start_does_not_keep_the_service_down(cpu: Device, tmp_path: Path) -> None:
    # Compilers of drivers fail in many ways; this one gets nothing that it could compile.
    (tmp_path / "sitecustomize.py").write_text("from quantus_miner.gpu import opencl\nopencl.source = lambda _: '?'\n")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    flags = ("--engine", "gpu-opencl,cpu-fast", "--gpu-devices", str(cpu.index), "--workers", "1")
    with MinerProcess(*flags, "--port", "0", "--metrics-port", "0", PYTHONPATH=path) as miner:
        line = miner.wait_for_line("Engine gpu-opencl cannot use device")
        assert f"device {cpu.index}, {cpu.name}, and tries again while there is work: OpenCL: " in line
        assert not any("Engine gpu-opencl searches" in line for line in miner.log)
        assert mine(miner, "a", difficulty="20000")[0] == 200
        assert miner.result("a")["status"] == "completed"
        samples = miner.metrics()
        assert samples["miner_gpu_up", frozenset({("device", str(cpu.index)), ("engine", "gpu-opencl")})] == 0
        assert samples["miner_gpu_devices", frozenset()] == 0
        assert miner.stop() == 0


def test_two_gpus_and_a_cpu_engine_share_a_job(cpu: Device) -> None:
    devices = f"{cpu.index},{cpu.index + 1}"
    flags = ("--engine", "gpu-opencl,cpu-fast", "--gpu-devices", devices, "--workers", "1", "--kernel", "scalar")
    more = ("--port", "0", "--metrics-port", "0", "--progress-chunk-ms", "20")
    with MinerProcess(*flags, *more, POCL_DEVICES="pthread pthread") as miner:
        last = 400_000
        job = {"difficulty": str(MAX), "nonce_start": f"{1:0128x}", "nonce_end": f"{last:0128x}"}
        assert mine(miner, "a", **job)[0] == 200
        result = miner.result("a")
        assert (result["status"], result["hash_count"]) == ("failed", last)
        samples = miner.metrics()
        assert samples["miner_gpu_devices", frozenset()] == 2
        by_worker = {
            (dict(labels)["engine"], dict(labels)["thread_id"]): value
            for (name, labels), value in samples.items()
            if name == "miner_thread_hashes_total"
        }
        assert by_worker.keys() == {("gpu-opencl", "0"), ("gpu-opencl", "1"), ("cpu-fast", "2")}
        assert all(by_worker.values())
        assert sum(by_worker.values()) == last
        # What the GPU cannot, the CPU does.
        assert mine(miner, "b", distance_threshold=str(MAX), nonce_start="00" * 64, nonce_end="ff" * 64)[0] == 200
        assert miner.result("b")["status"] == "completed"
        assert miner.stop() == 0


# --- telemetry ---


def test_without_nvml_there_are_no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nothing = Telemetry()
    assert nothing.read("0000:01:00.0", WAIT_S) is None
    assert nothing.temperature("0000:01:00.0", WAIT_S) is None


def test_readings_have_our_units_and_what_a_card_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def refuse(*_: object) -> float:
        raise NVMLError

    def by_address(pci: bytes) -> str:
        return "card" if pci == b"0000:01:00.0" else str(refuse())

    nvml = types.ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=by_address,
        nvmlDeviceGetTemperature=lambda _, sensor: 61 + sensor,
        nvmlDeviceGetPowerUsage=lambda _: 420_500,
        nvmlDeviceGetClockInfo=lambda _, clock: 2520 if clock == 1 else 10_501,
        nvmlDeviceGetFanSpeed=refuse,
        nvmlDeviceGetUtilizationRates=lambda _: types.SimpleNamespace(gpu=99),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    cards = telemetry.Telemetry()
    assert cards.read("0000:01:00.0", WAIT_S) == Readings(61, 420.5, 2.52e9, 10.501e9, None, 0.99)
    assert cards.read("0000:02:00.0", WAIT_S) is None
    assert cards.read(None) is None


# --- CUDA, without a card ---


@pytest.fixture(scope="module")
def cuda() -> Any:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings has no wheel for this platform")
    driver = pytest.importorskip("quantus_miner.gpu.cuda")
    try:
        driver.nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("NVRTC has no wheel for this platform")
    return driver


@pytest.mark.parametrize("arch", ["sm_75", "sm_120"])
def test_nvrtc_makes_a_cubin(cuda: Any, arch: str) -> None:
    cubin = cuda.compile_for(arch)
    assert cubin.startswith(b"\x7fELF")
    assert b"search_walk" in cubin
    assert b"search_counting" in cubin


@pytest.mark.parametrize("number", [900, 102])
def test_a_card_that_nvrtc_does_not_know_gets_ptx(cuda: Any, number: int) -> None:
    known = cuda.done(cuda.nvrtc.nvrtcGetSupportedArchs())
    older = f"sm_{max(other for other in known if other < number)}"
    ptx = cuda.compile_for(f"sm_{number}")
    assert f"\n.target {older}\n".encode() in ptx
    assert ptx.count(b".visible .entry search_") == 2
    assert ptx.endswith(b"\0")  # as the driver wants it


def test_what_nvrtc_says_is_one_line(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceLostError, match=r"NVRTC cannot compile for sm_1: .*invalid value for --gpu-architecture"):
        cuda.compile_for("sm_1")
    monkeypatch.setattr(cuda, "source", lambda _: "nonsense")
    with pytest.raises(DeviceLostError, match=r"NVRTC cannot compile for sm_89: .*error") as caught:
        cuda.compile_for("sm_89")
    assert "\n" not in str(caught.value)


def test_the_calls_of_the_cuda_driver(cuda: Any, tmp_path: Path) -> None:
    """Against a driver of our own, ``cuda_driver.c``, for no real one runs without a card."""
    library = tmp_path / "libcuda.so.1"
    compiler = os.environ.get("CC", "cc")
    source = Path(__file__).with_name("cuda_driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", library, "-ldl"], check=True)
    cuda.kernels_for("sm_89", tmp_path / "gpu")  # kept, for the real NVRTC does not go with that driver
    ended = subprocess.run(
        [sys.executable, "-c", DRIVE_CUDA, str(tmp_path / "gpu")],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "0 Card 0 gpu 0000:65:00.0 CUDA 12.8",
        "1 Card 1 gpu 0000:66:00.0 CUDA 12.8",
        # By its address, whatever its index is now.
        "DeviceLostError('CUDA: CUDA_ERROR_INVALID_VALUE')",
        "132 multiprocessors",
        # Offsets that the driver's kernel takes for candidates: multiples of 1000 for walks, of 7 for the others.
        "Readout(seconds=0.0015, candidates=3, offsets=[1000, 2000, 3000])",
        "Readout(seconds=0.0015, candidates=1, offsets=[4294967292])",
        f"candidates 1001, of which {MAX_HITS} are kept, the first 0",
        "DeviceLostError('CUDA: CUDA_ERROR_LAUNCH_FAILED')",
        "Readout(seconds=0.0015, candidates=1, offsets=[0])",
    ]


DRIVE_CUDA = """
import sys, threading
from dataclasses import replace
from pathlib import Path
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import cuda
from quantus_miner.model import Order

words, folder = tuple(2**64 - 1 - i for i in range(14)), Path(sys.argv[1])
devices = cuda.devices()
for device in devices:
    print(device.index, device.name, device.kind, device.pci, device.driver)
try:
    cuda.open_device(replace(devices[1], pci="0000:67:00.0"), folder)
except DeviceLostError as error:
    print(repr(error))
launcher = cuda.open_device(replace(devices[1], index=0), folder)
print(launcher.multiprocessors, "multiprocessors")
launcher.launch(Order.WALK, words, 2**64 - 100, 1, 3000, 5)
launcher.launch(Order.COUNTING, words, 2**64 - 100, 2**32 - 10, 10, 1)
# In another thread than the one that opened it.
thread = threading.Thread(target=lambda: print(launcher.collect(), launcher.collect(), sep="\\n"))
thread.start()
thread.join()
launcher.launch(Order.WALK, words, 2**64 - 100, 0, 1000001, 2**20)
_, candidates, offsets = launcher.collect()
print(f"candidates {candidates}, of which {len(offsets)} are kept, the first {offsets[0]}")
try:
    launcher.launch(Order.WALK, words, 2**64 - 100, 0, 666, 1)  # which the driver's card does not survive
    launcher.collect()
except DeviceLostError as error:
    print(repr(error))
launcher.close()
launcher = cuda.open_device(devices[1], folder)
launcher.launch(Order.WALK, words, 2**64 - 100, 0, 10, 1)
print(launcher.collect())
"""


def test_without_a_driver_cuda_says_so(cuda: Any) -> None:
    if unavailable_reason("gpu-cuda") is None:
        pytest.skip("there is a CUDA card here")
    with pytest.raises(DriverError, match="the NVIDIA driver"):
        cuda.devices()
