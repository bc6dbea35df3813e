"""Devices that are lost, at the start or while they work, and come back."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.backends.registry import create_engines
from quantus_miner.backoff import Backoff
from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import drivers
from quantus_miner.gpu.device import Device, DriverError, Launcher
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Order, Pow, Status

from .harness import WAIT_S, Watched, a_job, engine_on, exhaust, open_watched, settings

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.backends.gpu import GpuEngine


def test_a_lost_device_costs_no_nonce_and_comes_back(
    cpu: Device, folder: Path, watched: list[Watched], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)
    refusals = iter(range(2))

    def open_failing() -> Launcher:
        if watched and next(refusals, None) is not None:
            raise DeviceLostError("still unplugged")
        return open_watched(cpu, folder, watched)

    engine = engine_on(cpu, open_failing)
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
    engine = engine_on(cpu, partial(open_watched, cpu, folder, watched))
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


def test_while_a_device_is_lost_others_go_on_and_it_is_told(
    cpu: Device, folder: Path, watched: list[Watched], caplog: pytest.LogCaptureFixture
) -> None:
    def open_once() -> Launcher:
        if watched:
            raise DeviceLostError("gone")
        return open_watched(cpu, folder, watched)

    engine = engine_on(cpu, open_once)
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
