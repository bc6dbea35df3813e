"""Solutions on their way to the live source. Each is on the disk before it is sent, and is sent once.

A solution that cannot be sent now is sent when its header is current again, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from quantus_miner.events import SolutionSent, SolutionUnsent
from quantus_miner.store.rows import StoredSolution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from concurrent.futures import Future

    from quantus_miner.events import Event
    from quantus_miner.model import Solution

log = logging.getLogger("miner.hub")

RETRY_S: Final = 6.0
"""Seconds after which solutions of a header are offered again that the live source did not want. A node wants the next
one of a job after 5 seconds."""
EXPIRY_S: Final = 600.0
"""Seconds for which a solution waits for its header to be current again."""
KEEP_S: Final = 3600.0
"""Seconds for which a solution that was sent is remembered, so that it is not sent again."""
MAX_SOLUTIONS: Final = 10_000
"""Solutions that are remembered. Beyond that, the oldest are forgotten."""


class _State(Enum):
    SAVING = auto()
    WAITING = auto()
    HANDED = auto()
    """The live source has it, and will say whether it was sent."""
    SENT = auto()


@dataclass(slots=True, eq=False)
class _Entry:
    stored: StoredSolution
    at: float
    saved: Future[None]
    state: _State = _State.SAVING


class Outbox:
    """Owned by the event loop's thread. Times are seconds of ``clock``.

    ``keep``, ``settle``: those of the store. ``send``: hands a solution to the live source, which reports with an
    event whether it was sent. It returns False if the header is not the current one.
    """

    def __init__(
        self,
        keep: Callable[[StoredSolution], Future[None]],
        settle: Callable[[Collection[tuple[bytes, int]]], None],
        send: Callable[[bytes, Solution], bool],
        clock: Callable[[], float],
    ) -> None:
        self._keep = keep
        self._settle = settle
        self._send = send
        self._clock = clock
        self._entries: dict[tuple[bytes, int], _Entry] = {}
        self._hold: tuple[bytes, float] | None = None  # the header that is offered again at that time
        self.expired = 0
        """Solutions that were given up."""

    @property
    def waiting(self) -> int:
        """Number of solutions that are not sent yet."""
        return sum(entry.state is not _State.SENT for entry in self._entries.values())

    def restore(self, solutions: Iterable[StoredSolution]) -> None:
        """Take over the solutions of the last run."""
        for stored in solutions:
            state = _State.SENT if stored.sent else _State.WAITING
            self._entries[stored.key] = _Entry(stored, self._clock(), self._keep(stored), state)

    def add(self, header: bytes, solution: Solution) -> Future[None]:
        """Send a solution once it is on the disk, unless it is known. The future is done when it is on the disk."""
        stored = StoredSolution(header, solution)
        if (known := self._entries.get(stored.key)) is not None:
            return known.saved
        if len(self._entries) >= MAX_SOLUTIONS:
            self._forget([next(iter(self._entries))])
        entry = self._entries[stored.key] = _Entry(stored, self._clock(), self._keep(stored))
        asyncio.wrap_future(entry.saved).add_done_callback(lambda _: self._on_saved(entry))
        return entry.saved

    def offer(self, header: bytes) -> None:
        """Send the solutions that wait for ``header``, which is current.

        Forget those that wait for another header of which one was sent: a block needs only one.
        """
        waiting = [entry for entry in self._entries.values() if entry.state is _State.WAITING]
        if not waiting:
            return
        sent = {entry.stored.header for entry in self._entries.values() if entry.state is _State.SENT}
        self._forget([entry.stored.key for entry in waiting if entry.stored.header in sent - {header}])
        for entry in waiting:
            if entry.stored.header == header:
                self._offer(entry)

    def on_event(self, event: Event) -> None:
        """Learn what became of a solution that was handed to the live source."""
        if not isinstance(event, SolutionSent | SolutionUnsent):
            return
        header = event.job.header
        entry = self._entries.get((header, event.solution.nonce))
        if entry is None or entry.state is not _State.HANDED:
            return
        if isinstance(event, SolutionSent):
            entry.state, entry.stored = _State.SENT, replace(entry.stored, sent=True)
            self._keep(entry.stored)
        else:
            entry.state = _State.WAITING
            self._hold = header, self._clock() + RETRY_S

    def tick(self) -> None:
        """Forget what is old."""
        now, gone = self._clock(), []
        for key, entry in self._entries.items():
            if entry.state is _State.SENT:
                if now >= entry.at + KEEP_S:
                    gone.append(key)
            elif now >= entry.at + EXPIRY_S:
                log.warning("A solution for header %s could not be sent in time", entry.stored.header.hex())
                self.expired += 1
                gone.append(key)
        self._forget(gone)

    def _on_saved(self, entry: _Entry) -> None:
        entry.state = _State.WAITING
        self._offer(entry)

    def _offer(self, entry: _Entry) -> None:
        header = entry.stored.header
        if self._hold is not None and self._hold[0] == header and self._clock() < self._hold[1]:
            return
        entry.state = _State.HANDED
        if not self._send(header, entry.stored.solution):
            entry.state = _State.WAITING

    def _forget(self, keys: Collection[tuple[bytes, int]]) -> None:
        for key in keys:
            del self._entries[key]
        if keys:
            self._settle(keys)
