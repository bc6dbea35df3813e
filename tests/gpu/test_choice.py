"""Which devices are mined on, and what is said of those that are not."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from quantus_miner.backends.base import EngineStatus
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.backends.registry import create_engines, unavailable_reason
from quantus_miner.devices import lines, look
from quantus_miner.errors import DeviceLostError, EngineUnavailableError, SettingError
from quantus_miner.gpu import drivers
from quantus_miner.gpu.device import Device, DriverError
from quantus_miner.model import Pow
from quantus_miner.settings import load

from .harness import settings


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
    script = (Path(__file__).parents[2] / "systemd" / "install").read_text()
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
