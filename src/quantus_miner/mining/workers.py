"""The workers of a miner, which change with its engines."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from quantus_miner.mining.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.mining.search import Search
    from quantus_miner.mining.thread import WorkerThread


class Workers:
    """The workers of the present engines, by number, and leaving ones that must still hand back a slice.

    Iterating covers only the first group. Guarded by the miner's lock.
    """

    def __init__(self) -> None:
        self.engines: tuple[Engine, ...] = ()
        self._staying: list[Worker] = []
        self._leaving: list[Worker] = []  # each still has a slice
        self._all: list[Worker] = []  # including former workers whose threads may still run
        self._gone_hashes = 0

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._staying)

    def __len__(self) -> int:
        return len(self._staying)

    @property
    def with_leaving(self) -> list[Worker]:
        """All workers that may be searching."""
        return [*self._staying, *self._leaving]

    @property
    def hashes(self) -> int:
        """Nonces tested, including those of former workers."""
        return self._gone_hashes + sum(worker.hashes for worker in self.with_leaving)

    @property
    def threads(self) -> list[WorkerThread]:
        """Threads that were started and may still run."""
        return [worker.thread for worker in self._all if worker.thread is not None and worker.thread.ident is not None]

    def uses(self, engine: Engine) -> bool:
        """Return True if ``engine`` is a present engine or a thread may still call it."""
        return any(other is engine for other in self.engines) or any(
            worker.engine is engine and worker.thread is not None and not worker.ended for worker in self._all
        )

    def change(
        self, engines: Sequence[Engine], affinity: Sequence[frozenset[int]], now: float
    ) -> tuple[list[Worker], list[Engine]]:
        """Make ``engines`` the present ones.

        Return the new workers, whose threads the caller must start, and the engines that no thread will call any more.
        An engine with too many workers loses failed ones first, then those with the highest numbers. One with too few
        takes back leaving ones.
        """
        before, dropped = self.with_leaving, self.engines
        self.engines = tuple(engines)
        kept: list[Worker] = []
        missing: list[Engine] = []
        for engine in engines:
            own = [worker for worker in before if worker.engine is engine]
            own.sort(key=lambda worker: (not worker.alive, worker.leaving, worker.index))
            kept += own[: engine.workers]
            missing += [engine] * (engine.workers - len(own))
        self._leaving = []
        for worker in before:
            worker.leaving = worker not in kept
            if worker.leaving and worker.slice is None:
                self._gone_hashes += worker.done
            elif worker.leaving:
                self._leaving.append(worker)
                worker.interrupt()
        taken = {worker.index for worker in (*kept, *self._leaving)}
        free = (index for index in count() if index not in taken)
        new = [Worker(index, engine, now) for index, engine in zip(free, missing, strict=False)]
        self._staying = sorted([*kept, *new], key=lambda worker: worker.index)
        pins = iter(affinity)
        for worker in self._staying:
            worker.affinity = next(pins, None) if worker.device is None and worker.alive else None
        self._all = [
            *(worker for worker in self._all if worker in kept or (worker.thread and worker.thread.is_alive())),
            *new,
        ]
        return new, [engine for engine in dropped if not self.uses(engine)]

    def on_slice_returned(self, worker: Worker) -> None:
        """Forget ``worker`` if it was leaving and only had to hand back its slice."""
        if worker in self._leaving:
            self._leaving.remove(worker)
            self._gone_hashes += worker.done

    def make_way_for(self, search: Search) -> None:
        """Interrupt the workers that the new ``search`` should get: all of a lower priority, or otherwise one."""
        able = [worker for worker in self if worker.works and not worker.paused and worker.can(search.job.pow)]
        # Leave out interrupted workers, so that two new searches at once interrupt two of them.
        busy = [(worker, worker.search) for worker in able if worker.search and not worker.interrupted]
        lower = [worker for worker, other in busy if other.priority < search.priority]
        equal = [worker for worker, other in busy if other.priority == search.priority]
        if not lower and equal and all(worker.search for worker in able):
            lower = [min(equal, key=lambda worker: worker.slice_started)]
        for worker in lower:
            worker.interrupt()
