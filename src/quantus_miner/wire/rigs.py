"""The devices of a miner as rig managers show them, the same in all their formats. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantus_miner.model import Pow, Rates, total_rates

if TYPE_CHECKING:
    from quantus_miner.wire.status import DeviceStatus, SourceStatus, Status

ALGORITHM: Final = str(Pow.POSEIDON2)
"""The network's proof of work, under the name that all formats give it."""
CPU: Final = "cpu"
"""Id of the CPU workers in a status."""


@dataclass(frozen=True, slots=True)
class RigDevice:
    """One GPU, or all CPU workers. ``bus``: number of its PCI bus, None for the CPU or if it is not known.

    ``fan``: percent. ``temperature``: degrees Celsius. ``power``: watts. None if they are not reported.
    """

    id: str
    name: str
    bus: int | None
    hash_rate: Rates
    hashes: int
    up: bool
    paused: bool
    temperature: float | None
    fan: int | None
    power: float | None

    @property
    def is_gpu(self) -> bool:
        """Return True unless it is the CPU."""
        return self.id != CPU


def devices(status: Status) -> list[RigDevice]:
    """Return the GPUs in the order of their PCI addresses, then the CPU, each once however many engines use it."""
    groups: defaultdict[str, list[DeviceStatus]] = defaultdict(list)
    for device in status.devices:
        groups[device.id].append(device)
    return sorted(map(_device, groups.values()), key=lambda device: (not device.is_gpu, device.bus is None, device.id))


def address(source: SourceStatus | None) -> str:
    """Return host and port of a node or pool, without its kind and scheme. Empty for None."""
    return source.name.rpartition(" ")[2].rpartition("//")[2] if source else ""


def mined_source(status: Status) -> SourceStatus | None:
    """Return the node or pool whose job is being searched, None if none is."""
    return next((source for source in status.sources if source.mined), None)


def reconnects(status: Status) -> int:
    """Return how often a connection to a node or pool was made again, or to another one."""
    return max(0, sum(source.connects for source in status.sources) - 1)


def kilo(rate: float) -> float:
    """Return a rate in thousands a second, to three decimals."""
    return round(rate / 1000, 3)


def _device(parts: list[DeviceStatus]) -> RigDevice:
    first = parts[0]
    return RigDevice(
        id=first.id,
        name=first.name,
        bus=_bus(first.id),
        hash_rate=total_rates(part.hash_rate for part in parts),
        hashes=sum(part.hashes for part in parts),
        up=any(part.up for part in parts),
        paused=all(part.paused for part in parts),
        temperature=first.temperature_celsius,
        fan=None if first.fan_ratio is None else round(100 * first.fan_ratio),
        power=first.power_watts,
    )


def _bus(device: str) -> int | None:
    """Return the bus of a device id such as 0000:65:00.0, in which all numbers are hexadecimal."""
    match = re.match(r"[0-9a-f]{4,8}:([0-9a-f]{2}):[0-9a-f]{2}\.", device)
    return int(match[1], 16) if match else None
