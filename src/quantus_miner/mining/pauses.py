"""Which devices do not mine, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CPU: Final = "cpu"
"""Name of all CPU workers together, as one device."""


USER: Final = "user"
SCHEDULE: Final = "schedule"
BUSY: Final = "busy"
HUB: Final = "hub"
"""Reasons of pauses: a person asked for it here, it is not the time to mine, other programs need the machine, or a
person asked for it at the hub."""


class Pause(NamedTuple):
    """A reason not to mine. ``device``: its id, CPU, or None for all devices, also those that come later."""

    device: str | None
    reason: str


class Pauses:
    """The pauses of a miner. A device mines when none covers it. Not thread-safe."""

    def __init__(self) -> None:
        self._pauses: set[Pause] = set()

    def __iter__(self) -> Iterator[Pause]:
        return iter(sorted(self._pauses, key=lambda pause: (pause.device or "", pause.reason)))

    def cover(self, device: str) -> bool:
        """Return True if ``device`` is paused."""
        return any(pause.device in (None, device) for pause in self._pauses)

    def add(self, pause: Pause) -> bool:
        """Add a pause. Return False if another one with the same reason covers it."""
        if pause in self._pauses or Pause(None, pause.reason) in self._pauses:
            return False
        if pause.device is None:
            self._pauses = {other for other in self._pauses if other.reason != pause.reason}
        self._pauses.add(pause)
        return True

    def remove(self, pause: Pause, devices: Iterable[str]) -> bool:
        """End a pause; without a device, all with its reason. Return False if there was none.

        If all of ``devices`` pause for that reason, the others continue to.
        """
        same = {other for other in self._pauses if other.reason == pause.reason}
        ended = same if pause.device is None else same & {pause}
        if pause.device is not None and Pause(None, pause.reason) in same:
            ended = same
            self._pauses |= {Pause(device, pause.reason) for device in devices if device != pause.device}
        self._pauses -= ended
        return bool(ended)


def check_device(device: str, devices: Iterable[str]) -> None:
    """Raise MinerError if ``device`` is none of ``devices``."""
    known = sorted(set(devices))
    if device not in known:
        raise MinerError(f"there is no device {device[:80]!r}; allowed: {', '.join(known)}")
