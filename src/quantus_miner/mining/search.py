"""What the miner knows of a submitted job."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from quantus_miner.mining.ranges import NonceRanges
from quantus_miner.mining.stats import ThreadStats
from quantus_miner.model import Job, Progress, Solution, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.mining.rates import RateMeter
    from quantus_miner.mining.worker import Worker


class Search:
    """One submitted job. Identity is its generation: a result that arrives after the end is known as such.

    What changes is guarded by the miner's lock. ``progress``: where an earlier run left off; None: at the beginning.
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
        self.engine: str | None = None  # that found the solution
        self.started = now - progress.elapsed
        self.ended: float | None = None
        self.on_end = on_end
        self.todo = NonceRanges(progress.todo)
        self.tested = progress.hashes  # in finished slices; at the end in all, until that moment
        self.workers: set[Worker] = set()
        self.done: Counter[Worker] = Counter()
        self.meters: dict[Worker, RateMeter] = {}

    @property
    def hashes(self) -> int:
        """Nonces really tested so far, or until its end."""
        running = self.status is Status.RUNNING
        return self.tested + (sum(worker.control.hashes for worker in self.workers) if running else 0)

    def hashes_of(self, worker: Worker) -> int:
        """Nonces tested by ``worker``, the slice under way included."""
        return self.done[worker] + (worker.control.hashes if worker in self.workers else 0)

    def thread_stats(self, now: float) -> tuple[ThreadStats, ...]:
        """Return what each worker that took part has done for it; no rate after its end."""
        running = self.status is Status.RUNNING
        return tuple(
            ThreadStats(
                worker.engine.name,
                worker.index,
                hashes := self.hashes_of(worker),
                meter.rate(now, hashes) if running else 0.0,
            )
            for worker, meter in self.meters.items()
        )
