"""What an engine needs from a graphics card, independent of its driver."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantus_miner.model import Order

IN_FLIGHT: Final = 2
"""Most launches in flight on a device: one runs while the host reads the one before."""


class DriverError(Exception):
    """No device of this kind can be used here. ``str()`` is the reason, a phrase for ``is not available: …``."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device, as its driver listed it.

    ``index``: its place in the list of its engine. ``pci``: such as 0000:65:00.0, None if unknown. ``platform``: the
    driver that lists it. ``ordinal`` of ``equals``: its place among the devices of its platform with the same name
    and PCI address.
    """

    index: int
    name: str
    kind: Literal["gpu", "accelerator", "cpu"]
    pci: str | None
    driver: str
    platform: str = ""
    ordinal: int = 0
    equals: int = 1

    def __str__(self) -> str:
        return f"device {self.index}, {self.name}"

    @property
    def id(self) -> str:
        """Return the PCI address, which stays the same when other devices come and go, or the index without one.

        A part of a card has its number behind the address.
        """
        if self.pci is None:
            return str(self.index)
        return self.pci if self.equals == 1 else f"{self.pci}/{self.ordinal}"

    @property
    def identity(self) -> tuple[object, ...]:
        """Return what distinguishes this device from all others, even if the indices change.

        If one of several equal devices without a PCI address is gone, all of them change their identity, since nobody
        can tell which of them are left.
        """
        return self.platform, self.name, self.pci, self.ordinal, self.equals


def number_equals(devices: Iterable[Device]) -> list[Device]:
    """Return ``devices`` with their ``ordinal`` and ``equals``."""
    listed = list(devices)
    equals = Counter((device.platform, device.name, device.pci) for device in listed)
    seen: Counter[tuple[str, str, str | None]] = Counter()
    numbered = []
    for device in listed:
        key = device.platform, device.name, device.pci
        numbered.append(replace(device, ordinal=seen[key], equals=equals[key]))
        seen[key] += 1
    return numbered


class Readout(NamedTuple):
    """The result of a launch. ``seconds``: on the device. ``offsets``: of up to MAX_HITS candidates, in any order."""

    seconds: float
    candidates: int
    offsets: Sequence[int]


class Launcher(Protocol):
    """A device with the kernels loaded, for one thread at a time. All methods raise DeviceLostError if it fails."""

    @property
    def multiprocessors(self) -> int:
        """Return how many units of the device work on blocks at the same time."""

    def launch(
        self, order: Order, words: tuple[int, ...], top_target: int, first: int, count: int, blocks: int
    ) -> None:
        """Queue a test of ``count`` nonces of a span from offset ``first``. At most IN_FLIGHT may be uncollected."""

    def collect(self) -> Readout:
        """Wait for the oldest launch without keeping a CPU busy, and return its result."""

    def close(self) -> None:
        """Release the device, whatever state it is in. Raises nothing."""


def pci_address(domain: int, bus: int, slot: int, function: int = 0) -> str:
    """Return a PCI address as lspci writes it."""
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
