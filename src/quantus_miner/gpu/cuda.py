"""NVIDIA cards through the CUDA driver. Needs the extra ``cuda``: importing this without it raises ImportError."""

from __future__ import annotations

import ctypes
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cuda.bindings import driver, nvrtc

from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import binaries
from quantus_miner.gpu.device import IN_FLIGHT, Device, DriverError, Readout, number_equals, pci_address
from quantus_miner.gpu.source import BLOCK, ENTRIES, MAX_HITS, OPTIONS, source

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.model import Order

HITS_BYTES: Final = 4 * (1 + MAX_HITS)
_ARGUMENTS: Final = (*(ctypes.c_uint64,) * 15, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
_Attribute = driver.CUdevice_attribute


def devices() -> list[Device]:
    """Return all devices that the driver lists. Raises DriverError if there is no driver."""
    try:
        done(driver.cuInit(0))
        version = done(driver.cuDriverGetVersion())
        spoken = f"CUDA {version // 1000}.{version % 1000 // 10}"
        count = done(driver.cuDeviceGetCount())
    except RuntimeError:  # what the bindings raise if the library is missing
        raise DriverError("the NVIDIA driver is not installed") from None
    except DeviceLostError as error:
        raise DriverError(f"the NVIDIA driver finds no usable card ({error})") from None
    found = []
    for index in range(count):
        with suppress(DeviceLostError):  # a card that failed does not hide the others
            found.append(_device(index, spoken))
    return number_equals(found)


def open_device(device: Device, cache: Path) -> CudaLauncher:
    """Load the kernels for ``device`` from the folder ``cache``, or compile them.

    Raises DeviceLostError, also if the driver no longer lists the device.
    """
    try:
        return CudaLauncher(card(device), cache)
    except RuntimeError as error:
        raise DeviceLostError(f"CUDA: {error}") from None


def card(device: Device) -> Any:  # noqa: ANN401 - the bindings have no types
    """Return the driver's handle of ``device``, found by its PCI address. Raises DeviceLostError."""
    done(driver.cuInit(0))
    return done(driver.cuDeviceGetByPCIBusId(str(device.pci).encode()))


def architecture(card: Any) -> str:  # noqa: ANN401
    """Return the architecture of a card, such as sm_89. Raises DeviceLostError."""
    major = done(driver.cuDeviceGetAttribute(_Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, card))
    minor = done(driver.cuDeviceGetAttribute(_Attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, card))
    return f"sm_{major}{minor}"


def kernels_for(arch: str, cache: Path) -> bytes:
    """Return the compiled kernels from the folder ``cache``, or compile them. Raises DeviceLostError."""
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:  # what the bindings raise if the library is missing
        raise DeviceLostError(f"NVRTC: {error}") from None
    identity = (source("cuda"), *OPTIONS["cuda"], arch, f"{major}.{minor}")
    return binaries.cached(cache, f"cuda-{arch}", identity, lambda: compile_for(arch))


def compile_for(arch: str) -> bytes:
    """Return the cubin of the kernels for ``arch``, such as sm_89. Needs no card. See compile_text."""
    return compile_text(source("cuda"), arch)


def compile_text(text: str, arch: str) -> bytes:
    """Return the cubin of a program in CUDA C++. Raises DeviceLostError with the compiler's message.

    If the card is newer than NVRTC, return PTX for the newest architecture before it, which the driver compiles.
    """
    known, number = done(nvrtc.nvrtcGetSupportedArchs()), int(arch.removeprefix("sm_"))
    older = max((other for other in known if other < number), default=None)
    ptx = number not in known and older is not None
    program = done(nvrtc.nvrtcCreateProgram(text.encode(), b"program.cu", 0, [], []))
    target = f"compute_{older}" if ptx else arch
    options = [f"--gpu-architecture={target}".encode(), *(option.encode() for option in OPTIONS["cuda"])]
    result = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        said = _out(nvrtc.nvrtcGetProgramLog, program, done(nvrtc.nvrtcGetProgramLogSize(program)))
        text = said.strip(b"\0").decode(errors="replace")
        raise DeviceLostError(f"NVRTC cannot compile for {target}: {' '.join(text.split())[:500]}")
    if ptx:
        return _out(nvrtc.nvrtcGetPTX, program, done(nvrtc.nvrtcGetPTXSize(program)))
    return _out(nvrtc.nvrtcGetCUBIN, program, done(nvrtc.nvrtcGetCUBINSize(program)))


def _device(index: int, driver_version: str) -> Device:
    handle = done(driver.cuDeviceGet(index))
    place = [
        done(driver.cuDeviceGetAttribute(attribute, handle))
        for attribute in (
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
            _Attribute.CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
        )
    ]
    name = done(driver.cuDeviceGetName(256, handle)).split(b"\0")[0].decode(errors="replace")
    return Device(index, name, "gpu", pci_address(*place), driver_version, "CUDA")


def _out(call: Any, program: Any, size: int) -> bytes:  # noqa: ANN401 - the bindings have no types
    """Return what ``call`` writes into a buffer of ``size`` bytes."""
    # At least 2 bytes: Python shares all bytes objects of one, so what is written into one changes it everywhere.
    buffer = bytes(max(size, 2))
    done(call(program, buffer))
    return buffer


def done(outcome: tuple[Any, ...]) -> Any:  # noqa: ANN401 - the bindings have no types
    """Return the value of a call of the driver or of NVRTC, if it has one. Raises DeviceLostError if it failed."""
    error, *values = outcome
    if int(error) != 0:
        raise DeviceLostError(f"CUDA: {error.name}")
    return values[0] if values else None


class _CudaSlot(NamedTuple):
    """Buffers for a launch's candidates, on the device and in pinned memory of the host, and events that time it."""

    hits: Any
    host: ctypes.Array[ctypes.c_uint32]
    began: Any
    ended: Any


class CudaLauncher:
    """See Launcher. Works on the card's primary context, which nothing else in this process uses."""

    def __init__(self, card: Any, cache: Path) -> None:  # noqa: ANN401
        arch = architecture(card)
        self._device = card
        count = _Attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        self.multiprocessors = done(driver.cuDeviceGetAttribute(count, self._device))
        self._context = done(driver.cuDevicePrimaryCtxRetain(self._device))
        try:
            self._enter()
            module = done(driver.cuModuleLoadData(kernels_for(arch, cache)))
            self._kernels = {
                order: done(driver.cuModuleGetFunction(module, entry.encode())) for order, entry in ENTRIES.items()
            }
            self._stream = done(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            self._free = deque(_slot() for _ in range(IN_FLIGHT))
        except DeviceLostError:
            self.close()
            raise
        self._queued: deque[_CudaSlot] = deque()

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        """See Launcher."""
        self._enter()
        slot = self._free.popleft()
        values = (*words, top_target, first, count, int(slot.hits))
        done(driver.cuMemsetD32Async(slot.hits, 0, 1, self._stream))
        done(driver.cuEventRecord(slot.began, self._stream))
        done(
            driver.cuLaunchKernel(
                self._kernels[order], blocks, 1, 1, BLOCK, 1, 1, 0, self._stream, (values, _ARGUMENTS), 0
            )
        )
        done(driver.cuMemcpyDtoHAsync(ctypes.addressof(slot.host), slot.hits, HITS_BYTES, self._stream))
        done(driver.cuEventRecord(slot.ended, self._stream))
        self._queued.append(slot)

    def collect(self) -> Readout:
        """See Launcher."""
        self._enter()
        slot = self._queued.popleft()
        done(driver.cuEventSynchronize(slot.ended))
        seconds = done(driver.cuEventElapsedTime(slot.began, slot.ended)) / 1e3
        candidates = slot.host[0]
        offsets = slot.host[1 : 1 + candidates]
        self._free.append(slot)
        return Readout(seconds, candidates, offsets)

    def close(self) -> None:
        """See Launcher. Destroys the context, so that an error in it does not affect the next one."""
        with suppress(DeviceLostError):
            done(driver.cuDevicePrimaryCtxReset(self._device))
        with suppress(DeviceLostError):
            done(driver.cuDevicePrimaryCtxRelease(self._device))

    def _enter(self) -> None:
        """Make the card's context current for this thread, which calls of the driver refer to."""
        done(driver.cuCtxSetCurrent(self._context))


def _slot() -> _CudaSlot:
    # A thread that waits for such an event sleeps.
    flags = driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC
    address = int(done(driver.cuMemHostAlloc(HITS_BYTES, 0)))
    return _CudaSlot(
        done(driver.cuMemAlloc(HITS_BYTES)),
        (ctypes.c_uint32 * (1 + MAX_HITS)).from_address(address),
        done(driver.cuEventCreate(flags)),
        done(driver.cuEventCreate(flags)),
    )
