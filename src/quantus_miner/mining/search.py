"""The state of one submitted job."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from quantus_miner import pow as reference
from quantus_miner.mining.ranges import NonceRanges
from quantus_miner.mining.stats import ThreadStats
from quantus_miner.model import Job, Progress, Solution, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.base import Engine
    from quantus_miner.mining.rates import RateMeter
    from quantus_miner.mining.worker import Worker

log = logging.getLogger("miner")


class Search:
    """One submitted job. A job that is submitted again is another Search, so late results are recognised.

    The miner's lock guards all that changes. ``progress``: where an earlier run left off; None: at the beginning.
    """

    def __init__(
        self,
        job: Job,
        on_end: Callable[[Search], None],
        on_solution: Callable[[Search, Solution], None] | None,
        priority: int,
        now: float,
        progress: Progress | None = None,
    ) -> None:
        progress = progress or Progress(job.ranges)
        self.job = job
        self.on_solution = on_solution
        self.priority = priority
        self.status = Status.RUNNING
        self.solution: Solution | None = None
        self.engine: str | None = None  # the one that found the solution
        self.started = now - progress.elapsed
        self.ended: float | None = None
        self.on_end = on_end
        self.todo = NonceRanges(progress.todo)
        self.tested = progress.hashes  # in finished slices; after the end, in all
        self.workers: set[Worker] = set()
        self.done: Counter[Worker] = Counter()
        self.meters: dict[Worker, RateMeter] = {}

    @property
    def hashes(self) -> int:
        """Nonces tested until now, or until its end."""
        running = self.status is Status.RUNNING
        return self.tested + (sum(worker.control.hashes for worker in self.workers) if running else 0)

    def hashes_of(self, worker: Worker) -> int:
        """Return how many nonces ``worker`` tested, including the slice under way."""
        return self.done[worker] + (worker.control.hashes if worker in self.workers else 0)

    def elapsed(self, now: float) -> float:
        """Return the seconds from its beginning until now, or until its end."""
        return (self.ended if self.ended is not None else now) - self.started

    def progress(self, now: float) -> Progress:
        """Return the confirmed progress, in which slices under way count as not searched."""
        # What they have tested so far may include a hit that the reference has not confirmed yet.
        under_way = [worker.slice for worker in self.workers if worker.slice is not None]
        todo = (*sorted(under_way, key=lambda piece: piece.start), *self.todo.left)
        return Progress(todo, self.tested, self.elapsed(now))

    def thread_stats(self, now: float) -> tuple[ThreadStats, ...]:
        """Return what each worker has done for it. Rates are 0 after its end.

        Successive workers of an engine with the same number count as one.
        """
        running = self.status is Status.RUNNING
        done: dict[tuple[str, int], tuple[int, float]] = {}
        for worker, meter in self.meters.items():
            key = worker.engine.name, worker.index
            before, other_rate = done.get(key, (0, 0.0))
            hashes = self.hashes_of(worker)
            rate = meter.rate(now, hashes) if running else 0.0
            done[key] = before + hashes, other_rate + rate
        return tuple(ThreadStats(*key, *counts) for key, counts in done.items())


def confirm(engine: Engine, job: Job, nonce: int) -> Solution | None:
    """Return the solution for a hit of ``engine``, or None if the reference rejects the hit."""
    value = reference.evaluate(job.pow, job.header, nonce)
    if nonce != 0 and value <= job.target:
        return Solution(nonce, value)
    log.error(
        "Engine %s (kernel %s) reported nonce %x for job %r, which the reference rejects; dropped",
        engine.name,
        engine.kernel(job.pow),
        nonce,
        job.id,
        extra={"job": job.id},
    )
    return None
