"""The drivers of devices, by the language of their kernels; each is imported only when it is needed."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Final, Protocol

from quantus_miner.gpu.device import DriverError

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.gpu.device import Device, Launcher

MODULES: Final = {"cuda": "cuda", "opencl": "pyopencl"}
"""The module that each extra installs. An extra is named after the language of its kernels."""
SERVICE_PREFIX: Final = "/opt/quantus-miner"
"""Where ``make install`` puts the program, see systemd/install."""


class Driver(Protocol):
    """A module that drives devices."""

    def devices(self) -> list[Device]:
        """Return all devices. Raises DriverError if there is no driver."""

    def open_device(self, device: Device, cache: Path) -> Launcher:
        """Load the kernels from the folder ``cache``, or compile them. Raises DeviceLostError."""


def load(language: str) -> Driver:
    """Return the driver for ``language``, a key of MODULES. Raises DriverError if its extra is not installed."""
    try:
        if language == "cuda":
            from quantus_miner.gpu import cuda

            return cuda
        from quantus_miner.gpu import opencl
    except ImportError as error:
        raise DriverError(f"{error.name or error} is missing; {_install(language)}") from None
    return opencl


def _install(extra: str) -> str:
    """Return how to install ``extra`` for this program."""
    if sys.prefix == SERVICE_PREFIX:
        # The folder is made anew each time, with the extras that are named.
        present = {name for name, module in MODULES.items() if importlib.util.find_spec(module)}
        extras = ",".join(sorted({extra, *present}))
        return f"to add it to the service, run `sudo make install EXTRAS={extras}` in the miner's source folder"
    if importlib.util.find_spec("pip") is None:
        return f"to add it, install a package, an image or a bundle that was made with EXTRAS={extra}"
    return f"to add it, run `{sys.executable} -m pip install '.[{extra}]'` in the miner's source folder"
