"""A GPU engine on the CPU, through OpenCL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.gpu import drivers

from .harness import Watched, engine_on, open_watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantus_miner.backends.gpu import GpuEngine
    from quantus_miner.gpu.device import Device


@pytest.fixture(scope="module")
def cpu(opencl_on_cpu: None) -> Device:
    """The OpenCL device that the CPU is."""
    return next(device for device in drivers.load("opencl").devices() if device.kind == "cpu")


@pytest.fixture(scope="module")
def opencl(cpu: Device) -> Any:
    """Its driver."""
    return drivers.load("opencl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For compiled kernels."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def watched(cpu: Device, folder: Path) -> Iterator[list[Watched]]:
    """The launchers that the fixture ``engine`` opened, the newest last."""
    opened: list[Watched] = []
    yield opened
    for launcher in opened:
        launcher.close()


@pytest.fixture
def engine(cpu: Device, folder: Path, watched: list[Watched]) -> GpuEngine:
    made = engine_on(cpu, partial(open_watched, cpu, folder, watched))
    made.open()
    watched[-1].launches.clear()
    return made
