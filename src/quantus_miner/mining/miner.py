"""The miner: keeps a fixed set of workers busy with slices of the active jobs' nonces, in turn.

A worker is a thread that belongs to an engine. It takes the next slice of the job whose turn it is, sized by its
measured speed to take about a chunk of time, and searches it without holding any lock or the GIL. Whoever needs
the worker earlier (a cancel, a new job, the end) stops its search; the untested rest goes back to the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from quantus_miner import pow as reference
from quantus_miner.errors import DeviceLostError, DevicePausedError
from quantus_miner.host.cpus import pin_thread, yield_priority
from quantus_miner.mining.search import Search
from quantus_miner.mining.stats import MinerStats, RateMeter, ThreadStats
from quantus_miner.mining.worker import Worker
from quantus_miner.model import Job, NonceRange, Pow, Progress, Solution, Status
from quantus_miner.native import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from quantus_miner.backends.base import Engine

log = logging.getLogger("miner")

PAUSE_S: Final = 1.0
"""Between two tries of a device that has to rest."""


class Miner:
    """Owns the active jobs and the workers. All methods may be called from any thread.

    ``chunk_s``: seconds a slice should take. ``places``: the CPUs that each CPU worker keeps to; empty: any.
    ``on_job_solved``: called, from any thread, for every job solved and every solution of a search that goes on.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        chunk_s: float,
        places: Sequence[frozenset[int]] = (),
        on_job_solved: Sequence[Callable[[], None]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chunk_s = chunk_s
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._turns: deque[Search] = deque()  # the active searches, next one first
        self._closing = False
        self._engines = tuple(engines)
        self._on_job_solved = tuple(on_job_solved)
        self._rejected = self._stale = 0
        self._solved_by: Counter[str] = Counter({engine.name: 0 for engine in engines})
        now = clock()
        self._workers = [
            Worker(index, engine, now)
            for index, engine in enumerate(engine for engine in engines for _ in range(engine.workers))
        ]
        pins = iter(places)
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(worker, next(pins, None) if worker.device is None else None),
                name=f"miner-{worker.index}",
                daemon=True,
            )
            for worker in self._workers
        ]

    @property
    def engine_names(self) -> str:
        """Names of the engines, separated by commas."""
        return ",".join(dict.fromkeys(engine.name for engine in self._engines))

    @property
    def healthy(self) -> bool:
        """Whether any worker is left to take work now."""
        with self._lock:
            return not self._closing and any(worker.works for worker in self._workers)

    def failed(self) -> list[int]:
        """Numbers of the workers that an error has ended."""
        with self._lock:
            return [worker.index for worker in self._workers if not worker.alive]

    def stalled(self) -> list[int]:
        """Numbers of the workers that have work and have not advanced for STALL_S, as ``tick`` saw them."""
        with self._lock:
            now = self._clock()
            return [worker.index for worker in self._workers if worker.stalled(now)]

    def supports(self, pow_: Pow) -> bool:
        """Whether any worker is left that can search for ``pow_``."""
        with self._lock:
            return any(worker.can(pow_) for worker in self._workers)

    def start(self) -> None:
        """Starts the workers."""
        for thread in self._threads:
            thread.start()

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
        """Adds a job; it gets a worker at once, and from then on its turn among the active ones of its priority.

        ``on_end`` is called once, from any thread, when the job is completed (``search.solution``) or failed (its
        ranges are exhausted, or no worker is left that can search them); not after a cancel. With ``on_solution``
        it is never completed: the search goes on, and every solution goes there, from any thread, even one that was
        found as the search was cancelled. Jobs of a lower ``priority`` get only workers that no higher one can use.
        ``replaces`` is cancelled in the same moment. ``progress``: where an earlier run left off.
        """
        search = Search(job, on_end, on_solution, priority, self._clock(), progress)
        with self._lock:
            if replaces is not None and replaces.status is Status.RUNNING:
                self._end(replaces, Status.CANCELLED)
            self._turns.appendleft(search)
            able = [worker for worker in self._workers if worker.works and worker.can(job.pow)]
            # Two newcomers at once interrupt two workers.
            busy = [(worker, worker.search) for worker in able if worker.search and not worker.interrupted]
            lower = [worker for worker, other in busy if other.priority < priority]
            equal = [worker for worker, other in busy if other.priority == priority]
            if lower:
                self._interrupt(lower)
            elif equal and all(worker.search for worker in able):
                self._interrupt([min(equal, key=lambda worker: worker.slice_started)])
            self._work.notify_all()
            abandoned = self._end_abandoned()
        for lost in abandoned:
            _call(lost.on_end, lost)
        return search

    def cancel(self, search: Search) -> None:
        """Ends a job; its workers are on other work within milliseconds. Nothing happens if it has ended."""
        with self._lock:
            if search.status is Status.RUNNING:
                self._end(search, Status.CANCELLED)

    def close(self, timeout: float) -> bool:
        """Stops all workers; whether they all ended within ``timeout`` seconds."""
        with self._lock:
            self._closing = True
            for worker in self._workers:
                worker.control.stop()
            self._work.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def hashes(self, search: Search) -> int:
        """Nonces of ``search`` really tested so far, or until its end."""
        with self._lock:
            return search.hashes

    def progress(self, search: Search) -> Progress:
        """How far ``search`` is for certain: slices under way are left to do."""
        with self._lock:
            # Not what they have tested so far: a hit among that may wait for the reference.
            under_way = [worker.slice for worker in search.workers if worker.slice is not None]
            todo = (*sorted(under_way, key=lambda piece: piece.start), *search.todo.left)
            return Progress(todo, search.tested, self.elapsed(search))

    def elapsed(self, search: Search) -> float:
        """Seconds since ``search`` began, until its end."""
        return (search.ended if search.ended is not None else self._clock()) - search.started

    def tick(self) -> None:
        """Samples the hash rates and looks whether the workers advance; to be called about once a second."""
        with self._lock:
            now = self._clock()
            for worker in self._workers:
                worker.meter.sample(now, worker.hashes)
                worker.look(now)
            for search in self._turns:
                for worker, meter in search.meters.items():
                    meter.sample(now, search.hashes_of(worker))

    def stats(self) -> MinerStats:
        """A snapshot."""
        with self._lock:
            now = self._clock()
            rates = {"cpu": 0.0, "gpu": 0.0}
            for worker in self._workers:
                rates["cpu" if worker.device is None else "gpu"] += worker.meter.rate(now, worker.hashes)
            return MinerStats(
                workers=len(self._workers),
                cpu_workers=sum(worker.device is None for worker in self._workers),
                gpu_devices=sum(worker.device is not None and worker.works for worker in self._workers),
                busy_workers=sum(worker.search is not None for worker in self._workers),
                active_jobs=len(self._turns),
                hashes=sum(worker.hashes for worker in self._workers),
                hash_rates=rates,
                rejected_solutions=self._rejected,
                stale_solutions=self._stale,
                solved_by_engine=dict(self._solved_by),
                kernels=frozenset(
                    (engine.name, str(pow_), kernel)
                    for engine in self._engines
                    for pow_ in Pow
                    if (kernel := engine.kernel(pow_)) is not None
                ),
                gpus=tuple(
                    worker.gpu_stats(worker.device, now) for worker in self._workers if worker.device is not None
                ),
            )

    def thread_stats(self, search: Search) -> tuple[ThreadStats, ...]:
        """What each worker that took part has done for ``search``; no rate after its end."""
        with self._lock:
            return search.thread_stats(self._clock())

    # --- a worker's thread ---

    def _run(self, worker: Worker, place: frozenset[int] | None) -> None:
        try:
            self._work_until_closed(worker, place)
        except BaseException:  # whatever ends the thread: the worker must not seem to be alive
            log.exception("Worker %d of engine %s failed and is retired", worker.index, worker.engine.name)
            self._retire(worker)

    def _work_until_closed(self, worker: Worker, place: frozenset[int] | None) -> None:
        yield_priority()
        if place is not None and not pin_thread(place):
            log.warning("Cannot keep worker %d on CPUs %s; it runs on any", worker.index, sorted(place))
        while (taken := self._next_slice(worker)) is not None:
            search, start, count = taken
            try:
                outcome = worker.engine.search(search.job, start, count, worker.control)
                solution = None if outcome.nonce is None else self._check(worker, search.job, outcome.nonce)
            except DeviceLostError as error:
                self._finish_slice(worker, search, start, count, Outcome(worker.control.hashes, None), None)
                self._sit_out(worker, error)
                continue
            except DevicePausedError:
                self._finish_slice(worker, search, start, count, Outcome(worker.control.hashes, None), None)
                self._wait(PAUSE_S)
                continue
            if worker.lost:
                self._come_back(worker)
            self._finish_slice(worker, search, start, count, outcome, solution)

    def _next_slice(self, worker: Worker) -> tuple[Search, int, int] | None:
        """The next (search, start, count) for ``worker``, waiting for one; None at the end of the service."""
        with self._lock:
            while not self._closing:
                able = [search for search in self._turns if search.todo.size and worker.can(search.job.pow)]
                if not able:
                    self._work.wait()
                    continue
                search = max(able, key=lambda search: search.priority)  # of several the first
                self._turns.remove(search)
                self._turns.append(search)
                even_share = -(-search.todo.size // len(self._workers))
                start, count = search.todo.take(worker.slice_size(search.job.pow, self._chunk_s, even_share))
                now = self._clock()
                worker.control.reset()
                worker.search, worker.slice_started, worker.interrupted = search, now, False
                worker.slice = NonceRange(start, start + count - 1)
                search.workers.add(worker)
                if worker not in search.meters:
                    search.meters[worker] = RateMeter(now)
                return search, start, count
        return None

    def _check(self, worker: Worker, job: Job, nonce: int) -> Solution | None:
        """The hit as a solution if the reference agrees that it is one."""
        value = reference.evaluate(job.pow, job.header, nonce)
        if nonce != 0 and value <= job.target:
            return Solution(nonce, value)
        log.error(
            "Engine %s (kernel %s) reported nonce %x for job %r, which the reference rejects; dropped",
            worker.engine.name,
            worker.engine.kernel(job.pow),
            nonce,
            job.id,
        )
        return None

    def _finish_slice(
        self, worker: Worker, search: Search, start: int, count: int, outcome: Outcome, solution: Solution | None
    ) -> None:
        with self._lock:
            elapsed = self._clock() - worker.slice_started
            self._leave(worker, search, outcome.tested)
            if outcome.tested:
                worker.measure(search.job.pow, outcome.tested, elapsed)
            self._rejected += outcome.nonce is not None and solution is None
            running = search.status is Status.RUNNING
            # Whether a solution for a job that was replaced still counts is for the job's source to say.
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
            for callback in self._on_job_solved:
                _call(callback)
        if ended:
            _call(search.on_end, search)

    def _retire(self, worker: Worker) -> None:
        with self._lock:
            worker.alive = False
            search, piece = worker.search, worker.slice
            if search is not None and piece is not None:
                self._leave(worker, search, worker.control.hashes)
                if search.status is Status.RUNNING:
                    # What the broken engine says it tested is not trusted.
                    search.todo.give_back(piece.start, piece.end - piece.start + 1)
                    self._work.notify_all()
            abandoned = self._end_abandoned()
        for lost in abandoned:
            _call(lost.on_end, lost)

    def _sit_out(self, worker: Worker, error: DeviceLostError) -> None:
        """Until the next try to have its device back, which comes with the next slice."""
        with self._lock:
            wait_s = worker.backoff.wait_s(0)
            if not worker.lost:
                log.error("Worker %d of engine %s has lost its device: %s", worker.index, worker.engine.name, error)
            worker.lost = True
            log.debug("Worker %d: %s; next try in %g s", worker.index, error, wait_s)
        self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        """Without a slice; less at the end of the service."""
        with self._lock:
            self._work.wait_for(lambda: self._closing, seconds)

    def _come_back(self, worker: Worker) -> None:
        with self._lock:
            worker.lost = False
            worker.backoff.reset()
        log.info("Worker %d of engine %s has its device back", worker.index, worker.engine.name)

    def _end_abandoned(self) -> list[Search]:
        """Fails the searches for which no worker is left, so that nobody waits for them; who is to be told."""
        abandoned = [
            search for search in self._turns if not any(worker.can(search.job.pow) for worker in self._workers)
        ]
        for search in abandoned:
            log.error("Job %r failed: no worker is left for %s", search.job.id, search.job.pow)
            self._end(search, Status.FAILED)
        return abandoned

    def _interrupt(self, workers: Sequence[Worker]) -> None:
        """Ends their slices; what is left of these comes next."""
        for worker in workers:
            worker.interrupted = True
            worker.control.stop()

    def _leave(self, worker: Worker, search: Search, tested: int) -> None:
        worker.search = worker.slice = None
        worker.done += tested
        if search.status is Status.RUNNING:
            search.tested += tested
        search.workers.discard(worker)
        search.done[worker] += tested

    def _end(self, search: Search, status: Status) -> None:
        search.tested = search.hashes
        search.status, search.ended = status, self._clock()
        self._turns.remove(search)
        for worker in search.workers:
            worker.control.stop()


def _call(callback: Callable[..., None], *args: object) -> None:
    """Calls out of the miner; what that raises is no reason for a worker to end."""
    try:
        callback(*args)
    except Exception:
        log.exception("What the miner calls has failed")
