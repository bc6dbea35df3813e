"""The command bench with GPU engines, and what it tunes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from quantus_miner import bench
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.registry import create_engines
from quantus_miner.errors import DeviceLostError, DevicePausedError
from quantus_miner.gpu import tuning
from quantus_miner.gpu.telemetry import Thermostat
from quantus_miner.model import Pow

from ..test_commands import run
from .harness import Watched, settings

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device
    from quantus_miner.native import Outcome


def test_bench_of_a_device_that_fails_says_so(engine: GpuEngine, watched: list[Watched]) -> None:
    watched[-1].fail_at = len(watched[-1].launches) + 1
    with pytest.raises(DeviceLostError, match="unplugged"):
        bench.measure(engine, Pow.POSEIDON2, 0.05, lambda *_: None)


def test_bench_of_a_hot_device_counts_the_time_that_it_worked(
    engine: GpuEngine, watched: list[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PAUSE_S", 0.02)
    # Hot before the first launch, so that a machine too slow for a second one pauses as well.
    readings = iter([90.0] * 3 + [70.0] * 2 + [90.0] * 3)
    engine._thermostat = Thermostat("a card", 80, lambda: next(readings, 70.0), iter(range(10**9)).__next__)
    result = bench.measure(engine, Pow.POSEIDON2, 0.5, lambda *_: None)
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
