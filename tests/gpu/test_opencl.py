"""The OpenCL driver: which device it opens, what it says of it, and what its compiler says."""

from __future__ import annotations

import ctypes
import re
import types
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.backends.registry import create_engines
from quantus_miner.errors import DeviceLostError, EngineUnavailableError
from quantus_miner.gpu import binaries, drivers
from quantus_miner.gpu.device import Device, number_equals

from .harness import engine_on, settings

if TYPE_CHECKING:
    from pathlib import Path


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


def test_what_an_opencl_compiler_says_is_one_line(cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opencl = drivers.load("opencl")
    monkeypatch.setattr(opencl, "source", lambda _: "nonsense")
    with pytest.raises(EngineUnavailableError) as caught:
        create_engines(settings(tmp_path, "gpu-opencl", gpu_devices=str(cpu.index)), 1)
    assert re.fullmatch(
        r"engine 'gpu-opencl' is not available: OpenCL: .+; use cpu-fast or cpu-baseline", str(caught.value)
    )


def test_a_binary_that_the_driver_does_not_take_is_compiled_anew(
    cpu: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "cached", lambda *_: b"of an older driver")
    engine_on(cpu, partial(drivers.load("opencl").open_device, cpu, tmp_path)).open()
