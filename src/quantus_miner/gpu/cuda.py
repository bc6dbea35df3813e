"""NVIDIA cards through the CUDA driver. Needs the extra ``cuda``: importing this without it is an ImportError."""

from __future__ import annotations

import ctypes
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cuda.bindings import driver, nvrtc

from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import binaries
from quantus_miner.gpu.device import IN_FLIGHT, Device, DriverError, Readout, pci_address
from quantus_miner.gpu.source import BLOCK, ENTRIES, MAX_HITS, OPTIONS, source

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.model import Order

HITS_BYTES: Final = 4 * (1 + MAX_HITS)
_ARGUMENTS: Final = (*(ctypes.c_uint64,) * 15, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
_Attribute = driver.CUdevice_attribute


def devices() -> list[Device]:
    """All that the driver lists. Raises DriverError if there is no driver."""
    try:
        _done(driver.cuInit(0))
        version = _done(driver.cuDriverGetVersion())
        spoken = f"CUDA {version // 1000}.{version % 1000 // 10}"
        return [_device(index, spoken) for index in range(_done(driver.cuDeviceGetCount()))]
    except RuntimeError:  # what the bindings raise where the library is missing
        raise DriverError("the NVIDIA driver is not installed") from None
    except DeviceLostError as error:
        raise DriverError(f"the NVIDIA driver finds no card that it can use ({error})") from None


def open_device(device: Device, cache: Path) -> CudaLauncher:
    """Compiles the kernels for ``device``, or takes them from the folder ``cache``. Raises DeviceLostError."""
    return CudaLauncher(device.index, cache)


def kernels_for(arch: str, cache: Path) -> bytes:
    """The cubin for ``arch`` from the folder ``cache``, or else compiled. Raises DeviceLostError."""
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:  # what the bindings raise where the library is missing
        raise DeviceLostError(f"NVRTC: {error}") from None
    identity = (source("cuda"), *OPTIONS["cuda"], arch, f"{major}.{minor}")
    return binaries.cached(cache, f"cuda-{arch}", identity, lambda: compile_for(arch))


def compile_for(arch: str) -> bytes:
    """The cubin of the kernels for ``arch``, such as sm_89. Needs no card. See compile_text."""
    return compile_text(source("cuda"), arch)


def compile_text(text: str, arch: str) -> bytes:
    """The cubin of a program in CUDA C++. Raises DeviceLostError, with what the compiler says."""
    program = _done(nvrtc.nvrtcCreateProgram(text.encode(), b"program.cu", 0, [], []))
    options = [f"--gpu-architecture={arch}".encode(), *(option.encode() for option in OPTIONS["cuda"])]
    result = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        said = _out(nvrtc.nvrtcGetProgramLog, program, _done(nvrtc.nvrtcGetProgramLogSize(program)))
        text = said.strip(b"\0").decode(errors="replace")
        raise DeviceLostError(f"NVRTC cannot compile for {arch}: {' '.join(text.split())[:500]}")
    return _out(nvrtc.nvrtcGetCUBIN, program, _done(nvrtc.nvrtcGetCUBINSize(program)))


def _device(index: int, driver_version: str) -> Device:
    handle = _done(driver.cuDeviceGet(index))
    place = [
        _done(driver.cuDeviceGetAttribute(attribute, handle))
        for attribute in (
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        )
    ]
    name = _done(driver.cuDeviceGetName(256, handle)).split(b"\0")[0].decode(errors="replace")
    return Device(index, name, "gpu", pci_address(*place), driver_version)


def _out(call: Any, program: Any, size: int) -> bytes:  # noqa: ANN401 - the bindings have no types
    """What ``call`` writes into a buffer of ``size`` bytes."""
    buffer = b" " * size
    _done(call(program, buffer))
    return buffer


def _done(outcome: tuple[Any, ...]) -> Any:  # noqa: ANN401 - the bindings have no types
    """The value of a call of the driver or of NVRTC, None without one. Raises DeviceLostError if it failed."""
    error, *values = outcome
    if int(error) != 0:
        raise DeviceLostError(f"CUDA: {error.name}")
    return values[0] if values else None


class _Slot(NamedTuple):
    """Where a launch writes its candidates, on the device and in pinned memory of the host; and when it ran."""

    hits: Any
    host: ctypes.Array[ctypes.c_uint32]
    began: Any
    ended: Any


class CudaLauncher:
    """See Launcher. Works on the card's primary context, which nothing else in this process uses."""

    def __init__(self, index: int, cache: Path) -> None:
        _done(driver.cuInit(0))
        self._device = _done(driver.cuDeviceGet(index))
        major, minor, self.multiprocessors = (
            _done(driver.cuDeviceGetAttribute(attribute, self._device))
            for attribute in (
                _Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                _Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                _Attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        self._context = _done(driver.cuDevicePrimaryCtxRetain(self._device))
        try:
            self._enter()
            module = _done(driver.cuModuleLoadData(kernels_for(f"sm_{major}{minor}", cache)))
            self._kernels = {
                order: _done(driver.cuModuleGetFunction(module, entry.encode())) for order, entry in ENTRIES.items()
            }
            self._stream = _done(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            self._free = deque(_slot() for _ in range(IN_FLIGHT))
        except DeviceLostError:
            self.close()
            raise
        self._queued: deque[_Slot] = deque()

    def launch(self, order: Order, words: tuple[int, ...], top_limit: int, first: int, count: int, blocks: int) -> None:
        """See Launcher."""
        self._enter()
        slot = self._free.popleft()
        values = (*words, top_limit, first, count, int(slot.hits))
        _done(driver.cuMemsetD32Async(slot.hits, 0, 1, self._stream))
        _done(driver.cuEventRecord(slot.began, self._stream))
        _done(
            driver.cuLaunchKernel(
                self._kernels[order], blocks, 1, 1, BLOCK, 1, 1, 0, self._stream, (values, _ARGUMENTS), 0
            )
        )
        _done(driver.cuMemcpyDtoHAsync(ctypes.addressof(slot.host), slot.hits, HITS_BYTES, self._stream))
        _done(driver.cuEventRecord(slot.ended, self._stream))
        self._queued.append(slot)

    def collect(self) -> Readout:
        """See Launcher."""
        self._enter()
        slot = self._queued.popleft()
        _done(driver.cuEventSynchronize(slot.ended))
        seconds = _done(driver.cuEventElapsedTime(slot.began, slot.ended)) / 1e3
        candidates = slot.host[0]
        offsets = slot.host[1 : 1 + candidates]
        self._free.append(slot)
        return Readout(seconds, candidates, offsets)

    def close(self) -> None:
        """See Launcher. A context that an error has spoilt is no more; the next one is a new one."""
        with suppress(DeviceLostError):
            _done(driver.cuDevicePrimaryCtxReset(self._device))
        with suppress(DeviceLostError):
            _done(driver.cuDevicePrimaryCtxRelease(self._device))

    def _enter(self) -> None:
        """Calls of the driver are for the thread's current context."""
        _done(driver.cuCtxSetCurrent(self._context))


def _slot() -> _Slot:
    # A thread that waits for such an event sleeps.
    flags = driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC
    address = int(_done(driver.cuMemHostAlloc(HITS_BYTES, 0)))
    return _Slot(
        _done(driver.cuMemAlloc(HITS_BYTES)),
        (ctypes.c_uint32 * (1 + MAX_HITS)).from_address(address),
        _done(driver.cuEventCreate(flags)),
        _done(driver.cuEventCreate(flags)),
    )
