"""Pauses that nobody asks for by hand: outside the schedule, and while other programs need the machine."""

from __future__ import annotations

import datetime as dt
import logging
import time
from typing import TYPE_CHECKING, Final

from quantus_miner.host import cpus
from quantus_miner.host.load import others_cpu_time
from quantus_miner.mining.pauses import BUSY, SCHEDULE
from quantus_miner.mining.rates import RateMeter
from quantus_miner.parts.part import MinerPart

if TYPE_CHECKING:
    from quantus_miner.settings import Settings

log = logging.getLogger("miner")

BUSY_S: Final = 10.0
"""Seconds over which other programs must have needed the machine on average before mining pauses."""
QUIET_S: Final = 60.0
"""Seconds over which they must not have needed it on average before mining resumes."""
PER_SECOND: Final = 1000
"""Units of a meter in a second of CPU time."""


class AutomaticPauses(MinerPart):
    """Pauses and resumes mining by the clock and by the load that others cause."""

    name = "The schedule"
    settings = frozenset(("schedule", "pause_when_busy"))

    async def start(self, settings: Settings) -> None:
        """Begin with ``settings``."""
        self._use(settings)

    async def apply(self, old: Settings, new: Settings) -> None:  # noqa: ARG002 - both are set at once
        """Change to ``new``."""
        self._use(new)

    def tick(self) -> None:
        """Pause or resume if it is time to."""
        now = dt.datetime.now().astimezone()
        self._set(SCHEDULE, paused=self._schedule is not None and not self._schedule.includes(now))
        self._set(BUSY, paused=self._load is not None and self._load.is_busy(time.monotonic()))

    def _use(self, settings: Settings) -> None:
        self._schedule = settings.schedule
        percent = settings.pause_when_busy
        self._load = None if percent is None else Load(percent, cpus.detect().cpus, time.monotonic())
        self.tick()

    def _set(self, reason: str, *, paused: bool) -> None:
        miner = self.components.miner
        (miner.pause if paused else miner.resume)(reason)


class Load:
    """Says whether other programs use more than ``percent`` of ``cpus``."""

    def __init__(self, percent: int, own_cpus: frozenset[int], now: float) -> None:
        self._most = percent / 100 * len(own_cpus) * PER_SECOND
        self._cpus = own_cpus
        self._used = self._read()
        self._meters = [RateMeter(now, self._used, window_s) for window_s in (BUSY_S, QUIET_S)]
        self._busy = False

    def is_busy(self, now: float) -> bool:
        """Return True from when they did for BUSY_S until they did not for QUIET_S, on average."""
        # The kernel counts in ticks, so the difference may seem to fall.
        self._used = max(self._used, self._read())
        for meter in self._meters:
            meter.sample(now, self._used)
        short, long = (meter.average(now, self._used) for meter in self._meters)
        if short is not None and short > self._most:
            self._busy = True
        elif long is not None and long <= self._most:
            self._busy = False
        return self._busy

    def _read(self) -> int:
        return int((others_cpu_time(self._cpus) or 0.0) * PER_SECOND)
