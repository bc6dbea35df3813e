"""Signs of life for the service manager: given as long as the event loop turns and every worker with work advances."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from quantus_miner import units
from quantus_miner.worker import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.host.notify import Notifier
    from quantus_miner.miner import Miner

log = logging.getLogger("miner")


class Heartbeat:
    """Feeds the watchdog from the service's tick; a service that is stuck is restarted by its manager."""

    def __init__(self, miner: Miner, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._miner = miner
        self._notifier = notifier
        self._clock = clock
        self._next = 0.0
        self._well = True

    def ready(self) -> None:
        """The service answers and its workers run."""
        self._notifier.send("READY=1")
        self.tick()

    def tick(self) -> None:
        """To be called about once a second, after ``Miner.tick``."""
        now = self._clock()
        if trouble := self._trouble():
            if self._well:
                log.error("%s", trouble)
                self._notifier.send(f"STATUS={trouble}")
            self._next = now
        elif now >= self._next:
            # Ticks come a second apart: the next one could be too late.
            self._next = now + self._notifier.interval_s - 1.0
            self._notifier.send("WATCHDOG=1", f"STATUS={self._status()}")
        self._well = not trouble

    def stopping(self) -> None:
        """The service has begun to end."""
        self._notifier.send("STOPPING=1", "STATUS=Stopping")

    def _trouble(self) -> str:
        """What is wrong with the workers, in one line; empty: nothing."""
        if stalled := self._miner.stalled():
            return f"Worker {', '.join(map(str, stalled))} has work and has not advanced for {STALL_S:g} s"
        return "" if self._miner.healthy else "No worker is left"

    def _status(self) -> str:
        stats = self._miner.stats()
        rate = units.hash_rate(sum(stats.hash_rates.values()))
        return f"{rate}, {stats.active_jobs} active jobs, {stats.busy_workers} of {stats.workers} workers busy"
