"""Signs of life for the service manager, sent while the event loop runs and every worker with work advances."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from quantus_miner import wording
from quantus_miner.mining.worker import STALL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.host.notify import Notifier
    from quantus_miner.monitor import Snapshot

log = logging.getLogger("miner")


class Heartbeat:
    """Feeds the watchdog from the monitor's snapshots. The service manager restarts a service that is stuck.

    A pool that is down or a full disk appears in the status line, but a restart would not help, so the watchdog is fed.
    """

    def __init__(self, notifier: Notifier, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._clock = clock
        self._ready = False
        self._next = 0.0
        self._well = True
        self._down: set[str] = set()  # names of the links without a connection

    def ready(self, snapshot: Snapshot) -> None:
        """Report that the service is ready: it answers requests and its workers run."""
        self._ready = True
        self._notifier.send("READY=1")
        self.on_snapshot(snapshot)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Send a sign of life if it is due. Called about once a second."""
        now, down = self._clock(), {link.name for link in snapshot.sources if not link.connected}
        changed, self._down = down != self._down, down
        if trouble := _trouble(snapshot):
            if self._well:
                log.error("%s", trouble)
                self._notifier.send(f"STATUS={trouble}")
            self._next = now
        elif now >= self._next or changed:
            # Snapshots come a second apart: the next one could be too late.
            self._next = now + self._notifier.interval_s - 1.0
            self._notifier.send("WATCHDOG=1", f"STATUS={wording.status(snapshot)}")
        self._well = not trouble

    def stopping(self) -> None:
        """Report that the service is stopping."""
        if self._ready:
            self._notifier.send("STOPPING=1", "STATUS=Stopping")


def _trouble(snapshot: Snapshot) -> str:
    """Return what is wrong with the workers, in one line. Empty if nothing is. A hub has no workers."""
    miner = snapshot.miner
    if miner is None and snapshot.hub is not None:
        return ""
    if miner is None:
        return "The state of the workers is unknown"
    if stalled := miner.stalled:
        return f"Worker {', '.join(map(str, stalled))} has work and has not advanced for {STALL_S:g} s"
    return "" if miner.healthy else "No worker is left"
