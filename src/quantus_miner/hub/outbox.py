"""Solutions on their way to the live source. Each is stored before it is sent, and is sent once.

A solution that cannot be sent now is sent when its header is current again, also after a restart. What is stored also
says whether it is about to be sent. If the hub is killed then, the live source may have it or not. So after a restart,
it is only sent again if the live source still works on its header after DOUBT_S: a node that had got it would not.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from quantus_miner.events import SolutionSent, SolutionUnsent
from quantus_miner.store.rows import Sent, StoredSolution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from quantus_miner.events import Event
    from quantus_miner.model import Solution

log = logging.getLogger("miner.hub")

RETRY_S: Final = 6.0
"""Seconds after which solutions of a header are offered again that the live source did not want. A node wants the next
one of a job after 5 seconds."""
DOUBT_S: Final = 2.0
"""Seconds of a header after which a solution that was perhaps sent has not arrived: by then, a node has imported the
block and asks for the next one. If it is slower, it ignores the second one."""
EXPIRY_S: Final = 600.0
"""Seconds for which a solution waits for its header to be current again."""
KEEP_S: Final = 3600.0
"""Seconds for which a solution that was sent is remembered, so that it is not sent again."""
MAX_SOLUTIONS: Final = 10_000
"""Solutions that are remembered. Beyond that, the oldest are forgotten."""


class Ledger(Protocol):
    """Where solutions are stored: the store of this machine, or the NATS servers of a cluster."""

    def keep(self, solution: StoredSolution) -> Future[None]:
        """Store a solution, or its new state. The future is done when it is stored."""

    def settle(self, keys: Collection[tuple[bytes, int]]) -> None:
        """Forget solutions. ``keys``: header and nonce of each."""


class _State(Enum):
    SAVING = auto()
    WAITING = auto()
    DOUBTFUL = auto()
    """It waits, and was perhaps sent by an earlier run."""
    HANDED = auto()
    """The live source has it, and will say whether it was sent."""
    SENT = auto()


RESTORED: Final = {Sent.NO: _State.WAITING, Sent.PERHAPS: _State.DOUBTFUL, Sent.YES: _State.SENT}


@dataclass(slots=True, eq=False)
class _Entry:
    stored: StoredSolution
    at: float
    saved: Future[None]
    state: _State = _State.SAVING


class Outbox:
    """Owned by the event loop's thread. Times are seconds of ``clock``.

    ``send``: hands a solution to the live source, which reports with an event whether it was sent. It returns False if
    the header is not the current one.
    """

    def __init__(
        self,
        ledger: Ledger,
        send: Callable[[bytes, Solution], bool],
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._send = send
        self._clock = clock
        self._entries: dict[tuple[bytes, int], _Entry] = {}
        self._current: bytes | None = None
        self._since = 0.0
        """Since when that is the current header."""
        self._hold: tuple[bytes, float] | None = None  # the header that is offered again at that time
        self.expired = 0
        """Solutions that were given up."""

    @property
    def waiting(self) -> int:
        """Number of solutions that are not sent yet."""
        return sum(entry.state is not _State.SENT for entry in self._entries.values())

    def restore(self, solutions: Iterable[StoredSolution]) -> None:
        """Take over the solutions of the last run, or of the hub that led before. They are stored already."""
        saved: Future[None] = Future()
        saved.set_result(None)
        for stored in solutions:
            known = self._entries.get(stored.key)
            if known is None or known.state is not _State.SENT:
                self._entries[stored.key] = _Entry(stored, self._clock(), saved, RESTORED[stored.sent])

    def add(self, header: bytes, solution: Solution) -> Future[None]:
        """Send a solution once it is stored, unless it is known. The future is done when it is stored."""
        stored = StoredSolution(header, solution, Sent.PERHAPS if header == self._current else Sent.NO)
        if (known := self._entries.get(stored.key)) is not None:
            return known.saved
        if len(self._entries) >= MAX_SOLUTIONS:
            self._forget([next(iter(self._entries))])
        entry = self._entries[stored.key] = _Entry(stored, self._clock(), self._ledger.keep(stored))
        self._watch(entry)
        return entry.saved

    def offer(self, header: bytes | None) -> None:
        """Send the solutions that wait for ``header``, which is current; None if the live source has no work.

        Forget those that wait for another header of which one was sent: a block needs only one.
        """
        if header != self._current:
            self._current, self._since = header, self._clock()
        states = (_State.WAITING, _State.DOUBTFUL)
        waiting = [entry for entry in self._entries.values() if entry.state in states]
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
        if entry is None:
            return
        if isinstance(event, SolutionSent):
            entry.state, entry.stored = _State.SENT, replace(entry.stored, sent=Sent.YES)
            self._ledger.keep(entry.stored)
        elif entry.state is _State.HANDED:
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
                if entry.state is not _State.DOUBTFUL:  # one that was perhaps sent has most likely arrived
                    log.warning("A solution for header %s could not be sent in time", entry.stored.header.hex())
                    self.expired += 1
                gone.append(key)
        self._forget(gone)

    def _watch(self, entry: _Entry) -> None:
        asyncio.wrap_future(entry.saved).add_done_callback(lambda _: self._on_saved(entry))

    def _on_saved(self, entry: _Entry) -> None:
        # It may have been forgotten, or replaced by what another hub knows of it.
        if entry.state is _State.SAVING and self._entries.get(entry.stored.key) is entry:
            entry.state = _State.WAITING
            self._offer(entry)

    def _offer(self, entry: _Entry) -> None:
        header = entry.stored.header
        if self._hold is not None and self._hold[0] == header and self._clock() < self._hold[1]:
            return
        if entry.state is _State.DOUBTFUL and self._clock() < self._since + DOUBT_S:
            return
        if header == self._current and entry.stored.sent is Sent.NO:
            entry.state, entry.stored = _State.SAVING, replace(entry.stored, sent=Sent.PERHAPS)
            entry.saved = self._ledger.keep(entry.stored)
            self._watch(entry)
            return
        entry.state = _State.HANDED
        if not self._send(header, entry.stored.solution):
            entry.state = _State.WAITING

    def _forget(self, keys: Collection[tuple[bytes, int]]) -> None:
        for key in keys:
            del self._entries[key]
        if keys:
            self._ledger.settle(keys)
