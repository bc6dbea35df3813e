"""What the miner asks of an engine."""

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
        """Nonces tested since the last reset; moves during a search."""
        return self.native.hashes + self._counted

    @property
    def stopped(self) -> bool:
        """Whether ``stop`` was called since the last reset."""
        return self._stopped.is_set()

    def count(self, hashes: int) -> None:
        """Add nonces that were tested outside a native kernel. Called by the searching thread."""
        self._counted += hashes

    def reset(self) -> None:
        """Before a slice: no stop, no hashes."""
        self._stopped.clear()
        self._counted = 0
        self.native.reset()

    def stop(self) -> None:
        """Ends the search or sleep under way at once, and all later ones until the next reset."""
        self._stopped.set()
        self.native.stop()

    def sleep(self, seconds: float) -> bool:
        """Waits, or less when stopped; whether it was stopped."""
        self.sleeping = True
        try:
            return self._stopped.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self.sleeping = False


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """An engine at one moment. ``device``: what its one worker drives; None: its workers are CPU threads.

    ``fault``: why the device could not be used when that was last tried. ``false_positives``: how many it reported.
    """

    device: Device | None = None
    fault: str | None = None
    false_positives: int = 0


class Engine(Protocol):
    """Searches nonces."""

    @property
    def name(self) -> str:
        """As in the setting ``engine``."""

    @property
    def workers(self) -> int:
        """Threads that may search at the same time."""

    def status(self) -> EngineStatus:
        """Return its device and how that is. May be called from any thread."""

    def kernel(self, pow: Pow) -> str | None:  # noqa: A002 - the field's word
        """Return the name of the kernel that searches ``pow``; None if this engine has none."""

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """Test the nonces at ``start``, … ``start + count - 1`` in the job's order and end at the first valid one.

        Ends early, with fewer tested, only when ``control`` is stopped. Raises DeviceLostError if its device fails,
        and DevicePausedError if that has to rest: then ``control.hashes`` nonces from ``start`` on were tested, and
        a later call tries again.
        """

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        """Return what makes it one for changed ``options`` and ``workers`` while it runs; it raises nothing.

        None: an engine for them has to be made anew. Nothing changes before the call. Raises SettingError if an option
        is wrong, EngineUnavailableError if this machine cannot run it like that.
        """

    def close(self) -> None:
        """Let go of what it holds. Called once, when no thread uses it any more. May be called from any thread."""
