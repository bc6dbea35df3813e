"""Engines: self test, names, kernels, and the throttle."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from quantus_miner import native
from quantus_miner.backends import autotune
from quantus_miner.backends.base import Control, EngineStatus
from quantus_miner.backends.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.backends.registry import create_engines
from quantus_miner.backends.selftest import self_test
from quantus_miner.backends.throttled import ThrottledEngine
from quantus_miner.errors import EngineUnavailableError, SettingError
from quantus_miner.model import MAX, Job, NonceRange, Pow
from quantus_miner.native import Outcome
from quantus_miner.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.backends.base import Engine

JOB = Job("a", Pow.POSEIDON2, bytes(32), 0, (NonceRange(0, MAX),))


def settings(tmp_path: Path, **flags: str) -> Settings:
    return load({"state_dir": str(tmp_path), **flags}, {}, None)


def throttled(tmp_path: Path, *, step_batch: int = 10, solved_blocks: int | None = 3, cap: int = 0) -> ThrottledEngine:
    return ThrottledEngine(
        "cpu-chain-manipulator",
        CpuEngine("cpu-fast", 1, fast_kernels(None)),
        solved_blocks=solved_blocks,
        base_delay_ns=500_000,
        step_batch=step_batch,
        throttle_cap=cap,
        state_file=tmp_path / "state" / "solved-blocks",
    )


class CountingControl(Control):
    """Writes down the sleeps instead of sleeping; stopped at the given one."""

    def __init__(self, stop_at: int = 2**30) -> None:
        super().__init__()
        self.sleeps: list[tuple[int, float]] = []
        self._stop_at = stop_at

    def sleep(self, seconds: float) -> bool:
        self.sleeps.append((self.hashes, seconds))
        return len(self.sleeps) >= self._stop_at


@pytest.mark.parametrize("name", ["cpu-fast", "cpu-baseline", "cpu-chain-manipulator"])
def test_cpu_engines_pass_their_self_test(tmp_path: Path, name: str) -> None:
    (engine,) = create_engines(settings(tmp_path, engine=name), 2)
    assert (engine.name, engine.status(), engine.workers) == (name, EngineStatus(), 2)
    assert {engine.kernel(pow_) for pow_ in Pow} <= {kernel.name for kernel in native.kernels()}


def test_several_engines_share_the_workers(tmp_path: Path) -> None:
    engines = create_engines(settings(tmp_path, engine="cpu-baseline,cpu-fast"), 3)
    assert [(engine.name, engine.workers) for engine in engines] == [("cpu-baseline", 2), ("cpu-fast", 1)]
    with pytest.raises(SettingError, match="2 CPU engines need 2 workers, there are 1"):
        create_engines(settings(tmp_path, engine="cpu-baseline,cpu-fast"), 1)


def test_a_kernel_can_be_named(tmp_path: Path) -> None:
    (engine,) = create_engines(settings(tmp_path, kernel="scalar"), 1)
    assert {engine.kernel(pow_) for pow_ in Pow} == {"scalar"}
    with pytest.raises(SettingError, match=r"there is no kernel 'avx9'; allowed: .*scalar"):
        create_engines(settings(tmp_path, kernel="avx9"), 1)


def test_a_kernel_that_the_processor_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [replace(kernel, supported=kernel.name != "scalar") for kernel in native.kernels()]
    monkeypatch.setattr(native, "kernels", lambda: tuple(known))
    with pytest.raises(EngineUnavailableError, match="kernel 'scalar' is not available"):
        fast_kernels("scalar")


@pytest.mark.parametrize("fault", [Outcome(1, None), Outcome(255, None), Outcome(1, 0xFFFFFF81)])
def test_a_kernel_that_finds_the_wrong_nonce_fails_the_self_test(
    monkeypatch: pytest.MonkeyPatch, fault: Outcome
) -> None:
    engine = CpuEngine("cpu-fast", 1, baseline_kernels())
    monkeypatch.setattr(engine, "search", lambda *_: fault)
    with pytest.raises(EngineUnavailableError, match="kernel baseline fails the self test"):
        self_test(engine)


def test_the_throttle_sleeps_after_each_batch_also_across_slices(tmp_path: Path) -> None:
    engine, control = throttled(tmp_path), CountingControl()
    for start, count in ((0, 25), (25, 4), (29, 12)):
        assert engine.search(JOB, start, count, control) == Outcome(count, None)
    assert control.sleeps == [(10, 0.0015), (20, 0.0015), (30, 0.0015), (40, 0.0015)]


def test_a_stop_ends_the_throttle_s_sleep(tmp_path: Path) -> None:
    engine, control = throttled(tmp_path), CountingControl(stop_at=2)
    assert engine.search(JOB, 0, 1000, control) == Outcome(20, None)

    engine = throttled(tmp_path, solved_blocks=10**9)  # six days a sleep
    real = Control()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(engine.search(JOB, 0, 1000, real)))
    thread.start()
    while real.hashes < 10:
        pass
    real.stop()
    thread.join(20)
    assert outcomes == [Outcome(10, None)]


def test_the_throttle_ends_at_a_hit(tmp_path: Path) -> None:
    job = Job("a", Pow.POSEIDON2, bytes(32), MAX, (NonceRange(0, MAX),))
    assert throttled(tmp_path).search(job, 1, 100, CountingControl()) == Outcome(1, 1)


def test_a_hit_at_the_end_of_a_batch_is_followed_by_the_sleep_that_is_due(tmp_path: Path) -> None:
    job = Job("a", Pow.POSEIDON2, bytes(32), MAX, (NonceRange(0, MAX),))
    engine, control = throttled(tmp_path, step_batch=1), CountingControl()
    assert [engine.search(job, start, 100, control) for start in (1, 2, 3)] == [(1, 1), (1, 2), (1, 3)]
    assert len(control.sleeps) == 2


@pytest.mark.parametrize(("cap", "delay"), [(0, 0.0015), (2, 0.001), (10, 0.0015)])
def test_the_cap_limits_the_sleep(tmp_path: Path, cap: int, delay: float) -> None:
    assert throttled(tmp_path, cap=cap).delay == delay


def test_solved_blocks_survive_a_restart_unless_the_setting_is_given(tmp_path: Path) -> None:
    engine = throttled(tmp_path, solved_blocks=None)
    assert engine.solved_blocks == 0
    assert engine.delay == 0
    for _ in range(3):
        engine.on_job_solved()
    assert throttled(tmp_path, solved_blocks=None).solved_blocks == 3
    assert throttled(tmp_path, solved_blocks=0).solved_blocks == 0


@pytest.mark.parametrize("content", [b"", b"-3", b"x", b"\xff", b"9" * 1000])
def test_a_damaged_state_file_costs_the_count_not_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "solved-blocks").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert throttled(tmp_path, solved_blocks=None).solved_blocks == 0
    assert "starting at 0" in caplog.text


def test_white_space_around_the_count_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "solved-blocks").write_bytes(b"\x1f 7\n")  # int() takes less for white space than strip()
    assert throttled(tmp_path, solved_blocks=None).solved_blocks == 7


def test_a_state_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    engine = throttled(tmp_path, solved_blocks=1)
    with caplog.at_level(logging.WARNING):
        engine.on_job_solved()
    assert engine.solved_blocks == 2
    assert "Cannot keep the count" in caplog.text


def adapt(engine: Engine, options: Settings, workers: int) -> bool:
    """Have ``engine`` take over ``options`` if it can."""
    change = engine.adapt(options, workers)
    if change is not None:
        change()
    return change is not None


def test_cpu_engines_take_over_another_number_of_workers_but_no_other_kernel(tmp_path: Path) -> None:
    (fast,), (baseline,) = (
        create_engines(settings(tmp_path, engine=f"cpu-{name}"), 2) for name in ("fast", "baseline")
    )
    assert [adapt(engine, settings(tmp_path), 5) for engine in (fast, baseline)] == [True, True]
    assert [engine.workers for engine in (fast, baseline)] == [5, 5]
    scalar = settings(tmp_path, kernel="scalar")
    assert [adapt(engine, scalar, 3) for engine in (fast, baseline)] == [False, True]
    assert [engine.workers for engine in (fast, baseline)] == [5, 3]


def test_the_throttle_takes_over_its_options_and_counts_on(tmp_path: Path) -> None:
    flags = {"engine": "cpu-chain-manipulator", "manip_solved_blocks": "4"}
    (engine,) = create_engines(settings(tmp_path, **flags), 1)
    assert isinstance(engine, ThrottledEngine)
    engine.on_job_solved()
    flags |= {"manip_base_delay_ns": "1000000", "manip_step_batch": "5", "kernel": "scalar"}
    change = engine.adapt(settings(tmp_path, **flags), 2)
    assert (engine.delay, engine.workers) == (0.0025, 1)  # until it is called
    assert change is not None
    change()
    assert (engine.delay, engine.workers, engine.solved_blocks) == (0.005, 2, 5)
    assert {engine.kernel(pow_) for pow_ in Pow} == {"scalar"}
    control = CountingControl()
    assert engine.search(JOB, 0, 11, control) == Outcome(11, None)
    assert control.sleeps == [(5, 0.005), (10, 0.005)]
    assert adapt(engine, settings(tmp_path, **flags, manip_throttle_cap="2"), 2)
    assert engine.delay == 0.002
    assert adapt(engine, settings(tmp_path, **flags | {"manip_solved_blocks": "1"}), 2)
    assert (engine.solved_blocks, engine.delay) == (1, 0.001)
    with pytest.raises(SettingError, match="there is no kernel 'avx9'"):
        engine.adapt(settings(tmp_path, **flags | {"kernel": "avx9"}), 7)
    assert engine.workers == 2
    assert not adapt(engine, settings(tmp_path / "other", **flags), 2)


def test_a_throttle_that_is_closed_counts_no_more(tmp_path: Path) -> None:
    old, new = throttled(tmp_path, solved_blocks=3), throttled(tmp_path, solved_blocks=7)
    old.close()
    new.on_job_solved()
    old.on_job_solved()
    assert throttled(tmp_path, solved_blocks=None).solved_blocks == 8


def test_other_options_end_the_throttle_s_sleep(tmp_path: Path) -> None:
    flags = {"engine": "cpu-chain-manipulator", "manip_step_batch": "10"}
    (engine,) = create_engines(settings(tmp_path, **flags, manip_solved_blocks=str(10**9)), 1)  # six days a sleep
    outcomes: list[Outcome] = []
    control = Control()
    thread = threading.Thread(target=lambda: outcomes.append(engine.search(JOB, 0, 1000, control)))
    thread.start()
    while not control.sleeping:
        pass
    assert adapt(engine, settings(tmp_path, **flags, manip_solved_blocks="0"), 1)
    thread.join(20)
    assert outcomes == [Outcome(10, None)]
    control.reset()
    assert engine.search(JOB, 10, 990, control) == Outcome(990, None)


def test_the_fastest_kernels_are_measured_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state" / "kernels.json"
    chosen = autotune.fastest_kernels(state)
    assert all(chosen[pow_].pow is pow_ and chosen[pow_].supported for pow_ in Pow)
    monkeypatch.setattr(autotune, "_measure", lambda _: pytest.fail("measured again"))
    assert autotune.fastest_kernels(state) == chosen


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"identity": 1}', '{"identity": "x", "kernels": {}}', "\u00e9", "[" * 9999]
)
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, content: str) -> None:
    state = tmp_path / "kernels.json"
    state.write_text(content)
    assert set(autotune.fastest_kernels(state)) == set(Pow)
    assert '"identity"' in state.read_text()


def test_another_kernel_is_chosen_only_if_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("baseline", "scalar", "avx2", "avx512vl", "avx512x2", "avx512")
    kernels = [native.Kernel(index, Pow.SHA3, name, True) for index, name in enumerate(names)]
    speeds = {"avx2": 90.0, "avx512vl": 95.0, "avx512x2": 103.0, "avx512": 100.0}
    monkeypatch.setattr(autotune, "speed", lambda kernel: speeds[kernel.name])
    assert autotune._measure(kernels).name == "avx512"
    speeds["avx512x2"] = 110.0
    assert autotune._measure(kernels).name == "avx512x2"
    speeds["avx2"] = 120.0
    assert autotune._measure(kernels).name == "avx2"
    speeds["scalar"] = 130.0
    assert autotune._measure(kernels[:3]).name == "scalar"
    monkeypatch.setattr(autotune, "speed", lambda _: pytest.fail("measured without a rival"))
    assert autotune._measure(kernels[:2]).name == "scalar"
