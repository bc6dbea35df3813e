"""``quantus-miner devices``: list what this machine can mine with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from quantus_miner import native, units
from quantus_miner.backends import autotune, table
from quantus_miner.backends.registry import unavailable_reason
from quantus_miner.gpu.device import DriverError
from quantus_miner.host import cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.backends.backend import Backend


class CpuEntry(msgspec.Struct, frozen=True):
    """The processor. ``cpuset``: the kernel's list of CPUs, and ``quota_cpus``: as many as the quota allows, or None.

    ``warnings``: one line for each limit that was ignored.
    """

    name: str
    effective_cpus: int
    default_workers: int
    cpuset: str | None
    quota_cpus: float | None
    warnings: list[str]


class KernelEntry(msgspec.Struct, frozen=True):
    """A CPU kernel. ``hashes_per_s``: of one thread, measured for some milliseconds; None if it is not supported."""

    pow: str
    name: str
    supported: bool
    hashes_per_s: float | None


class DeviceEntry(msgspec.Struct, frozen=True):
    """A device of an engine. ``pci``: its address, or None if it is unknown."""

    index: int
    name: str
    kind: str
    pci: str | None
    driver: str


class EngineEntry(msgspec.Struct, frozen=True):
    """An engine. ``reason``: why it is not available, else empty. ``devices``: None if no driver can list them."""

    name: str
    available: bool
    reason: str
    pows: list[str]
    devices: list[DeviceEntry] | None


class DevicesReport(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    cpu: CpuEntry
    kernels: list[KernelEntry]
    engines: list[EngineEntry]


def look() -> DevicesReport:
    """Return what there is. Measures each kernel for some milliseconds."""
    effective = cpus.detect()
    return DevicesReport(
        CpuEntry(
            cpus.processor_name(),
            effective.count,
            cpus.default_workers(effective.count),
            effective.mask,
            effective.quota,
            list(effective.warnings),
        ),
        [
            KernelEntry(kernel.pow, kernel.name, kernel.supported, autotune.speed(kernel) if kernel.supported else None)
            for kernel in native.kernels()
        ],
        [_engine(backend) for backend in table.BACKENDS],
    )


def _engine(backend: Backend) -> EngineEntry:
    reason = unavailable_reason(backend.name)
    return EngineEntry(backend.name, reason is None, reason or "", sorted(backend.pows), _devices(backend))


def _devices(backend: Backend) -> list[DeviceEntry] | None:
    try:
        found = backend.probe() if backend.probe is not None else ()
    except DriverError:
        return None
    return [DeviceEntry(device.index, device.name, device.kind, device.pci, device.driver) for device in found]


def lines(report: DevicesReport) -> Iterator[str]:
    """Yield the report for people, line by line."""
    cpu = report.cpu
    yield f"CPU: {cpu.name}"
    limits = [
        f"cpuset {cpu.cpuset}" if cpu.cpuset else "",
        f"quota {cpu.quota_cpus:g}" if cpu.quota_cpus else "",
    ]
    noted = ", ".join(filter(None, limits))
    yield (
        f"  effective CPUs: {cpu.effective_cpus}{f' ({noted})' if noted else ''};"
        f" default workers: {cpu.default_workers}"
    )
    yield from (f"  warning: {warning}" for warning in cpu.warnings)
    yield "Kernels (one thread, a first impression; bench measures):"
    for kernel in report.kernels:
        rate = "not supported here" if kernel.hashes_per_s is None else units.hash_rate(kernel.hashes_per_s)
        yield f"  {kernel.pow:15} {kernel.name:10} {rate}"
    yield "Engines:"
    for engine in report.engines:
        yield f"  {engine.name:22} {'available' if engine.available else f'not available: {engine.reason}'}"
        for device in engine.devices or ():
            yield f"    {device.index}: {device.name} ({device.kind}, PCI {device.pci or '?'}, driver {device.driver})"
