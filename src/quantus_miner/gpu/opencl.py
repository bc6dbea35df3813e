"""OpenCL devices. Needs the extra ``opencl``: importing this without it is an ImportError."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

# We keep the binaries in the state folder. Copies in the user's cache folder are not needed.
os.environ.setdefault("PYOPENCL_NO_CACHE", "1")

import numpy as np
import pyopencl as cl

from quantus_miner.errors import DeviceLostError
from quantus_miner.gpu import binaries
from quantus_miner.gpu.device import IN_FLIGHT, Device, DriverError, Readout, number_equals, pci_address
from quantus_miner.gpu.source import BLOCK, ENTRIES, MAX_HITS, OPTIONS, source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantus_miner.model import Order

# Some compilers always print something, which is of no use to our users.
warnings.filterwarnings("ignore", category=cl.CompilerWarning)

LONGEST_PAUSE_S: Final = 0.001
"""Longest pause between two checks of a running launch. Some drivers keep a CPU busy while they wait, so we wait."""
_ARGUMENTS: Final = (*(np.uint64,) * 15, np.uint32, np.uint32, None)
_PCI_BUS_INFO_KHR: Final = 0x410F
"""Query of the extension cl_khr_pci_bus_info: domain, bus, device, function."""
_ask = ctypes.CDLL(cl._cl.__file__).clGetDeviceInfo  # noqa: SLF001 - the very library that pyopencl calls
_ask.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)


def devices() -> list[Device]:
    """Return all devices that the installed drivers list. Raises DriverError if there is no driver."""
    return [device for device, _ in _listed()]


def open_device(device: Device, cache: Path) -> OpenClLauncher:
    """Load the kernels for ``device`` from the folder ``cache``, or compile them.

    Raises DeviceLostError, also if the drivers no longer list the device.
    """
    with _lost():
        for found, handle in _listed():
            if found.identity == device.identity:
                return OpenClLauncher(handle, cache)
        raise DeviceLostError(f"OpenCL: no driver lists {device.name} (PCI {device.pci or '?'}) any more")


def _listed() -> list[tuple[Device, cl.Device]]:
    found: dict[int, tuple[Device, cl.Device]] = {}
    for index, handle in enumerate(_handles()):
        with suppress(cl.Error):  # a device that is gone may still be listed
            found[index] = _device(index, handle), handle
    numbered = number_equals(device for device, _ in found.values())
    return [(device, found[device.index][1]) for device in numbered]


def _device(index: int, handle: cl.Device) -> Device:
    kinds = handle.type
    return Device(
        index,
        handle.name.strip(),
        "gpu" if kinds & cl.device_type.GPU else "cpu" if kinds & cl.device_type.CPU else "accelerator",
        _pci(handle),
        handle.driver_version.strip(),
        handle.platform.name.strip(),
    )


def _handles() -> list[cl.Device]:
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        raise DriverError("no OpenCL driver is installed") from None
    found = []
    for platform in platforms:
        with suppress(cl.Error):  # a driver without a device
            found += platform.get_devices()
    return found


def _pci(device: cl.Device) -> str | None:
    with suppress(cl.Error):
        if "cl_khr_pci_bus_info" in device.extensions:
            place = (ctypes.c_uint32 * 4)()
            if _ask(device.int_ptr, _PCI_BUS_INFO_KHR, ctypes.sizeof(place), place, None) == 0:
                return pci_address(*place)
        if "cl_nv_device_attribute_query" in device.extensions:
            slot, domain = device.pci_slot_id_nv, 0
            with suppress(cl.Error):  # drivers before 2019 do not say
                domain = device.pci_domain_id_nv
            return pci_address(domain, device.pci_bus_id_nv, slot >> 3, slot & 7)
        if "cl_amd_device_attribute_query" in device.extensions:
            topology = device.topology_amd
            return pci_address(0, topology.bus & 0xFF, topology.device, topology.function)
    return None


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (cl.Error, DriverError) as error:
        raise DeviceLostError(f"OpenCL: {' '.join(str(error).split())[:500]}") from None


class _OpenClSlot(NamedTuple):
    """Buffers for a launch's candidates, on the device and on the host."""

    hits: cl.Buffer
    host: np.ndarray[tuple[int], np.dtype[np.uint32]]


class OpenClLauncher:
    """See Launcher."""

    def __init__(self, device: cl.Device, cache: Path) -> None:
        self.multiprocessors: int = device.max_compute_units
        self._context = cl.Context([device])
        self._queue = cl.CommandQueue(self._context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        program = _program(self._context, device, cache)
        self._kernels = {order: cl.Kernel(program, entry) for order, entry in ENTRIES.items()}
        for kernel in self._kernels.values():
            kernel.set_scalar_arg_dtypes(_ARGUMENTS)
        self._free = deque(
            _OpenClSlot(
                cl.Buffer(self._context, cl.mem_flags.READ_WRITE, 4 * (1 + MAX_HITS)),
                np.zeros(1 + MAX_HITS, np.uint32),
            )
            for _ in range(IN_FLIGHT)
        )
        self._queued: deque[tuple[_OpenClSlot, cl.Event, cl.Event]] = deque()
        # Wait for it at the end of the process: some drivers cannot be unloaded while they work.
        self._finish = weakref.finalize(self, _finish, self._queue)

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        """See Launcher."""
        slot = self._free.popleft()
        with _lost():
            cl.enqueue_fill_buffer(self._queue, slot.hits, np.uint32(0), 0, 4)
            ran = self._kernels[order](
                self._queue, (blocks * BLOCK,), (BLOCK,), *words, top_target, first, count, slot.hits
            )
            read = cl.enqueue_copy(self._queue, slot.host, slot.hits, is_blocking=False)
            self._queue.flush()
        self._queued.append((slot, ran, read))

    def collect(self) -> Readout:
        """See Launcher."""
        slot, ran, read = self._queued.popleft()
        pause = 0.00002
        with _lost():
            while (status := read.command_execution_status) > cl.command_execution_status.COMPLETE:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if status < 0:
                raise DeviceLostError(f"OpenCL: a launch ended with error {status}")
            seconds = (ran.profile.end - ran.profile.start) / 1e9
        candidates = int(slot.host[0])
        offsets = slot.host[1 : 1 + candidates].tolist()
        self._free.append(slot)
        return Readout(seconds, candidates, offsets)

    def close(self) -> None:
        """See Launcher."""
        self._finish.detach()


def _finish(queue: cl.CommandQueue) -> None:
    with suppress(cl.Error):
        queue.finish()


def _program(context: cl.Context, device: cl.Device, cache: Path) -> cl.Program:
    text, options = source("opencl"), list(OPTIONS["opencl"])
    built: list[cl.Program] = []

    def build() -> bytes:
        program = cl.Program(context, text).build(options)
        built.append(program)
        return bytes(program.binaries[0])

    identity = (text, *options, device.platform.version, device.name, device.version, device.driver_version)
    binary = binaries.cached(cache, f"opencl-{device.name}", identity, build)
    if not built:
        try:
            return cl.Program(context, [device], [binary]).build(options)
        except cl.Error:
            # The driver has changed more than its version says.
            build()
    return built[0]
