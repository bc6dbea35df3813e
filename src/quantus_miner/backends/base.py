"""The interface between the miner and an engine."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from quantus_miner import native

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.gpu.device import Device
    from quantus_miner.model import Job, Pow
    from quantus_miner.native import Outcome


class Control:
    """Stop signal and progress of one worker, shared by its thread and the miner."""

    def __init__(self) -> None:
        self.native = native.NativeControl()
        self.sleeping = False
        self._stopped = threading.Event()
        self._counted = 0

    @property
    def hashes(self) -> int:
        """Nonces tested since the last reset. Grows during a search."""
        return self.native.hashes + self._counted

    @property
    def stopped(self) -> bool:
        """True if ``stop`` was called since the last reset."""
        return self._stopped.is_set()

    def count(self, hashes: int) -> None:
        """Add nonces that were tested outside a native kernel. Called by the searching thread."""
        self._counted += hashes

    def reset(self) -> None:
        """Clear the stop signal and the count of hashes. Called before each slice."""
        self._stopped.clear()
        self._counted = 0
        self.native.reset()

    def stop(self) -> None:
        """End the current search or sleep at once, and all later ones until the next reset."""
        self._stopped.set()
        self.native.stop()

    def sleep(self, seconds: float) -> bool:
        """Wait until the time is over or ``stop`` is called. Return True if it was stopped."""
        self.sleeping = True
        try:
            return self._stopped.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self.sleeping = False


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The status of an engine. ``device``: the device that its only worker drives; None if its workers are CPU threads.

    ``fault``: why the last attempt to use the device failed. ``false_positives``: how many the device reported.
    """

    device: Device | None = None
    fault: str | None = None
    false_positives: int = 0


class Engine(Protocol):
    """Searches nonces."""

    @property
    def name(self) -> str:
        """The name that the setting ``engine`` uses."""

    @property
    def workers(self) -> int:
        """Number of threads that may search at the same time."""

    def status(self) -> EngineStatus:
        """Return its device and the state of the device. May be called from any thread."""

    def kernel(self, pow: Pow) -> str | None:  # noqa: A002 - the field's word
        """Return the name of the kernel that searches ``pow``; None if this engine has none."""

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """Test the nonces at ``start``, … ``start + count - 1`` in the job's order and end at the first valid one.

        Ends early, with fewer tested, only when ``control`` is stopped. Raises DeviceLostError if the device fails and
        DevicePausedError if the device must pause. In both cases ``control.hashes`` nonces from ``start`` on were
        tested, and a later call tries again.
        """

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        """Return a function that applies ``options`` and ``workers`` to the running engine. It must not raise.

        Return None if they need a new engine. Nothing changes until the function is called. Raises SettingError if an
        option is wrong, EngineUnavailableError if this machine cannot run the engine with these options.
        """

    def close(self) -> None:
        """Release all resources. Called once, from any thread, when no thread uses the engine any more."""
