"""Who searches the job of the live source: here the miner of this process. A hub passes the job on instead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING, Protocol

from quantus_miner.model import Job
from quantus_miner.pow.order import fastest_order, positions_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.mining.miner import Miner
    from quantus_miner.mining.search import Search
    from quantus_miner.model import LiveJob, Solution
    from quantus_miner.sources.link import Link

log = logging.getLogger("miner.live")


class LiveSearch(Protocol):
    """The search of one live job."""

    @property
    def hashes(self) -> int:
        """Nonces tested for it so far, or until its end."""

    @property
    def elapsed(self) -> float:
        """Seconds since it began, or until its end."""

    def cancel(self) -> None:
        """End it. Solutions that are found meanwhile are still passed on."""


class Searcher(Protocol):
    """Searches one live job at a time."""

    def search(
        self,
        link: Link,
        job: LiveJob,
        on_solution: Callable[[LiveSearch, Solution], None],
        *,
        priority: int,
        replaces: LiveSearch | None,
    ) -> LiveSearch:
        """Search ``job`` of ``link``, and end the search that it ``replaces``.

        ``on_solution`` is called on the event loop for every solution, as soon as it is found. ``priority``: of the job
        among those of other sources.
        """


class MinerSearch:
    """A live job that the miner searches."""

    def __init__(self, miner: Miner, search: Search) -> None:
        self._miner = miner
        self.search = search

    @property
    def hashes(self) -> int:
        """See ``LiveSearch``."""
        return self._miner.hashes(self.search)

    @property
    def elapsed(self) -> float:
        """See ``LiveSearch``."""
        return self._miner.elapsed(self.search)

    def cancel(self) -> None:
        """See ``LiveSearch``."""
        self._miner.cancel(self.search)


class MinerSearcher:
    """Has the miner search live jobs. Implements Searcher. Create it on the event loop."""

    def __init__(self, miner: Miner) -> None:
        self._miner = miner
        self._loop = asyncio.get_running_loop()

    def search(
        self,
        link: Link,  # noqa: ARG002 - the miner mines for all of them alike
        job: LiveJob,
        on_solution: Callable[[LiveSearch, Solution], None],
        *,
        priority: int,
        replaces: LiveSearch | None,
    ) -> MinerSearch:
        """See ``Searcher.search``."""
        order = fastest_order(job.pow)
        # Random for every job, so that no two processes or two jobs with the same header search the same nonces.
        ranges = positions_from(order, job.prefix, secrets.randbits(512))

        def solved(search: Search, solution: Solution) -> None:
            """Pass a solution to the event loop. Called from a worker's thread."""
            # The loop is already closed if a worker is the last to end with the service.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(on_solution, MinerSearch(self._miner, search), solution)

        search = self._miner.submit(
            Job(job.id, job.pow, job.header, job.target, ranges, order),
            _on_end,
            on_solution=solved,
            priority=priority,
            replaces=replaces.search if isinstance(replaces, MinerSearch) else None,
        )
        return MinerSearch(self._miner, search)


def _on_end(search: Search) -> None:
    """Log the end of a live search, which means that no worker is left for it. Called from a worker's thread."""
    log.error("Live job %s has ended: no worker is left for it", search.job.id, extra={"job": search.job.id})
