"""The miner: coverage of ranges, fairness, cancels, hits, broken engines."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantus_miner import pow as reference
from quantus_miner.backends.cpu import CpuEngine, baseline_kernels, fast_kernels
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.ranges import NonceRanges
from quantus_miner.model import MAX, Job, NonceRange, Pow, Solution, Status, target_from_difficulty
from quantus_miner.native import Outcome

from .engines import (
    HEADER,
    WAIT_S,
    BlockingEngine,
    BrokenEngine,
    Ends,
    LyingEngine,
    RecordingEngine,
    Solutions,
    job,
    live_job,
    running,
)

if TYPE_CHECKING:
    from quantus_miner.backends.base import Control
    from quantus_miner.mining.search import Search


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
