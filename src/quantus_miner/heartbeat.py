"""Signs of life for the service manager: given as long as the event loop turns and every worker with work advances."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.mining.worker import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantus_miner.host.notify import Notifier
    from quantus_miner.mining.miner import Miner
    from quantus_miner.mining.stats import LinkStats

log = logging.getLogger("miner")

MAX_REASON: Final = 200
MAX_STATUS: Final = 1_000
"""Characters of a peer's reason, and of a whole status: service managers take no more than 4,096 bytes."""


class Heartbeat:
    """Feeds the watchdog from the service's tick; a service that is stuck is restarted by its manager.

    ``links`` and ``store_ok``: what the status line tells beside the workers. A pool that is down or a full disk is
    nothing that a restart would mend.
    """

    def __init__(
        self,
        miner: Miner,
        notifier: Notifier,
        clock: Callable[[], float] = time.monotonic,
        *,
        links: Callable[[], tuple[LinkStats, ...]] = tuple,
        store_ok: Callable[[], bool] = lambda: True,
    ) -> None:
        self._miner = miner
        self._notifier = notifier
        self._clock = clock
        self._links = links
        self._store_ok = store_ok
        self._ready = False
        self._next = 0.0
        self._well = True
        self._down: dict[str, float] = {}  # links without a connection, since when

    def ready(self) -> None:
        """The service answers and its workers run."""
        self._ready = True
        self._notifier.send("READY=1")
        self.tick()

    def tick(self) -> None:
        """To be called about once a second, after ``Miner.tick``."""
        now = self._clock()
        links = self._links()
        down = {link.name: self._down.get(link.name, now) for link in links if not link.connected}
        changed, self._down = down.keys() != self._down.keys(), down
        if trouble := self._trouble():
            if self._well:
                log.error("%s", trouble)
                self._notifier.send(f"STATUS={trouble}")
            self._next = now
        elif now >= self._next or changed:
            # Ticks come a second apart: the next one could be too late.
            self._next = now + self._notifier.interval_s - 1.0
            status = "; ".join((self._working(), *self._link_faults(links, now), *self._faults()))
            self._notifier.send("WATCHDOG=1", f"STATUS={status[:MAX_STATUS]}")
        self._well = not trouble

    def stopping(self) -> None:
        """The service has begun to end."""
        if self._ready:
            self._notifier.send("STOPPING=1", "STATUS=Stopping")

    def _trouble(self) -> str:
        """What is wrong with the workers, in one line; empty: nothing."""
        if stalled := self._miner.stalled():
            return f"Worker {', '.join(map(str, stalled))} has work and has not advanced for {STALL_S:g} s"
        return "" if self._miner.healthy else "No worker is left"

    def _working(self) -> str:
        stats = self._miner.stats()
        rate = units.hash_rate(sum(stats.hash_rates.values()))
        return f"{rate}, {stats.active_jobs} active jobs, {stats.busy_workers} of {stats.workers} workers busy"

    def _link_faults(self, links: tuple[LinkStats, ...], now: float) -> Iterator[str]:
        """What is wrong with the live sources, down to the one that is mined: those after it are not needed."""
        for number, link in enumerate(links):
            if link.mined:
                if number:
                    yield f"mining for {link.name} instead"
                if link.failing:
                    yield f"{link.name} is failing ({link.failing})"
                return
            if link.refusal:
                yield f"{link.name} refuses us: {link.refusal[:MAX_REASON]}"
            elif link.connected:
                yield f"{link.name} {f'is failing ({link.failing})' if link.failing else 'is not mined yet'}"
            else:
                yield f"{link.name} not connected for {units.duration(now - self._down[link.name])}"

    def _faults(self) -> Iterator[str]:
        if failed := self._miner.failed():
            yield f"worker {', '.join(map(str, failed))} has failed"
        if not self._store_ok():
            yield "jobs are kept in memory only"
