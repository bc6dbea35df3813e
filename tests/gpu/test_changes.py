"""Settings of a GPU engine that change while it works."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.registry import create_engines, update_engines
from quantus_miner.errors import SettingError
from quantus_miner.gpu.telemetry import Telemetry
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow

from .harness import HEADER, WAIT_S, Watched, engine_on, open_watched, settings

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device


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
    engine = engine_on(cpu, partial(open_watched, cpu, folder, watched))
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
