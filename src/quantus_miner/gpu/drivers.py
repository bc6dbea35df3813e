"""The ways to reach devices, by engine; each is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from quantus_miner.gpu.device import DriverError

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device, Launcher


class Driver(Protocol):
    """A module that drives devices."""

    def devices(self) -> list[Device]:
        """All devices. Raises DriverError if there is no driver for any."""

    def open_device(self, device: Device, cache: Path) -> Launcher:
        """Loads the kernels, from the folder ``cache`` where they are there. Raises DeviceLostError."""


def load(engine: str) -> Driver:
    """The driver of ``engine``, gpu-cuda or gpu-opencl. Raises DriverError where its extra is not installed."""
    try:
        if engine == "gpu-cuda":
            from quantus_miner.gpu import cuda

            return cuda
        from quantus_miner.gpu import opencl
    except ImportError as error:
        extra = engine.removeprefix("gpu-")
        raise DriverError(f"{error.name or error} is missing (pip install 'quantus-miner[{extra}]')") from None
    return opencl
