"""``quantus-miner devices``: list what this machine can mine with."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from quantus_miner import native, units
from quantus_miner.backends import autotune, table
from quantus_miner.backends.registry import unavailable_reason
from quantus_miner.gpu.device import DriverError
from quantus_miner.host import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quantus_miner.gpu.device import Device


def describe() -> Iterator[str]:
    """Yield the report, line by line."""
    effective = cpus.detect()
    yield f"CPU: {cpus.processor_name()}"
    limits = [
        f"cpuset {effective.mask}" if effective.mask else "",
        f"quota {effective.quota:g}" if effective.quota else "",
    ]
    noted = ", ".join(filter(None, limits))
    yield (
        f"  effective CPUs: {effective.count}{f' ({noted})' if noted else ''};"
        f" default workers: {cpus.default_workers(effective.count)}"
    )
    yield from (f"  warning: {warning}" for warning in effective.warnings)
    yield "Kernels (one thread, a first impression; bench measures):"
    for kernel in native.kernels():
        rate = units.hash_rate(autotune.speed(kernel)) if kernel.supported else "not supported here"
        yield f"  {kernel.pow:15} {kernel.name:10} {rate}"
    yield "Engines:"
    for backend in table.BACKENDS:
        reason = unavailable_reason(backend.name)
        yield f"  {backend.name:22} {f'not available: {reason}' if reason else 'available'}"
        if backend.probe is not None:
            yield from _devices(backend.probe)


def _devices(probe: Callable[[], Sequence[Device]]) -> Iterator[str]:
    with suppress(DriverError):
        for device in probe():
            yield f"    {device.index}: {device.name} ({device.kind}, PCI {device.pci or '?'}, driver {device.driver})"
