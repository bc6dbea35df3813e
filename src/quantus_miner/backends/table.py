"""The table of backends, the only place that names engines.

Settings, ``devices``, ``doctor``, ``bench``, the start of the service and the tests of the documentation read it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from quantus_miner.backends.backend import Backend, EngineOptions, Resources
from quantus_miner.model import Pow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.gpu.device import Device


def _fast(name: str, options: EngineOptions, resources: Resources) -> Engine:
    from quantus_miner.backends import cpu

    return cpu.create_fast(name, options, resources)


def _baseline(name: str, options: EngineOptions, resources: Resources) -> Engine:
    from quantus_miner.backends import cpu

    return cpu.create_baseline(name, options, resources)


def _throttled(name: str, options: EngineOptions, resources: Resources) -> Engine:
    from quantus_miner.backends import throttled

    return throttled.create(name, options, resources)


def _gpu(language: str, name: str, options: EngineOptions, resources: Resources) -> Engine:
    from quantus_miner.backends import gpu

    return gpu.create(language, name, options, resources)


def _devices(language: str) -> Sequence[Device]:
    from quantus_miner.gpu import drivers

    return drivers.load(language).devices()


FAST: Final = "cpu-fast"
"""The default."""
BASELINE: Final = "cpu-baseline"
"""The reference for the other engines, and the one to use if another computes wrong results."""
THROTTLED: Final = "cpu-chain-manipulator"

_ALL: Final = frozenset(Pow)
_POSEIDON2: Final = frozenset({Pow.POSEIDON2})

BACKENDS: Final[tuple[Backend, ...]] = (
    Backend(FAST, _ALL, _fast),
    Backend(BASELINE, _ALL, _baseline),
    Backend(THROTTLED, _ALL, _throttled),
    Backend("gpu-cuda", _POSEIDON2, partial(_gpu, "cuda"), partial(_devices, "cuda")),
    Backend("gpu-opencl", _POSEIDON2, partial(_gpu, "opencl"), partial(_devices, "opencl")),
)


def names() -> tuple[str, ...]:
    """Return the names of all backends, in the order of the table."""
    return tuple(backend.name for backend in BACKENDS)


def find(name: str) -> Backend:
    """Return the backend called ``name``, which is one of ``names()``."""
    return next(backend for backend in BACKENDS if backend.name == name)
