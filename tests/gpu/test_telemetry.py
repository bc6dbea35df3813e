"""Readings of graphics cards, also with a driver that hangs."""

from __future__ import annotations

import os
import sys
import threading
import types
from typing import TYPE_CHECKING

import pytest

from quantus_miner.gpu import telemetry
from quantus_miner.gpu.telemetry import Readings

from ..conftest import MinerProcess

if TYPE_CHECKING:
    from pathlib import Path


CARD = "0000:01:00.0"
WAIT_S = 30.0


class NVMLError(Exception):
    pass


def module(**calls: object) -> types.ModuleType:
    """An NVML of a card at 55 degrees, but for ``calls``."""

    def refuse(*_: object) -> None:
        raise NVMLError

    names = ("PowerUsage", "ClockInfo", "FanSpeed", "UtilizationRates")
    nvml = types.ModuleType("pynvml")
    vars(nvml).update(
        {f"nvmlDeviceGet{name}": refuse for name in names},
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda _: "card",
        nvmlDeviceGetTemperature=lambda *_: 55,
    )
    vars(nvml).update(calls)
    return nvml


def test_without_nvml_there_are_no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nothing = telemetry.Telemetry()
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


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetTemperature"])
def test_a_driver_that_hangs_costs_its_readings_and_no_reader(
    call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, release, asked = 1000.0, threading.Event(), threading.Semaphore(0)

    def hang(*_: object) -> int:
        asked.release()
        assert release.wait(WAIT_S)
        return 55

    monkeypatch.setitem(sys.modules, "pynvml", module(**{call: hang}))
    cards = telemetry.Telemetry(lambda: now)
    assert cards.read(CARD) is None
    assert asked.acquire(timeout=WAIT_S)
    now += 1.0
    # While it hangs nobody waits: many readers do not do so in a row.
    assert [cards.temperature(CARD) for _ in range(1000)] == [None] * 1000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    release.set()
    while (degrees := cards.temperature(CARD)) is None:
        pass
    assert degrees == 55


def test_a_snapshot_takes_the_last_readings_until_they_are_old(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, hangs, asked, release = 1000.0, False, threading.Semaphore(0), threading.Event()

    def temperature(*_: object) -> int:
        if hangs:
            asked.release()
            assert release.wait(WAIT_S)
        return int(now) - 1000

    monkeypatch.setitem(sys.modules, "pynvml", module(nvmlDeviceGetTemperature=temperature))
    cards = telemetry.Telemetry(lambda: now)
    assert cards.temperature(CARD, WAIT_S) == 0
    hangs = True
    now += telemetry.AGE_S
    assert cards.temperature(CARD, 0.0) == 0  # the last one, while the next is read
    assert asked.acquire(timeout=WAIT_S)
    now += telemetry.FRESH_S - telemetry.AGE_S
    assert cards.temperature(CARD, 0.0) == 0
    assert not caplog.records
    now += telemetry.AGE_S
    assert cards.read(CARD) is None
    assert cards.read(CARD) is None
    assert len(caplog.records) == 1
    assert "NVML has not answered for 3.0 s" in caplog.text
    release.set()
    while (degrees := cards.temperature(CARD)) is None:
        pass
    assert degrees == 3


def test_who_waits_for_a_driver_that_is_slow_to_start_gets_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def start() -> None:
        nonlocal now
        now += 2 * telemetry.FRESH_S

    monkeypatch.setitem(sys.modules, "pynvml", module(nvmlInit=start))
    assert telemetry.Telemetry(lambda: now).temperature(CARD, WAIT_S) == 55


def test_the_thread_ends_when_nobody_asks_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setitem(sys.modules, "pynvml", module())
    cards = telemetry.Telemetry(lambda: now)
    assert cards.temperature(CARD, WAIT_S) == 55
    thread = cards._thread
    assert thread is not None
    now += WAIT_S
    with cards._changed:
        cards._changed.notify_all()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert cards.temperature(CARD, WAIT_S) == 55


def test_a_reading_that_raises_is_logged_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(pci: bytes) -> str:
        if pci == b"broken":
            raise RuntimeError("boom")
        return "card"

    monkeypatch.setitem(sys.modules, "pynvml", module(nvmlDeviceGetHandleByPciBusId=handle))
    cards = telemetry.Telemetry()
    assert cards.temperature("broken", WAIT_S) is None
    assert "Reading a GPU has failed" in caplog.text
    assert cards.temperature(CARD, WAIT_S) == 55


HUNG_NVML = """
from quantus_miner.parts import engines
from quantus_miner.backends.base import EngineStatus
from quantus_miner.gpu.device import Device
create = engines.create_engines
def create_engines(*args):
    (engine,) = create(*args)
    engine.status = lambda: EngineStatus(Device(0, "a card", "gpu", "0000:01:00.0", ""))
    return [engine]
engines.create_engines = create_engines
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
        miner.wait_for_line("NVML has not answered")
        assert miner.stop() == 0
