"""The miner: coverage of ranges, fairness, cancels, hits, broken engines."""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantus_miner import native
from quantus_miner import pow as reference
from quantus_miner.backends.base import EngineStatus
from quantus_miner.backends.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.backoff import Backoff
from quantus_miner.errors import DeviceLostError, DevicePausedError, MinerError
from quantus_miner.events import DeviceChanged, PauseChanged
from quantus_miner.gpu.device import Device
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.pauses import CPU, SCHEDULE, USER, Pause, Pauses
from quantus_miner.mining.ranges import NonceRanges
from quantus_miner.mining.search import Search
from quantus_miner.mining.thread import WorkerThread
from quantus_miner.mining.worker import Worker
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow, Solution, Status, target_from_difficulty
from quantus_miner.native import Outcome
from quantus_miner.pow import poseidon2
from quantus_miner.pow.order import positions_from

from .conftest import vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.backends.base import Control, Engine

HEADER = bytes(range(32))
WAIT_S = 30.0


def job(ranges: Sequence[NonceRange], *, target: int = 0, job_id: str = "a", pow_: Pow = Pow.POSEIDON2) -> Job:
    return Job(job_id, pow_, HEADER, target, tuple(ranges))


class RecordingEngine:
    """Says what it was asked to search; ends some slices early at random, as a stopped engine does."""

    name = "recording"

    def __init__(self, workers: int, seed: int = 0) -> None:
        self.workers = workers
        self.tested: list[tuple[int, int]] = []
        self.closed = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def status(self) -> EngineStatus:
        return EngineStatus()

    def kernel(self, pow: Pow) -> str | None:
        return "recording" if pow is Pow.POSEIDON2 else None

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        with self._lock:
            tested = self._random.choice((count, count, count, (count + 1) // 2, 0))
            if tested:
                self.tested.append((start, tested))
            return Outcome(tested, None)

    def adapt(self, options: EngineOptions, workers: int) -> Callable[[], None] | None:
        return None

    def close(self) -> None:
        self.closed += 1


class BlockingEngine(RecordingEngine):
    """Every search lasts until it is stopped, and then says that it tested ``tested`` nonces."""

    tested_before_stop = 0

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.begun = threading.Semaphore(0)
        self.jobs: list[str] = []

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        self.jobs.append(job.id)
        self.begun.release()
        assert control.sleep(WAIT_S)
        return Outcome(min(self.tested_before_stop, count), None)


class LyingEngine(RecordingEngine):
    """Claims a hit at every first nonce of a slice."""

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        return Outcome(1, start)


class BrokenEngine(RecordingEngine):
    """Raises, as an engine does that has lost its device."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.called = threading.Event()

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        self.called.set()
        raise RuntimeError("device lost")


class Ends:
    """Collects the ends of searches and lets a test wait for them."""

    def __init__(self) -> None:
        self._done = threading.Semaphore(0)
        self.searches: list[Search] = []

    def __call__(self, search: Search) -> None:
        self.searches.append(search)
        self._done.release()

    def wait(self) -> Search:
        assert self._done.acquire(timeout=WAIT_S)
        return self.searches[-1]


class Solutions:
    """Collects what a search that goes on finds."""

    def __init__(self) -> None:
        self._found = threading.Semaphore(0)
        self.of: list[tuple[Search, Solution]] = []

    def __call__(self, search: Search, solution: Solution) -> None:
        self.of.append((search, solution))
        self._found.release()

    def wait(self, count: int) -> list[tuple[Search, Solution]]:
        for _ in range(count):
            assert self._found.acquire(timeout=WAIT_S)
        return list(self.of)


@contextmanager
def running(
    *engines: Engine, chunk_s: float = 0.05, on_job_solved: Sequence[Callable[[], None]] = ()
) -> Iterator[Miner]:
    miner = Miner(engines, chunk_s=chunk_s, on_job_solved=on_job_solved)
    miner.start()
    try:
        yield miner
    finally:
        assert miner.close(WAIT_S)


def nonce_ranges() -> st.SearchStrategy[NonceRange]:
    edges = [0, 1, 2**32 - 1, 2**32, 2**64, 2**256, MAX - 1, MAX]
    starts = st.one_of(st.sampled_from(edges), st.integers(0, MAX))
    sizes = st.one_of(st.integers(1, 300), st.integers(1, MAX + 1))
    return st.builds(lambda start, size: NonceRange(start, min(MAX, start + size - 1)), starts, sizes)


@given(whole=nonce_ranges(), workers=st.integers(1, 4), seed=st.integers(0, 2**32))
@example(whole=NonceRange(0, MAX), workers=3, seed=1)
@example(whole=NonceRange(MAX, MAX), workers=4, seed=2)
@example(whole=NonceRange(0, 0), workers=2, seed=3)
@settings(max_examples=60, deadline=None)
def test_every_nonce_of_a_range_is_tested_exactly_once(whole: NonceRange, workers: int, seed: int) -> None:
    engine, ends = RecordingEngine(workers, seed), Ends()
    with running(engine) as miner:
        search = miner.submit(job([whole]), ends)
        assert ends.wait() is search
        assert search.status is Status.FAILED
        assert miner.hashes(search) == whole.size == miner.stats().hashes
    pieces = sorted(engine.tested)
    assert pieces[0][0] == whole.start
    assert pieces[-1][0] + pieces[-1][1] - 1 == whole.end
    assert all(start + count == following for (start, count), (following, _) in itertools.pairwise(pieces))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=40))
def test_ranges_hand_out_what_was_given_back_and_nothing_twice(steps: list[tuple[int, int]]) -> None:
    whole = [NonceRange(10, 99), NonceRange(1000, 1009)]
    todo = NonceRanges(whole)
    seen: list[int] = []
    for take, back in steps:
        if not todo.size:
            break
        start, count = todo.take(take)
        kept = max(0, count - back)
        seen.extend(range(start, start + kept))
        if kept < count:
            todo.give_back(start + kept, count - kept)
    while todo.size:
        start, count = todo.take(7)
        seen.extend(range(start, start + count))
    assert sorted(seen) == [*range(10, 100), *range(1000, 1010)]
    with pytest.raises(IndexError):
        todo.take(1)


@pytest.mark.parametrize("pow_", Pow)
@pytest.mark.parametrize("kernels", [baseline_kernels(), fast_kernels(None)], ids=["baseline", "fast"])
def test_a_solution_is_confirmed_and_completes_the_job(pow_: Pow, kernels: dict[Pow, object]) -> None:
    target = target_from_difficulty(200)
    engine, ends = CpuEngine("cpu-test", 2, kernels), Ends()  # type: ignore[arg-type]  # dict is invariant
    with running(engine) as miner:
        search = miner.submit(job([NonceRange(0, MAX)], target=target, pow_=pow_), ends)
        assert ends.wait() is search
        stats = miner.stats()
    assert search.status is Status.COMPLETED
    assert search.solution is not None
    assert search.solution.value == reference.evaluate(pow_, HEADER, search.solution.nonce) <= target
    assert search.solution.nonce != 0
    assert search.engine == "cpu-test"
    assert stats.solved_by_engine == {"cpu-test": 1}
    assert stats.active_jobs == 0


@pytest.mark.parametrize("whole", [NonceRange(MAX - 4999, MAX), NonceRange(0, 4999)], ids=["to the end", "from zero"])
def test_real_kernels_exhaust_ranges_at_both_ends_of_the_nonce_space(whole: NonceRange) -> None:
    engine, ends = CpuEngine("cpu-fast", 2, fast_kernels(None)), Ends()
    with running(engine, chunk_s=0.001) as miner:
        search = miner.submit(job([whole]), ends)
        ends.wait()
        assert search.status is Status.FAILED
        assert miner.hashes(search) == 5000


def test_a_cancelled_job_frees_its_workers_and_never_ends_again() -> None:
    engine, ends = BlockingEngine(2), Ends()
    with running(engine) as miner:
        first = miner.submit(job([NonceRange(0, MAX)], job_id="first"), ends)
        for _ in range(2):
            assert engine.begun.acquire(timeout=WAIT_S)
        assert miner.stats().busy_workers == 2
        miner.cancel(first)
        miner.cancel(first)
        second = miner.submit(job([NonceRange(0, MAX)], job_id="second"), ends)
        for _ in range(2):
            assert engine.begun.acquire(timeout=WAIT_S)
        assert engine.jobs[2:] == ["second", "second"]
        assert first.status is Status.CANCELLED
        assert second.status is Status.RUNNING
    assert ends.searches == []


def test_a_new_job_gets_a_worker_at_once_and_jobs_take_turns() -> None:
    engine, ends = BlockingEngine(1), Ends()
    with running(engine) as miner:
        # Each newcomer stops the slice under way, whose rest goes back to its job.
        for job_id in "abc":
            miner.submit(job([NonceRange(0, MAX)], job_id=job_id), ends)
            assert engine.begun.acquire(timeout=WAIT_S)
            assert engine.jobs[-1] == job_id
        assert miner.stats().active_jobs == 3


def test_jobs_share_the_workers_evenly() -> None:
    """With slices of equal time the turns decide: after n slices no job is ahead by more than a turn."""
    turns: list[str] = []

    class Turns(RecordingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            turns.append(job.id)
            return Outcome(1, None)

    ends = Ends()
    miner = Miner([Turns(1)], chunk_s=0.05)
    for job_id in "abc":
        miner.submit(job([NonceRange(0, 99)], job_id=job_id), ends)
    miner.start()
    for _ in range(3):
        ends.wait()
    assert miner.close(WAIT_S)
    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert turns == turns[:3] * 100


def test_a_hit_that_is_not_valid_is_dropped_and_the_search_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    engine, ends = LyingEngine(1), Ends()
    with running(engine) as miner:
        search = miner.submit(job([NonceRange(5, 24)], target=0), ends)
        ends.wait()
        assert search.status is Status.FAILED
        assert search.solution is None
        assert miner.hashes(search) == 20
        assert miner.stats().rejected_solutions == 20
    assert "which is not valid; dropped" in caplog.text


def test_a_solution_of_a_cancelled_job_is_dropped_and_counted() -> None:
    class Late(BlockingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            super().search(job, start, count, control)
            return Outcome(1, start)

    engine, ends = Late(1), Ends()
    miner = Miner([engine], chunk_s=0.05)
    miner.start()
    search = miner.submit(job([NonceRange(1, MAX)], target=MAX), ends)
    assert engine.begun.acquire(timeout=WAIT_S)
    miner.cancel(search)
    assert miner.close(WAIT_S)
    assert search.solution is None
    assert search.status is Status.CANCELLED
    assert miner.stats().stale_solutions == 1
    assert ends.searches == []


def test_a_broken_engine_is_retired_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Patient(RecordingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            assert broken.called.wait(WAIT_S)  # so that the broken one has taken a slice
            return super().search(job, start, count, control)

    broken, sound, ends = BrokenEngine(1), Patient(1), Ends()
    with running(broken, sound) as miner:
        search = miner.submit(job([NonceRange(0, 999_999)]), ends)
        ends.wait()
        assert search.status is Status.FAILED
        assert miner.healthy
    assert sum(count for _, count in sound.tested) == 1_000_000
    assert "device lost" in caplog.text


def test_what_the_miner_calls_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the worker nor what else waits for the same news suffers."""

    class Reporting(RecordingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            return Outcome(count, start if job.target else None)

    def on_job_solved() -> None:
        solved.append(None)
        raise RuntimeError("of on_job_solved")

    def on_end(_: Search) -> None:
        told.release()
        raise RuntimeError("of on_end")

    def on_solution(search: Search, _: Solution) -> None:
        miner.cancel(search)
        told.release()
        raise RuntimeError("of on_solution")

    told = threading.Semaphore(0)
    solved: list[None] = []
    ends = Ends()
    with running(Reporting(1), on_job_solved=[on_job_solved]) as miner:
        miner.submit(job([NonceRange(1, 10)], target=MAX), on_end)
        assert told.acquire(timeout=WAIT_S)
        miner.submit(job([NonceRange(1, 10**9)], target=MAX), on_end, on_solution=on_solution)
        assert told.acquire(timeout=WAIT_S)
        miner.submit(job([NonceRange(1, 10)]), on_end)
        assert told.acquire(timeout=WAIT_S)
        miner.submit(job([NonceRange(1, 10)], pow_=Pow.SHA3), on_end)  # which nobody can search
        miner.submit(job([NonceRange(1, 10)], target=MAX), ends)
        assert ends.wait().status is Status.COMPLETED
        assert miner.healthy
        assert miner.stats().failed == []
    assert len(solved) == 3
    reasons = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert {reason: reasons.count(reason) for reason in reasons} == {
        "of on_end": 3,
        "of on_solution": 1,
        "of on_job_solved": 3,
    }


def test_a_worker_whose_thread_ends_is_not_taken_for_a_living_one(caplog: pytest.LogCaptureFixture) -> None:
    def on_end(_: Search) -> None:
        raise SystemExit  # no Exception

    ends = Ends()
    with running(RecordingEngine(1)) as miner:
        miner.submit(job([NonceRange(1, 10)]), on_end)
        (thread,) = miner._workers.threads
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert not miner.healthy
        assert miner.stats().failed == [0]
        miner.submit(job([NonceRange(1, 10)]), ends)
        assert ends.wait().status is Status.FAILED
    assert "Worker 0 of engine recording failed and is retired" in caplog.text


def test_without_a_worker_left_jobs_end_and_the_miner_is_not_healthy(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    miner = Miner([BrokenEngine(1)], chunk_s=0.05)
    miner.start()
    assert miner.submit(job([NonceRange(0, 9)]), ends) is ends.wait()
    assert ends.searches[0].status is Status.FAILED
    assert not miner.healthy
    assert not miner.supports(Pow.POSEIDON2)
    late = miner.submit(job([NonceRange(0, 9)]), ends)
    assert ends.wait() is late
    assert late.status is Status.FAILED
    assert "no worker is left" in caplog.text
    assert miner.close(WAIT_S)


def test_two_newcomers_interrupt_two_workers() -> None:
    engine, ends = BlockingEngine(2), Ends()
    miner = Miner([engine], chunk_s=0.05)
    miner.start()
    miner.submit(job([NonceRange(0, MAX)], job_id="old"), ends)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    for job_id in "ab":
        miner.submit(job([NonceRange(0, MAX)], job_id=job_id), ends)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    assert sorted(engine.jobs[2:]) == ["a", "b"]
    assert miner.close(WAIT_S)


def test_only_engines_that_can_search_a_proof_of_work_are_asked() -> None:
    recording, real, ends = RecordingEngine(1), CpuEngine("cpu-fast", 1, fast_kernels(None)), Ends()
    with running(recording, real) as miner:
        assert miner.supports(Pow.SHA3)
        search = miner.submit(job([NonceRange(1, 200)], pow_=Pow.SHA3), ends)
        ends.wait()
        assert miner.hashes(search) == 200
    assert recording.tested == []
    assert not Miner([recording], chunk_s=1).supports(Pow.SHA3)


def test_counts_move_during_a_long_slice_and_rates_are_hashes_over_time() -> None:
    now = 0.0
    engine, ends = CpuEngine("cpu-fast", 1, fast_kernels(None)), Ends()
    miner = Miner([engine], chunk_s=30.0, clock=lambda: now)
    miner.start()
    search = miner.submit(job([NonceRange(0, MAX)]), ends)
    seen: set[int] = set()
    while len(seen) < 5:
        seen.add(miner.hashes(search))
    now = 1.0
    miner.tick()
    now = 2.0
    stats, (thread,) = miner.stats(), miner.thread_stats(search)
    assert stats.busy_workers == 1
    assert 0 < thread.hash_rate <= miner.hashes(search) / 2
    miner.cancel(search)
    assert miner.elapsed(search) == 2.0
    assert miner.close(WAIT_S)
    assert miner.thread_stats(search)[0].hash_rate == 0.0


def live_job(job_id: str = "live", target: int = 0) -> Job:
    return Job(job_id, Pow.POSEIDON2, HEADER, target, positions_from(Order.WALK, b"\1\2\3\4", 5), Order.WALK)


def test_a_live_search_goes_on_after_a_solution_and_repeats_none() -> None:
    solutions, ends = Solutions(), Ends()
    with running(CpuEngine("cpu-fast", 2, fast_kernels(None))) as miner:
        search = miner.submit(live_job(target=target_from_difficulty(50)), ends, on_solution=solutions)
        found = solutions.wait(40)
        assert search.status is Status.RUNNING
        miner.cancel(search)
    assert not ends.searches
    nonces = [solution.nonce for _, solution in found]
    assert len(set(nonces)) == len(nonces)
    for of, solution in found:
        assert of is search
        assert reference.evaluate(Pow.POSEIDON2, HEADER, solution.nonce) == solution.value <= search.job.target
        assert solution.nonce.to_bytes(64).startswith(b"\1\2\3\4")
    assert miner.stats().solved_by_engine["cpu-fast"] >= 40


def test_a_job_of_higher_priority_takes_every_worker_and_a_lower_one_waits() -> None:
    engine = BlockingEngine(3)
    with running(engine) as miner:
        for job_id in ("low 1", "low 2"):
            miner.submit(job([NonceRange(1, MAX)], job_id=job_id), Ends())
        for _ in range(3):
            assert engine.begun.acquire(timeout=WAIT_S)
        begun = len(engine.jobs)
        high = miner.submit(job([NonceRange(1, MAX)], job_id="high"), Ends(), priority=1)
        while len(high.workers) < 3:
            assert engine.begun.acquire(timeout=WAIT_S)
        assert engine.jobs[-3:] == ["high"] * 3
        miner.submit(job([NonceRange(1, MAX)], job_id="low 3"), Ends())
        assert len(high.workers) == 3
        assert not any(worker.interrupted for worker in miner._workers)
        assert "low 3" not in engine.jobs[begun:]
        miner.cancel(high)
        while sum(name.startswith("low") for name in engine.jobs[begun:]) < 3:
            assert engine.begun.acquire(timeout=WAIT_S)


def test_a_replaced_job_leaves_no_worker_on_it() -> None:
    engine = BlockingEngine(2)
    with running(engine) as miner:
        old = miner.submit(live_job("old"), Ends(), on_solution=Solutions())
        while len(old.workers) < 2:
            assert engine.begun.acquire(timeout=WAIT_S)
        new = miner.submit(live_job("new"), Ends(), on_solution=Solutions(), replaces=old)
        assert old.status is Status.CANCELLED
        while len(new.workers) < 2:
            assert engine.begun.acquire(timeout=WAIT_S)
        assert engine.jobs[-2:] == ["new", "new"]
        assert not old.workers
        assert miner.stats().active_jobs == 1


def test_a_solution_found_as_its_live_job_is_replaced_still_reaches_its_source() -> None:
    class SlowEngine(BlockingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            super().search(job, start, count, control)
            return Outcome(1, 5) if job.id == "old" else Outcome(0, None)

    engine, solutions = SlowEngine(1), Solutions()
    with running(engine) as miner:
        old = miner.submit(live_job("old", target=MAX), Ends(), on_solution=solutions)
        assert engine.begun.acquire(timeout=WAIT_S)
        miner.submit(live_job("new"), Ends(), on_solution=Solutions(), replaces=old)
        assert [search for search, _ in solutions.wait(1)] == [old]
        assert miner.stats().stale_solutions == 0


# --- other engines ---


class SteppingEngine(RecordingEngine):
    """Tests nonce by nonce and calls ``on_step`` now and then. With ``faults`` it fails in some slices, at random."""

    def __init__(self, workers: int, seed: int, on_step: Callable[[], object], *, faults: bool) -> None:
        super().__init__(workers, seed)
        self.slices: list[tuple[str, int, int]] = []
        self.faults = faults
        self._on_step = on_step

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        with self._lock:
            fault = self._random.choice(("lost", "paused", "broken", "", "")) if self.faults else ""
            last = self._random.randrange(count) if fault else count
        tested = 0
        while tested < last and not control.stopped:
            tested += 1
            control.count(1)
            if tested % 50 == 0:
                self._on_step()
        if fault == "broken" and tested == last:
            raise RuntimeError(fault)  # the whole slice is searched again
        self.slices.append((job.id, start, tested))
        if fault and tested == last:
            raise DeviceLostError(fault) if fault == "lost" else DevicePausedError(fault)
        return Outcome(tested, None)


@pytest.mark.parametrize("seed", range(5))
def test_engines_change_at_random_and_every_nonce_is_tested_once(seed: int) -> None:
    chance, ends = random.Random(seed), Ends()
    news, changed = threading.Semaphore(0), threading.Semaphore(0)
    known: list[SteppingEngine] = []

    def engine(*, faults: bool) -> SteppingEngine:
        known.append(SteppingEngine(chance.randint(1, 3), seed + len(known), on_step, faults=faults))
        return known[-1]

    def on_step() -> None:
        news.release()
        assert changed.acquire(timeout=WAIT_S)

    def on_end(search: Search) -> None:
        ends(search)
        news.release()

    present = [engine(faults=False)]
    ranges = {"a": NonceRange(0, 4999), "b": NonceRange(10**6, 10**6 + 3999), "c": NonceRange(MAX - 2999, MAX)}
    hashes = changes = 0
    with running(*present, chunk_s=1e6) as miner:
        searches = [miner.submit(job([whole], job_id=name), on_end) for name, whole in ranges.items()]
        while len(ends.searches) < len(ranges):
            assert news.acquire(timeout=WAIT_S)
            present = [kept for kept in present if chance.random() < 0.7]
            for kept in present:
                kept.workers = chance.choice((kept.workers, kept.workers, chance.randint(1, 4)))
            while chance.random() < 0.3 or all(kept.faults for kept in present):
                present.insert(chance.randint(0, len(present)), engine(faults=bool(present) and chance.random() < 0.5))
            miner.set_engines(present)
            changes += 1
            stats = miner.stats()
            assert len(miner._workers) == sum(kept.workers for kept in present)
            assert stats.hashes >= hashes
            hashes = stats.hashes
            with miner._lock:
                numbers = [worker.index for worker in miner._workers.with_leaving]
            assert len(set(numbers)) == len(numbers)
            changed.release()
        for search, whole in zip(searches, ranges.values(), strict=True):
            assert miner.hashes(search) >= whole.size  # what a broken worker says it tested included
    assert changes > 50
    assert all(search.status is Status.FAILED for search in searches)
    for name, whole in ranges.items():
        pieces = sorted((start, tested) for one in known for of, start, tested in one.slices if of == name and tested)
        assert pieces[0][0] == whole.start
        assert pieces[-1][0] + pieces[-1][1] - 1 == whole.end
        assert all(start + count == following for (start, count), (following, _) in itertools.pairwise(pieces))
    assert [one.closed for one in known] == [int(one not in present) for one in known]
    assert set(miner.stats().solved_by_engine) == {"recording"}


def begin(engine: BlockingEngine, slices: int) -> None:
    for _ in range(slices):
        assert engine.begun.acquire(timeout=WAIT_S)


def numbers(miner: Miner, engine: Engine) -> list[int]:
    return [worker.index for worker in miner._workers if worker.engine is engine]


def test_another_number_of_workers_disturbs_none_that_stays() -> None:
    engine = BlockingEngine(4)
    with running(engine) as miner:
        search = miner.submit(live_job(), Ends(), on_solution=Solutions())
        begin(engine, 4)
        staying = list(miner._workers)[:2]
        engine.workers = 2
        miner.set_engines([engine])
        assert list(miner._workers) == staying
        assert not any(worker.control.stopped for worker in staying)
        assert len(miner._workers) == 2
        while len(search.workers) > 2:  # until the others have handed back theirs
            pass
        engine.workers = 3
        miner.set_engines([engine])
        begin(engine, 1)
        assert numbers(miner, engine) == [0, 1, 2]
        assert list(miner._workers)[:2] == staying
        assert len(engine.jobs) == 5
        assert engine.closed == 0
    assert miner.stats().busy_workers == 0


def test_a_worker_that_is_about_to_leave_is_taken_back() -> None:
    class Lasting(BlockingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            outcome = super().search(job, start, count, control)
            assert released.wait(WAIT_S)
            return outcome

    engine, released = Lasting(2), threading.Event()
    with running(engine) as miner:
        miner.submit(live_job(), Ends(), on_solution=Solutions())
        begin(engine, 2)
        before = list(miner._workers)
        engine.workers = 1
        miner.set_engines([engine])
        assert numbers(miner, engine) == [0]
        engine.workers = 2  # never more threads than that at a time
        miner.set_engines([engine])
        assert list(miner._workers) == before
        released.set()
        begin(engine, 1)


def test_workers_of_other_engines_are_not_interrupted() -> None:
    kept, old, new, waiting = BlockingEngine(2), BlockingEngine(2), BlockingEngine(3), RecordingEngine(1)
    with running(kept, old) as miner:
        search = miner.submit(live_job(), Ends(), on_solution=Solutions())
        begin(kept, 2)
        begin(old, 2)
        miner.set_engines([new, kept])
        begin(new, 3)
        assert numbers(miner, kept) == [0, 1]
        assert numbers(miner, new) == [4, 5, 6]  # 2 and 3 had slices
        assert len(kept.jobs) == 2
        assert search.status is Status.RUNNING
        miner.set_engines([waiting])  # which has nothing to do until another job comes
    assert (kept.closed, old.closed, new.closed, waiting.closed) == (1, 1, 1, 0)


def test_idle_workers_leave_at_once() -> None:
    engines = [RecordingEngine(2) for _ in range(4)]
    with running(engines[0]) as miner:
        threads = list(miner._workers.threads)
        for engine in engines[1:]:
            miner.set_engines([engine])
            assert numbers(miner, engine) == [0, 1]
            for thread in threads:
                thread.join(WAIT_S)
                assert not thread.is_alive()
            threads = [thread for thread in miner._workers.threads if thread.is_alive()]
            assert len(threads) == 2
    assert [engine.closed for engine in engines] == [1, 1, 1, 0]


def test_engines_change_before_the_start_and_not_after_the_end() -> None:
    first, second, third, ends = RecordingEngine(3), RecordingEngine(1), RecordingEngine(1), Ends()
    miner = Miner([first], chunk_s=0.05)
    miner.set_engines([second])
    assert first.closed == 1
    miner.start()
    miner.submit(job([NonceRange(1, 100)]), ends)
    ends.wait()
    assert miner.close(WAIT_S)
    miner.set_engines([third])
    assert (first.tested, third.tested, numbers(miner, second)) == ([], [], [0])


def test_searches_fail_for_which_the_new_engines_have_no_kernel(caplog: pytest.LogCaptureFixture) -> None:
    class Both(BlockingEngine):
        def kernel(self, pow: Pow) -> str | None:
            return "both"

    both, one, ends = Both(1), BlockingEngine(1), Ends()
    with running(both) as miner:
        sha3 = miner.submit(job([NonceRange(1, MAX)], pow_=Pow.SHA3, job_id="sha3"), ends)
        begin(both, 1)
        other = miner.submit(job([NonceRange(1, MAX)], job_id="poseidon2"), ends)
        begin(both, 1)
        miner.set_engines([one])
        assert ends.wait() is sha3
        begin(one, 1)
        assert (sha3.status, other.status) == (Status.FAILED, Status.RUNNING)
        miner.set_engines([])
        assert ends.wait() is other
        assert not miner.healthy
    (record, _) = [record for record in caplog.records if "no worker is left" in record.message]
    assert record.__dict__["job"] == "sha3"


def test_a_number_that_two_workers_had_is_one_row_of_the_job() -> None:
    engines = [BlockingEngine(1) for _ in range(3)]
    with running(engines[0]) as miner:
        search = miner.submit(live_job(), Ends(), on_solution=Solutions())
        begin(engines[0], 1)
        for engine in engines:
            engine.tested_before_stop = 5
            miner.set_engines([engine])
            begin(engine, int(engine is not engines[0]))
            while len(search.workers) > 1:  # until the one before has handed back its slice
                pass
        assert numbers(miner, engines[2]) == [0]
        miner.cancel(search)
    rows = [(row.engine, row.thread_id, row.hashes) for row in miner.thread_stats(search)]
    assert rows == [("recording", 0, 10), ("recording", 1, 5)]
    assert miner.stats().hashes == 15


def test_the_rates_of_a_job_are_of_the_workers_that_have_counted_lately() -> None:
    """A thousand jobs and many workers cost no more than what is under way."""
    search = Search(job([NonceRange(0, MAX)]), Ends(), None, 0, 0.0)
    workers = [Worker(number, BlockingEngine(3), 0.0) for number in range(3)]
    for worker in workers:
        search.begin(worker, 0.0)
        search.leave(worker, 100)
    search.sample(1.0)
    assert [row.hash_rate for row in search.thread_stats(1.0)] == [100.0] * 3
    for second in range(2, 30):
        search.begin(workers[0], float(second))
        search.leave(workers[0], 10)
        search.sample(float(second))
    assert list(search._meters) == [workers[0].key]
    assert [row.hashes for row in search.thread_stats(29.0)] == [380, 100, 100]
    assert [row.hash_rate for row in search.thread_stats(29.0)] == [pytest.approx(10.0), 0.0, 0.0]
    search.begin(workers[1], 30.0)
    search.leave(workers[1], 110)
    assert search.thread_stats(31.0)[1].hash_rate == pytest.approx(110 / 11)


def test_workers_move_to_other_cpus_with_their_next_slice() -> None:
    class Where(BlockingEngine):
        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            cpus.append(os.sched_getaffinity(0))
            return super().search(job, start, count, control)

    engine, everywhere = Where(1), os.sched_getaffinity(0)
    cpus: list[set[int]] = []
    first, last = frozenset({min(everywhere)}), frozenset({max(everywhere)})
    miner = Miner([engine], chunk_s=0.05, affinity=[first])
    miner.start()
    search = miner.submit(live_job(), Ends(), on_solution=Solutions())
    begin(engine, 1)
    for affinity in ([last], [], [frozenset({2**20})], [last]):
        miner.set_engines([engine], affinity=affinity)
        search = miner.submit(live_job(), Ends(), on_solution=Solutions(), replaces=search)
        begin(engine, 1)
    assert miner.close(WAIT_S)
    assert cpus == [first, last, everywhere, everywhere, last]


def test_a_thread_that_cannot_be_started_is_a_failed_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, ends = RecordingEngine(1), Ends()

    def refuse(_: WorkerThread) -> None:
        raise RuntimeError("can't start new thread")

    with running(engine) as miner:
        with monkeypatch.context() as full:
            full.setattr(WorkerThread, "start", refuse)
            engine.workers = 3
            miner.set_engines([engine])
        assert miner.stats().failed == [1, 2]
        search = miner.submit(job([NonceRange(1, 1000)]), ends)
        assert ends.wait() is search
        engine.workers = 2
        miner.set_engines([engine])
        assert miner.stats().failed == [1]
        miner.set_engines([])
    assert engine.closed == 1
    assert caplog.text.count("failed and is retired") == 2


def test_a_device_that_is_lost_and_comes_back_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)
    card = Device(0, "a toy", "gpu", "0000:0a:00.0", "1.0", "Toy")
    faults = iter([DeviceLostError("unplugged"), DeviceLostError("still unplugged"), None, ValueError("a bug")])

    class Toy(RecordingEngine):
        def status(self) -> EngineStatus:
            return EngineStatus(card)

        def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
            if (fault := next(faults)) is not None:
                raise fault
            return Outcome(1, None)

    def publish(event: DeviceChanged | PauseChanged) -> None:
        assert isinstance(event, DeviceChanged)
        told.append(event)
        raise RuntimeError("of publish")

    told: list[DeviceChanged] = []
    ends = Ends()
    miner = Miner([Toy(1)], chunk_s=0.05, publish=publish)
    with caplog.at_level(logging.INFO, "miner"):
        miner.start()
        miner.submit(job([NonceRange(1, 1000)]), ends)
        assert ends.wait().status is Status.FAILED
        assert miner.close(WAIT_S)
    assert [(event.device, event.engine, event.up) for event in told] == [
        ("0000:0a:00.0", "recording", False),
        ("0000:0a:00.0", "recording", True),
        ("0000:0a:00.0", "recording", False),
    ]
    assert told[0].reason == "unplugged"
    assert told[1].reason == ""
    assert told[2].reason.startswith("ValueError: a bug")
    fields = [record.__dict__.get("device") for record in caplog.records if record.message.startswith("Worker 0")]
    assert fields == ["0000:0a:00.0"] * 3


# --- pauses ---


def test_a_pause_frees_the_workers_and_keeps_the_job() -> None:
    told: list[DeviceChanged | PauseChanged] = []
    engine, ends = BlockingEngine(2), Ends()
    miner = Miner([engine], chunk_s=0.05, publish=told.append)
    miner.start()
    search = miner.submit(job([NonceRange(1, 10**9)]), ends)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    assert miner.pause(USER)
    assert not miner.pause(USER)
    assert miner.stats().paused
    while miner.stats().busy_workers:
        pass
    assert miner.healthy
    assert search.status is Status.RUNNING
    assert search.todo.size == 10**9
    miner.submit(job([NonceRange(1, 10)], job_id="b"), ends)
    assert not engine.begun.acquire(blocking=False)
    assert miner.resume(USER)
    assert not miner.resume(USER)
    for _ in range(2):
        assert engine.begun.acquire(timeout=WAIT_S)
    assert not miner.stats().pauses
    assert told == [PauseChanged(None, True, USER), PauseChanged(None, False, USER)]
    assert miner.close(WAIT_S)


def test_pauses_survive_a_change_of_engines_and_the_end_does_not_wait_for_them() -> None:
    miner = Miner([BlockingEngine(1)], chunk_s=0.05)
    miner.pause(USER, CPU)
    miner.start()
    later = BlockingEngine(3)
    miner.set_engines([later])
    miner.submit(job([NonceRange(1, 10**9)]), Ends())
    assert [worker.paused for worker in miner.stats().workers] == [True] * 3
    assert not later.begun.acquire(blocking=False)
    assert miner.close(WAIT_S)


def test_a_device_that_is_not_there_cannot_be_paused() -> None:
    miner = Miner([BlockingEngine(1)], chunk_s=0.05)
    with pytest.raises(MinerError, match=r"there is no device '0000:01:00\.0'; allowed: cpu"):
        miner.pause(USER, "0000:01:00.0")
    assert miner.stats().pauses == ()


DEVICES = ("cpu", "a", "b")


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([None, *DEVICES]), st.sampled_from([USER, SCHEDULE])), max_size=12
    )
)
def test_a_device_mines_if_no_reason_pauses_it(steps: list[tuple[bool, str | None, str]]) -> None:
    pauses, paused = Pauses(), {(reason, device): False for reason in (USER, SCHEDULE) for device in DEVICES}
    for pause, device, reason in steps:
        before = dict(paused)
        for one in DEVICES if device is None else (device,):
            paused[reason, one] = pause
        changed = pauses.add(Pause(device, reason)) if pause else pauses.remove(Pause(device, reason), DEVICES)
        assert changed or before == paused
        for one in DEVICES:
            assert pauses.cover(one) == (paused[USER, one] or paused[SCHEDULE, one])


# --- confirming ---


def test_the_confirming_hash_is_the_specification_s() -> None:
    for case in vectors("qpow_poseidon2_hash")["cases"]:
        nonce = int(case["nonce_hex"], 16)
        assert native.poseidon2_hash(bytes.fromhex(case["header_hex"]), nonce) == int(case["hash_hex"], 16)
    generator = random.Random(19)
    # Bytes of ff make elements of 2^32 - 1, and random ones all others; the zero nonce is a nonce here.
    for header, nonce in [
        (b"\xff" * 32, MAX),
        (bytes(32), 0),
        *((generator.randbytes(32), generator.randrange(MAX + 1)) for _ in range(50)),
    ]:
        assert native.poseidon2_hash(header, nonce) == reference.evaluate(Pow.POSEIDON2, header, nonce)
    with pytest.raises(ValueError, match="a header must have 32 bytes, got 31"):
        native.poseidon2_hash(bytes(31), 1)


def test_the_constants_of_the_confirming_hash_are_its_own_and_the_same() -> None:
    source = (Path(__file__).parents[1] / "native" / "src" / "poseidon2_check.cpp").read_text(encoding="ascii")
    assert "#include" in source
    assert set(re.findall(r"#include (.*)", source)) == {"<cstdint>", '"quantus_miner.h"'}
    written = [int(number) for number in re.findall(r"\b(\d{15,20})u,", source)]
    rounds = (*poseidon2.FIRST_EXTERNAL_ROUNDS, *poseidon2.LAST_EXTERNAL_ROUNDS)
    assert written == [*itertools.chain(*rounds), *poseidon2.INTERNAL_ROUNDS, *poseidon2.INTERNAL_DIAGONAL]


def test_the_reference_checks_a_solution_again_after_it_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05)
    miner.start()
    task = job([NonceRange(1, MAX)], target=target_from_difficulty(100))
    miner.submit(task, ends)
    solution = ends.wait().solution
    assert miner.close(WAIT_S)
    assert solution is not None
    miner.tick()
    assert (caplog.text, miner.stats().rejected_solutions) == ("", 0)
    miner._recheck.add(task, Solution(solution.nonce, solution.value ^ 1))
    miner.tick()
    miner.tick()
    assert f"The reference disagrees about nonce {solution.nonce:x} of job 'a', which was sent" in caplog.text
    assert miner.stats().rejected_solutions == 1
