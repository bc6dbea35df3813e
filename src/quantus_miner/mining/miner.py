"""The miner keeps the workers of its engines busy with slices of the active jobs' nonces, in turn.

A worker is a thread that belongs to an engine. It takes a slice of the job whose turn it is. The size of the slice
follows from the worker's measured speed, so that it takes about ``chunk_s`` seconds. The worker searches the slice
without holding any lock or the GIL. A cancel, a new job, a change of engines or the end of the service stops the search
earlier; the untested rest goes back to the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from quantus_miner.events import PauseChanged
from quantus_miner.mining.confirm import Recheck
from quantus_miner.mining.pauses import Pause, Pauses, check_device
from quantus_miner.mining.search import Search
from quantus_miner.mining.stats import MinerStats, ThreadStats
from quantus_miner.mining.thread import WorkerThread
from quantus_miner.mining.workers import Workers
from quantus_miner.model import Job, NonceRange, Pow, Progress, Solution, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from quantus_miner.backends.base import Engine
    from quantus_miner.events import DeviceChanged
    from quantus_miner.mining.worker import Worker
    from quantus_miner.native import Outcome

log = logging.getLogger("miner")

_PRIORITY: Final = attrgetter("priority")


class Miner:
    """Owns the active jobs and the workers. All methods may be called from any thread.

    ``chunk_s``: seconds a slice should take. ``affinity``: see set_engines. ``on_job_solved``: called for every solved
    job, and for every solution of a search that continues after it; the list may grow. ``publish``: called with each
    DeviceChanged and PauseChanged. Both are called from any thread.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        chunk_s: float,
        affinity: Sequence[frozenset[int]] = (),
        on_job_solved: Sequence[Callable[[], None]] = (),
        publish: Callable[[DeviceChanged | PauseChanged], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chunk_s = chunk_s
        self._clock = clock
        self._changing = threading.Lock()  # held while threads start
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._turns: deque[Search] = deque()  # the active searches, next one first
        self._started = self._closing = False
        self._on_job_solved = on_job_solved
        self._publish: Callable[[DeviceChanged | PauseChanged], None]
        self._publish = (lambda _: None) if publish is None else partial(_call, publish)
        self._rejected = self._stale = 0
        self._solved_by: Counter[str] = Counter()
        self._workers = Workers()
        self._pauses = Pauses()
        self._recheck = Recheck()
        self.set_engines(engines, affinity=affinity)

    @property
    def engine_names(self) -> str:
        """Names of the engines, separated by commas."""
        return ",".join(dict.fromkeys(engine.name for engine in self._workers.engines))

    @property
    def healthy(self) -> bool:
        """True if at least one worker can take work now."""
        with self._lock:
            return not self._closing and any(worker.works for worker in self._workers)

    def supports(self, pow_: Pow) -> bool:
        """Return True if at least one worker can search for ``pow_``."""
        with self._lock:
            return any(worker.can(pow_) for worker in self._workers)

    def start(self) -> None:
        """Start the workers. Raises RuntimeError if the system allows no more threads."""
        with self._changing:
            self._started = True
            for worker in self._workers:
                self._thread(worker).start()

    def set_engines(self, engines: Sequence[Engine], *, affinity: Sequence[frozenset[int]] = ()) -> None:
        """Make these the engines, at once. ``affinity``: the CPUs that each CPU worker keeps to; empty: any.

        Workers of an engine that stays continue undisturbed. If its ``workers`` has changed, surplus workers end or
        missing ones start. All others hand back the untested rest of their slices and end; the last one closes its
        engine, which must not be used again. New workers get the lowest free numbers. Searches that no worker can
        continue fail.
        """
        with self._changing:
            with self._lock:
                if self._closing:
                    return
                new, unused = self._workers.change(engines, affinity, self._clock())
                self._apply_pauses()
                self._solved_by.update({engine.name: 0 for engine in engines})
                abandoned = self._end_abandoned(self._turns)
                self._work.notify_all()
            for worker in new if self._started else ():
                thread = self._thread(worker)
                try:
                    thread.start()
                except RuntimeError as error:  # the system allows no more threads
                    thread.fail(error)
                    self.on_thread_end(worker)
        for lost in abandoned:
            _call(lost.on_end, lost)
        for engine in unused:
            _call(engine.close)

    def submit(
        self,
        job: Job,
        on_end: Callable[[Search], None],
        *,
        on_solution: Callable[[Search, Solution], None] | None = None,
        priority: int = 0,
        replaces: Search | None = None,
        progress: Progress | None = None,
    ) -> Search:
        """Add a job. It gets a worker at once, and then takes turns with the active jobs of its priority.

        ``on_end`` is called once, from any thread, when the job is completed (``search.solution``) or failed (its
        ranges are exhausted, or no worker can search them any more). It is not called after a cancel. With
        ``on_solution`` the job is never completed: the search continues, and ``on_solution`` is called from any thread
        for every solution, even for one that was found while the search was being cancelled. Jobs of a lower
        ``priority`` get only the workers that no job of a higher one can use. ``replaces`` is cancelled at the same
        time. ``progress``: where an earlier run left off.
        """
        search = Search(job, on_end, on_solution, priority, self._clock(), progress)
        with self._lock:
            if replaces is not None and replaces.status is Status.RUNNING:
                self._end(replaces, Status.CANCELLED)
            self._turns.appendleft(search)
            self._workers.make_way_for(search)
            self._work.notify_all()
            abandoned = self._end_abandoned([search])
        for lost in abandoned:
            _call(lost.on_end, lost)
        return search

    def cancel(self, search: Search) -> None:
        """End a job. Its workers are free within milliseconds. Does nothing if the job has already ended."""
        with self._lock:
            if search.status is Status.RUNNING:
                self._end(search, Status.CANCELLED)

    def pause(self, reason: str, device: str | None = None) -> bool:
        """Stop mining on ``device``, an id or CPU; None means all. Return False if that changes nothing.

        Jobs stay active and wait. Pauses with different ``reason`` are independent: a device mines when no pause covers
        it. Raises MinerError if there is no such device.
        """
        return self._change_pauses(Pause(device, reason), paused=True)

    def resume(self, reason: str, device: str | None = None) -> bool:
        """End the pause of ``device``, or all with this ``reason``. Return False if that changes nothing.

        Raises MinerError if there is no such device.
        """
        return self._change_pauses(Pause(device, reason), paused=False)

    def close(self, timeout: float) -> bool:
        """Stop all workers. Return True if they all ended within ``timeout`` seconds."""
        with self._changing, self._lock:
            self._closing = True
            for worker in self._workers.with_leaving:
                worker.control.stop()
            threads = self._workers.threads
            self._work.notify_all()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def hashes(self, search: Search) -> int:
        """Return how many nonces were tested for ``search`` until now, or until its end."""
        with self._lock:
            return search.hashes

    def progress(self, search: Search) -> Progress:
        """Return the confirmed progress of ``search``, in which slices under way count as not searched."""
        with self._lock:
            return search.progress(self._clock())

    def elapsed(self, search: Search) -> float:
        """Return the seconds from the beginning of ``search`` until now, or until its end."""
        return search.elapsed(self._clock())

    def tick(self) -> None:
        """Sample the hash rates of jobs, check that the workers advance, and a solution with the reference.

        Call it about once a second.
        """
        agrees = self._recheck.tick()
        with self._lock:
            self._rejected += not agrees
            now = self._clock()
            for worker in self._workers.with_leaving:
                worker.look(now)
            for search in self._turns:
                search.sample(now)

    def stats(self) -> MinerStats:
        """Return a snapshot of the miner."""
        with self._lock:
            now = self._clock()
            return MinerStats(
                workers=tuple(worker.stats(now) for worker in self._workers.with_leaving),
                active_jobs=len(self._turns),
                hashes=self._workers.hashes,
                rejected_solutions=self._rejected,
                stale_solutions=self._stale,
                solved_by_engine=dict(self._solved_by),
                pauses=tuple(self._pauses),
                kernels=frozenset(
                    (engine.name, str(pow_), kernel)
                    for engine in self._workers.engines
                    for pow_ in Pow
                    if (kernel := engine.kernel(pow_)) is not None
                ),
            )

    def thread_stats(self, search: Search) -> tuple[ThreadStats, ...]:
        """Return what each worker has done for ``search``. Rates are 0 after its end."""
        with self._lock:
            return search.thread_stats(self._clock())

    # --- for the threads of the workers ---

    def next_slice(self, worker: Worker) -> tuple[Search, int, int] | None:
        """Wait for work for ``worker``. Return (search, start, count), or None if the worker must end."""
        with self._lock:
            while not self._closing and not worker.leaving:
                search = None if worker.paused else self._next_search(worker)
                if search is None:
                    self._work.wait()
                    continue
                self._turns.remove(search)
                self._turns.append(search)
                even_share = -(-search.todo.size // sum(not other.paused for other in self._workers))
                start, count = search.todo.take(worker.slice_size(search.job.pow, self.chunk_s, even_share))
                now = self._clock()
                worker.begin(search, NonceRange(start, start + count - 1), now)
                search.begin(worker, now)
                return search, start, count
        return None

    def finish_slice(
        self, worker: Worker, search: Search, start: int, count: int, outcome: Outcome, solution: Solution | None
    ) -> None:
        """Take a slice back and return what ``outcome`` leaves untested to its job. ``solution``: a confirmed hit."""
        with self._lock:
            elapsed = self._clock() - worker.slice_started
            self._leave(worker, search, outcome.tested)
            if outcome.tested:
                worker.measure(search.job.pow, outcome.tested, elapsed)
            self._rejected += outcome.nonce is not None and solution is None
            running = search.status is Status.RUNNING
            # The job's source decides whether a solution still counts after the job was replaced.
            solved = solution is not None and (running or search.on_solution is not None)
            self._stale += solution is not None and not solved
            self._solved_by[worker.engine.name] += solved
            if running and outcome.tested < count:
                search.todo.give_back(start + outcome.tested, count - outcome.tested)
                self._work.notify_all()
            if running and solved and search.on_solution is None:
                search.solution, search.engine = solution, worker.engine.name
                self._end(search, Status.COMPLETED)
            elif running and not search.todo.size and not search.workers:
                self._end(search, Status.FAILED)
            ended = running and search.status is not Status.RUNNING
        if solved:
            if search.on_solution is not None and solution is not None:
                _call(search.on_solution, search, solution)
            for callback in tuple(self._on_job_solved):
                _call(callback)
        if ended:
            _call(search.on_end, search)
        if solution is not None:
            self._recheck.add(search.job, solution)

    def retire(self, worker: Worker) -> None:
        """Mark ``worker`` as failed and take its slice back."""
        with self._lock:
            worker.alive = False
            search, piece = worker.search, worker.slice
            if search is not None and piece is not None:
                self._leave(worker, search, worker.control.hashes)
                if search.status is Status.RUNNING:
                    # The broken engine's count of tested nonces is not trusted.
                    search.todo.give_back(piece.start, piece.end - piece.start + 1)
                    self._work.notify_all()
            abandoned = self._end_abandoned(self._turns)
        for lost in abandoned:
            _call(lost.on_end, lost)

    def wait(self, worker: Worker, seconds: float) -> None:
        """Wait for ``seconds`` without a slice, or until ``worker`` must end."""
        with self._lock:
            self._work.wait_for(lambda: self._closing or worker.leaving, seconds)

    def on_thread_end(self, worker: Worker) -> None:
        """Close the engine of ``worker`` if nothing else uses it."""
        with self._lock:
            worker.ended = True
            unused = not self._workers.uses(worker.engine)
        if unused:
            _call(worker.engine.close)

    def _change_pauses(self, pause: Pause, *, paused: bool) -> bool:
        with self._lock:
            devices = {worker.device_id for worker in self._workers}
            if pause.device is not None:
                check_device(pause.device, devices)
            changed = self._pauses.add(pause) if paused else self._pauses.remove(pause, devices)
            self._apply_pauses()
            self._work.notify_all()
        if changed:
            self._publish(PauseChanged(pause.device, paused, pause.reason))
        return changed

    def _thread(self, worker: Worker) -> WorkerThread:
        worker.thread = WorkerThread(self, worker, self._publish)
        return worker.thread

    # --- under the lock ---

    def _next_search(self, worker: Worker) -> Search | None:
        """Return the search whose turn it is among those of the highest priority, or None if there is no work."""
        pows = tuple(pow_ for pow_ in Pow if worker.can(pow_))
        able = (search for search in self._turns if search.todo.size and search.job.pow in pows)
        return max(able, key=_PRIORITY, default=None)  # the first of several

    def _end_abandoned(self, searches: Iterable[Search]) -> list[Search]:
        """Fail those of ``searches`` that no worker can continue.

        Return them, so that their ``on_end`` can be called.
        """
        pows = {pow_ for pow_ in Pow if any(worker.can(pow_) for worker in self._workers)}
        abandoned = [search for search in searches if search.job.pow not in pows]
        for search in abandoned:
            log.error(
                "Job %r failed: no worker is left for %s",
                search.job.id,
                search.job.pow,
                extra={"job": search.job.id},
            )
            self._end(search, Status.FAILED)
        return abandoned

    def _apply_pauses(self) -> None:
        for worker in self._workers:
            worker.paused = self._pauses.cover(worker.device_id)
            if worker.paused and worker.search is not None:
                worker.interrupt()

    def _leave(self, worker: Worker, search: Search, tested: int) -> None:
        worker.search = worker.slice = None
        worker.done += tested
        search.leave(worker, tested)
        self._workers.on_slice_returned(worker)

    def _end(self, search: Search, status: Status) -> None:
        search.tested = search.hashes
        search.status, search.ended = status, self._clock()
        self._turns.remove(search)
        for worker in search.workers:
            worker.control.stop()


def _call(callback: Callable[..., None], *args: object) -> None:
    """Call a callback of the miner. An exception in it is logged and does not end the worker."""
    try:
        callback(*args)
    except Exception:
        log.exception("A callback of the miner has failed")
