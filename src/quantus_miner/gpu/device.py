"""What an engine asks of a graphics card, whatever drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantus_miner.model import Order

IN_FLIGHT: Final = 2
"""Launches that a device holds at most: one runs while the host reads the one before."""


class DriverError(Exception):
    """No device of this kind can be used here; ``str()`` is the reason, a phrase for ``is not available: …``."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device. ``index``: its place in what the driver lists. ``pci``: such as 0000:65:00.0, None where unknown."""

    index: int
    name: str
    kind: Literal["gpu", "accelerator", "cpu"]
    pci: str | None
    driver: str

    def __str__(self) -> str:
        return f"device {self.index}, {self.name}"

    @property
    def id(self) -> str:
        """The PCI address, which stays where others come and go, else the index."""
        return self.pci or str(self.index)


class Readout(NamedTuple):
    """What a launch gave. ``seconds``: on the device. ``offsets``: of the first MAX_HITS candidates, in any order."""

    seconds: float
    candidates: int
    offsets: Sequence[int]


class Launcher(Protocol):
    """A device with the kernels loaded, for one thread at a time. All methods raise DeviceLostError if it fails."""

    @property
    def multiprocessors(self) -> int:
        """What works on blocks at the same time."""

    def launch(self, order: Order, words: tuple[int, ...], top_limit: int, first: int, count: int, blocks: int) -> None:
        """Queues a test of ``count`` nonces of a span from offset ``first``; at most IN_FLIGHT are not collected."""

    def collect(self) -> Readout:
        """Waits, without keeping a CPU busy, for the oldest launch."""

    def close(self) -> None:
        """Lets go of the device, whatever state it is in. Raises nothing."""


def pci_address(domain: int, bus: int, slot: int, function: int = 0) -> str:
    """As lspci writes it."""
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
