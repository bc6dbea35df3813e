"""The hub: takes the job of the live source to all who search it, and their solutions back."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from quantus_miner.hub.outbox import Outbox
from quantus_miner.mining.confirm import hash_again
from quantus_miner.model import Pow, Solution

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from quantus_miner.hub.outbox import Ledger
    from quantus_miner.model import LiveJob
    from quantus_miner.sources.link import Link
    from quantus_miner.sources.searcher import LiveSearch

log = logging.getLogger("miner.hub")


class Work:
    """One job of the live source, as the hub gives it out. Implements LiveSearch.

    ``number``: grows with each job. ``hashes``: what the shares for it prove, on average.
    """

    def __init__(
        self, hub: Hub, link: Link, job: LiveJob, number: int, on_solution: Callable[[LiveSearch, Solution], None]
    ) -> None:
        self._hub = hub
        self.link = link
        self.job = job
        self.number = number
        self.on_solution = on_solution
        self.hashes = 0
        self._began = hub.clock()
        self._ended: float | None = None

    @property
    def elapsed(self) -> float:
        """See ``LiveSearch``."""
        return (self._hub.clock() if self._ended is None else self._ended) - self._began

    def end(self) -> None:
        """Stop its time."""
        self._ended = self._hub.clock()

    def cancel(self) -> None:
        """See ``LiveSearch``."""
        self._hub.withdraw(self)


class Hub:
    """Implements Searcher for the live source. Owned by the event loop's thread.

    ``work``: the current job; None if there is none. ``clock``: time in seconds. ``leads``: returns False if another
    hub may lead by now.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        leads: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.leads = leads
        self.outbox = Outbox(ledger, self._send, clock)
        self.work: Work | None = None
        self.idle_since = clock()
        """Since when there is no work, if there is none."""
        self.proven = 0
        """Sum of the difficulties of all accepted shares and solutions: the nonces that they take on average."""
        self._numbers = 0
        self._watchers: list[Callable[[], None]] = []

    def watch(self, on_work: Callable[[], None]) -> None:
        """Have ``on_work`` called whenever ``work`` has changed."""
        self._watchers.append(on_work)

    def search(
        self,
        link: Link,
        job: LiveJob,
        on_solution: Callable[[LiveSearch, Solution], None],
        *,
        priority: int,  # noqa: ARG002 - the live source is the only one
        replaces: LiveSearch | None,
    ) -> Work:
        """See ``Searcher.search``."""
        if isinstance(replaces, Work):
            replaces.end()
        self._numbers += 1
        self.work = work = Work(self, link, job, self._numbers, on_solution)
        self._tell()
        self.outbox.offer(job.header)
        return work

    def withdraw(self, work: Work) -> None:
        """End a job without another one."""
        work.end()
        if self.work is work:
            self.work, self.idle_since = None, self.clock()
            self._tell()
            self.outbox.offer(None)

    def prove(self, difficulty: int, header: bytes | None = None) -> None:
        """Count accepted work of that difficulty. ``header``: of the hub's own jobs."""
        self.proven += difficulty
        if self.work is not None and self.work.job.header == header:
            self.work.hashes += difficulty

    def solve(self, header: bytes, nonce: int) -> Future[None] | None:
        """Send the live source a nonce that meets its target. The future is done when it is stored.

        Return None if it does not meet the target when it is hashed again.
        """
        value = hash_again(Pow.POSEIDON2, header, nonce)
        work = self.work
        if nonce == 0 or (work is not None and work.job.header == header and value > work.job.target):
            log.error("Dropped nonce %x for header %s, whose second check failed", nonce, header.hex())
            return None
        return self.outbox.add(header, Solution(nonce, value))

    def tick(self) -> None:
        """Offer solutions again that were not wanted, and forget old ones. Called about once a second."""
        if self.work is not None:
            self.outbox.offer(self.work.job.header)
        self.outbox.tick()

    def _send(self, header: bytes, solution: Solution) -> bool:
        work = self.work
        if work is None or work.job.header != header or solution.value > work.job.target or not self.leads():
            return False
        if not solution.nonce.to_bytes(64).startswith(work.job.prefix):
            return False  # the pool has another extranonce for us now
        work.on_solution(work, solution)
        return True

    def _tell(self) -> None:
        for watcher in self._watchers:
            try:
                watcher()
            except Exception:
                log.exception("Passing on the work has failed")
