"""The types of the table of backends. Imports no kernel and no driver, so that ``settings`` can import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from quantus_miner.backends.base import Engine
    from quantus_miner.gpu.device import Device
    from quantus_miner.model import Pow


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The settings that engines need."""

    engine: tuple[str, ...]
    kernel: str | None
    gpu_devices: tuple[str, ...]
    gpu_duty: int
    gpu_temp_limit: int | None
    manip_solved_blocks: int | None
    manip_base_delay_ns: int
    manip_step_batch: int
    manip_throttle_cap: int
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one engine. ``workers``: its threads. ``device``: the device they drive; None for the CPU.

    ``subscribe(callback)``: have ``callback`` called for every job that the miner solves, by any engine. The call may
    come from any thread.
    """

    workers: int
    device: Device | None
    subscribe: Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine that the setting ``engine`` can name.

    ``pows``: the proofs of work it has kernels for. ``create(name, options, resources)`` returns an engine; it raises
    EngineUnavailableError if this machine cannot run it, SettingError if an option is wrong. ``probe()`` lists the
    devices and raises DriverError if there is no driver; each device gets an engine with one worker. A backend without
    ``probe`` runs on CPU threads.

    Both functions import what they need when they are called.
    """

    name: str
    pows: frozenset[Pow]
    create: Callable[[str, EngineOptions, Resources], Engine]
    probe: Callable[[], Sequence[Device]] | None = None

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        """The kind of hardware that its workers use."""
        return "cpu" if self.probe is None else "gpu"
