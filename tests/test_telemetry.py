"""Readings of graphics cards, with a driver that hangs."""

from __future__ import annotations

import os
import sys
import threading
import types
from typing import TYPE_CHECKING

import pytest

from quantus_miner.gpu import telemetry

from .conftest import MinerProcess

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetTemperature"])
def test_a_driver_that_hangs_costs_its_readings_and_no_reader(
    call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, asked = threading.Event(), threading.Semaphore(0)

    def hang(*_: object) -> int:
        asked.release()
        assert release.wait(30)
        return 55

    class NVMLError(Exception):
        pass

    nvml = types.ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda _: "card",
        nvmlDeviceGetTemperature=lambda *_: 55,
    )
    setattr(nvml, call, hang)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    cards = telemetry.Telemetry()
    assert cards.temperature("0000:01:00.0") is None
    assert asked.acquire(timeout=30)
    # While it hangs nobody asks again: many readers do not wait in a row.
    assert [cards.temperature("0000:01:00.0") for _ in range(1000)] == [None] * 1000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    release.set()
    while (degrees := cards.temperature("0000:01:00.0")) is None:
        pass
    assert degrees == 55


HUNG_NVML = """
from quantus_miner import service
from quantus_miner.backends.base import EngineStatus
from quantus_miner.gpu.device import Device
create = service.create_engines
def create_engines(*args):
    (engine,) = create(*args)
    engine.status = lambda: EngineStatus(Device(0, "a card", "gpu", "0000:01:00.0", ""))
    return [engine]
service.create_engines = create_engines
from quantus_miner.cli import main
main()
"""


def test_a_driver_that_hangs_stops_neither_scrapes_nor_the_end(tmp_path: Path) -> None:
    """A process with a card (a CPU's engine that says so) and an NVML whose calls never come back."""
    (tmp_path / "pynvml.py").write_text(
        "import threading\n"
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): pass\n"
        "def nvmlDeviceGetHandleByPciBusId(pci): threading.Event().wait()\n"
    )

    class Miner(MinerProcess):
        program = ("-c", HUNG_NVML)

    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with Miner("--port=0", "--metrics-port=0", "--workers=1", PYTHONPATH=paths) as miner:
        for _ in range(3):
            samples = miner.metrics()
            assert any(name == "miner_gpu_up" for name, _ in samples)
            assert not any(name == "miner_gpu_temperature_celsius" for name, _ in samples)
        assert miner.stop() == 0
    assert "NVML has not answered" in "\n".join(miner.log)
