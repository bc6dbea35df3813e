"""A miner whose engines change while it works, whose threads fail, and whose devices are lost."""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends.base import EngineStatus
from quantus_miner.backoff import Backoff
from quantus_miner.errors import DeviceLostError, DevicePausedError
from quantus_miner.events import DeviceChanged, PauseChanged
from quantus_miner.gpu.device import Device
from quantus_miner.mining.miner import Miner
from quantus_miner.mining.search import Search
from quantus_miner.mining.thread import WorkerThread
from quantus_miner.mining.worker import Worker
from quantus_miner.model import MAX, Job, NonceRange, Pow, Status
from quantus_miner.native import Outcome

from .engines import WAIT_S, BlockingEngine, Ends, RecordingEngine, Solutions, job, live_job, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.base import Control, Engine


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
