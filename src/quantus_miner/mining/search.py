"""The state of one submitted job."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from quantus_miner.mining.ranges import NonceRanges
from quantus_miner.mining.rates import RateMeter
from quantus_miner.mining.stats import ThreadStats
from quantus_miner.model import Job, Progress, Solution, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.mining.worker import Worker


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
        # By the keys of the workers that took part. A job may last for days, in which many come and go.
        self._done: Counter[tuple[str, int]] = Counter()
        self._meters: dict[tuple[str, int], RateMeter] = {}  # of those that have counted lately

    @property
    def hashes(self) -> int:
        """Nonces tested until now, or until its end."""
        running = self.status is Status.RUNNING
        return self.tested + (sum(worker.control.hashes for worker in self.workers) if running else 0)

    def begin(self, worker: Worker, now: float) -> None:
        """Have ``worker`` take part."""
        self.workers.add(worker)
        key = worker.key
        if key not in self._meters:
            rested = key in self._done
            self._meters[key] = RateMeter.after_rest(now, self._done[key]) if rested else RateMeter(now)

    def leave(self, worker: Worker, tested: int) -> None:
        """Count what ``worker`` has tested of its slice."""
        self.workers.discard(worker)
        self._done[worker.key] += tested
        if self.status is Status.RUNNING:
            self.tested += tested

    def sample(self, now: float) -> None:
        """Sample the rates. To be called about once a second."""
        under_way = self._under_way()
        for key, meter in tuple(self._meters.items()):
            hashes = self._done[key] + under_way.get(key, 0)
            meter.sample(now, hashes)
            if key not in under_way and meter.rests(now, hashes):
                del self._meters[key]

    def elapsed(self, now: float) -> float:
        """Return the seconds from its beginning until now, or until its end."""
        return (self.ended if self.ended is not None else now) - self.started

    def progress(self, now: float) -> Progress:
        """Return the confirmed progress, in which slices under way count as not searched."""
        # What they have tested so far may include a hit that is not confirmed yet.
        under_way = [worker.slice for worker in self.workers if worker.slice is not None]
        todo = (*sorted(under_way, key=lambda piece: piece.start), *self.todo.left)
        return Progress(todo, self.tested, self.elapsed(now))

    def thread_stats(self, now: float) -> tuple[ThreadStats, ...]:
        """Return what each worker has done for it. Rates are 0 after its end.

        Successive workers of an engine with the same number count as one.
        """
        under_way = self._under_way()
        meters = self._meters if self.status is Status.RUNNING else {}

        def stats(key: tuple[str, int]) -> ThreadStats:
            hashes = self._done[key] + under_way.get(key, 0)
            return ThreadStats(*key, hashes, meters[key].rate(now, hashes) if key in meters else 0.0)

        return tuple(map(stats, sorted(self._done.keys() | under_way)))

    def _under_way(self) -> dict[tuple[str, int], int]:
        return {worker.key: worker.control.hashes for worker in self.workers}
