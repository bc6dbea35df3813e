"""The jobs that come over HTTP, with a real miner whose workers do not run: the test ends their searches."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quantus_miner import jobs as module
from quantus_miner.backends.base import EngineStatus
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.errors import TransitionError
from quantus_miner.jobs import (
    KEEP_S,
    KEEP_UNSERVED_S,
    TRANSITIONS,
    DuplicateJobError,
    Entry,
    Event,
    Jobs,
    TooManyJobsError,
    next_status,
)
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Solution, Status
from quantus_miner.native import Outcome
from quantus_miner.parts.engines import Engines
from quantus_miner.store.writer import Store

from .live import Clock
from .test_store import a_job, ended, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.backends.backend import EngineOptions
    from quantus_miner.backends.base import Control
    from quantus_miner.mining.search import Search
    from quantus_miner.model import Job, Pow

EXPIRY_S = 6_000.0
WAIT_S = 30.0
SOLUTION = Solution(77, 0)


class Setup:
    """Jobs over a miner and a store whose threads do not run. ``posted``: what workers have posted to the owner."""

    def __init__(self, clock: Clock, store: Store | None = None) -> None:
        self.clock = clock
        self.miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=1.0, clock=clock)
        self.store = store or Store(Path("is/not/opened"), history_days=1, clock=clock)
        self.posted: list[tuple[Callable[[Search], None], Search]] = []
        self.jobs = Jobs(
            self.miner,
            self.store,
            expiry_s=EXPIRY_S,
            clock=clock,
            call_soon=lambda call, search: self.posted.append((call, search)),
        )

    def submit(self, job_id: str) -> Entry:
        return self.jobs.submit(a_job(job_id))

    def end_search(self, entry: Entry, solution: Solution | None) -> None:
        """End a search as a worker does."""
        search = entry.search
        assert search is not None
        with self.miner._lock:
            search.solution, search.engine = solution, "cpu-fast" if solution else None
            self.miner._end(search, Status.COMPLETED if solution else Status.FAILED)
        search.on_end(search)

    def deliver(self) -> None:
        """What the owner's loop does."""
        while self.posted:
            call, search = self.posted.pop(0)
            call(search)

    def solve(self, entry: Entry) -> None:
        self.end_search(entry, SOLUTION)
        self.deliver()

    def ids(self) -> list[str]:
        return [entry.id for entry in self.jobs.entries]


@pytest.fixture
def setup() -> Setup:
    return Setup(Clock())


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("event", Event)
def test_every_transition_that_is_not_listed_raises_and_names_state_and_event(status: Status, event: Event) -> None:
    if status is Status.RUNNING:
        assert next_status(status, event) is TRANSITIONS[status, event] is not Status.RUNNING
        return
    with pytest.raises(TransitionError) as error:
        next_status(status, event)
    assert str(error.value) == f"a job cannot handle the event {event.value} in the state {status}"


def test_ended_jobs_stay_readable_as_long_as_promised(setup: Setup) -> None:
    failed, read, unread = map(setup.submit, ("failed", "read", "unread"))
    setup.end_search(failed, None)
    setup.solve(read)
    setup.solve(unread)
    setup.clock.now += 1
    setup.jobs.poll(read)
    assert setup.store._jobs["read"].served
    ended_at = setup.clock.now - 1
    for age, left in (
        (KEEP_S - 0.1, ["failed", "read", "unread"]),
        (KEEP_S, ["unread"]),
        (KEEP_UNSERVED_S - 0.1, ["unread"]),
        (KEEP_UNSERVED_S, []),
    ):
        setup.clock.now = ended_at + age
        setup.jobs.tick()
        assert setup.ids() == left == list(setup.store._jobs)


def test_without_room_jobs_are_refused_but_ended_ones_make_room(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ACTIVE", 2)
    monkeypatch.setattr(module, "MAX_JOBS", 3)
    solved, cancelled = setup.submit("solved"), setup.submit("cancelled")
    with pytest.raises(TooManyJobsError):
        setup.submit("third")
    setup.solve(solved)
    setup.jobs.cancel(cancelled)
    third, _ = setup.submit("third"), setup.submit("fourth")
    assert setup.ids() == ["solved", "third", "fourth"]
    setup.solve(third)
    with pytest.raises(TooManyJobsError):  # all that ended are solutions that nobody has read
        setup.submit("fifth")
    assert setup.miner.stats().active_jobs == 1
    setup.jobs.poll(solved)
    setup.submit("fifth")
    assert setup.ids() == ["third", "fourth", "fifth"]


def test_statistics_show_the_newest_and_prefer_running_jobs(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SHOWN", 4)
    a, _, c, d, *_ = (setup.submit(job_id) for job_id in "abcdef")
    for entry in (a, c, d):
        setup.jobs.cancel(entry)
    assert [shown.job_id for shown in setup.jobs.stats()] == ["d", "b", "e", "f"]
    for job_id in "ghi":
        setup.submit(job_id)
    assert [shown.job_id for shown in setup.jobs.stats()] == ["f", "g", "h", "i"]


def test_after_a_restart_room_is_made_for_the_newest(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill may leave jobs in the store that had to make room a moment before."""
    monkeypatch.setattr(module, "MAX_ACTIVE", 1)
    monkeypatch.setattr(module, "MAX_JOBS", 3)
    now = setup.clock.now
    made_room = [ended("served", at=now, served=True), ended("cancelled", Status.CANCELLED, at=now)]
    kept = [ended("unread", at=now), ended("also unread", at=now), running("running")]
    setup.jobs.restore([*made_room, *kept, running("one too many")])
    assert [entry.stored for entry in setup.jobs.entries] == kept
    assert setup.miner.stats().active_jobs == 1


class Overloaded:
    """An engine whose thread gets no CPU for a while when it should end its slice. ``cpu``: set when it gets one."""

    name, workers = "toy", 1

    def __init__(self) -> None:
        self.begun, self.cpu = threading.Event(), threading.Event()

    def status(self) -> EngineStatus:
        return EngineStatus()

    def kernel(self, pow: Pow) -> str | None:
        return "toy"

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        control.count(1_000)
        self.begun.set()
        self.cpu.wait(WAIT_S)
        assert control.stopped
        return Outcome(1_000, None)

    def adapt(self, options: EngineOptions, workers: int) -> None:
        return None

    def close(self) -> None:
        pass


def test_the_count_of_a_job_does_not_fall_when_a_worker_is_slow_to_stop() -> None:
    """The end of the service waits for the slice. What is saved without it would begin before that slice."""

    async def main() -> None:
        engine = Overloaded()
        miner = Miner([engine], chunk_s=60.0)
        store = Store(Path("is/not/opened"), history_days=1)
        jobs = Jobs(miner, store, expiry_s=EXPIRY_S, clock=time.monotonic, call_soon=lambda *_: None)
        entry = jobs.submit(a_job("id"))
        miner.start()
        assert await asyncio.to_thread(engine.begun.wait, WAIT_S)
        shown, _ = jobs.figures(entry)
        asyncio.get_running_loop().call_later(0.4, engine.cpu.set)
        await Engines(SimpleNamespace(miner=miner)).stop()  # type: ignore[arg-type]  # it needs nothing else to stop
        jobs.save()
        assert entry.stored.progress.hashes == shown == 1_000

    asyncio.run(main())


def test_a_solution_stands_that_came_before_the_cancel_or_the_expiry(setup: Setup) -> None:
    entries = [setup.submit("cancelled too late"), setup.submit("expired too late")]
    for entry in entries:
        setup.end_search(entry, SOLUTION)
    setup.jobs.cancel(entries[0])
    setup.clock.now += EXPIRY_S
    setup.jobs.tick()
    setup.deliver()
    for entry in entries:
        assert (entry.status, entry.stored.solution) == (Status.COMPLETED, SOLUTION)
        setup.jobs.cancel(entry)
        assert entry.status is Status.COMPLETED
    assert setup.jobs.ended == {("cpu-fast", "completed"): 2}
    assert [find.job_id for find in setup.store._finds] == ["cancelled too late", "expired too late"]


def test_the_end_of_a_search_is_not_that_of_a_later_job_with_its_id(setup: Setup) -> None:
    first = setup.submit("id")
    setup.end_search(first, SOLUTION)
    setup.jobs.tick()  # notices it
    setup.clock.now += KEEP_UNSERVED_S
    setup.jobs.tick()
    second = setup.submit("id")
    setup.deliver()
    assert second.status is Status.RUNNING


def test_at_the_end_of_the_service_what_is_known_is_saved(setup: Setup) -> None:
    """Solutions whose news the loop no longer delivers, and the progress of the rest."""
    solved, going_on, idle = map(setup.submit, ("solved", "going on", "idle"))
    setup.end_search(solved, SOLUTION)
    assert going_on.search is not None
    going_on.search.todo.take(5)
    going_on.search.tested += 5
    setup.jobs.save()
    saved = setup.store._jobs
    assert (saved["solved"].status, saved["solved"].solution) == (Status.COMPLETED, SOLUTION)
    assert (saved["going on"].progress.hashes, saved["going on"].progress.todo[0].start) == (5, 5)
    assert saved["idle"] is idle.stored


class JobsMachine(RuleBasedStateMachine):
    """No solution is lost before it was read or an hour has passed, an end is final, the store knows everything."""

    def __init__(self) -> None:
        super().__init__()
        self.setup = Setup(Clock())
        self.next_id = 0
        self.unread: dict[str, float] = {}
        self.final: dict[str, Status] = {}

    def pick(self, data: st.DataObject, *, only_running: bool) -> Entry:
        setup = self.setup
        entries = [entry for entry in setup.jobs.entries if entry.status is Status.RUNNING or not only_running]
        return data.draw(st.sampled_from(entries))

    def has_running(self) -> bool:
        return any(entry.status is Status.RUNNING for entry in self.setup.jobs.entries)

    @rule(seconds=st.sampled_from([0.0, 1.0, 200.0, 301.0, 1000.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        setup, clock = self.setup, self.setup.clock
        clock.now += seconds
        setup.jobs.tick()
        self.note_ends()
        for job_id, at in self.unread.items():
            assert (setup.jobs.get(job_id) is not None) == (clock.now < at + KEEP_UNSERVED_S)
        self.unread = {job_id: at for job_id, at in self.unread.items() if clock.now < at + KEEP_UNSERVED_S}
        for entry in setup.jobs.entries:
            if entry.status is Status.RUNNING and entry.search is not None:
                assert entry.stored.progress.hashes == entry.search.tested
                assert entry.polled > clock.now - EXPIRY_S
        assert setup.store._jobs.keys() == set(setup.ids())

    @rule()
    def submit(self) -> None:
        self.next_id += 1
        self.setup.submit(str(self.next_id))
        with pytest.raises(DuplicateJobError):
            self.setup.submit(str(self.next_id))

    @precondition(has_running)
    @rule(data=st.data(), solution=st.sampled_from([SOLUTION, None]))
    def end_search(self, data: st.DataObject, solution: Solution | None) -> None:
        entry = self.pick(data, only_running=True)
        if entry.search is not None and entry.search.status is Status.RUNNING:
            self.setup.end_search(entry, solution)

    @rule()
    def deliver(self) -> None:
        self.setup.deliver()

    @precondition(has_running)
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        search = self.pick(data, only_running=True).search
        if search is not None and search.status is Status.RUNNING:
            search.todo.take(10)
            search.tested += 10

    @precondition(lambda self: self.setup.jobs.entries)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        entry = self.pick(data, only_running=False)
        self.setup.jobs.cancel(entry)
        assert entry.status is not Status.RUNNING

    @precondition(lambda self: self.setup.jobs.entries)
    @rule(data=st.data())
    def poll(self, data: st.DataObject) -> None:
        entry = self.setup.jobs.get(self.pick(data, only_running=False).id)
        assert entry is not None
        self.setup.jobs.poll(entry)
        self.note_ends()
        self.unread.pop(entry.id, None)
        assert entry.polled == self.setup.clock.now
        assert not entry.unserved

    @rule()
    def crash(self) -> None:
        """What the store has been given is all that the next run knows."""
        old = self.setup
        self.note_ends()
        self.setup = Setup(old.clock, old.store)
        self.setup.jobs.restore([replace(stored) for stored in old.store._jobs.values()])
        for entry in self.setup.jobs.entries:
            if entry.status is Status.RUNNING and entry.search is not None:
                assert entry.search.tested == entry.stored.progress.hashes
                assert sum(piece.size for piece in entry.search.todo.left) + entry.search.tested == MAX + 1

    @invariant()
    def note_ends(self) -> None:
        for entry in self.setup.jobs.entries:
            if entry.stored.ended is not None and entry.id not in self.final:
                self.final[entry.id] = entry.status
                if entry.unserved:
                    self.unread[entry.id] = entry.stored.ended
            assert entry.status is self.final.get(entry.id, Status.RUNNING)

    @invariant()
    def the_store_has_been_given_every_change(self) -> None:
        for entry in self.setup.jobs.entries:
            assert self.setup.store._jobs[entry.id] == entry.stored

    @invariant()
    def running_jobs_are_those_that_are_searched(self) -> None:
        searched = set(self.setup.miner._turns)
        noticed = {entry.search for entry in self.setup.jobs.entries if entry.status is Status.RUNNING}
        assert searched <= noticed
        assert all(search is not None and search.status is not Status.RUNNING for search in noticed - searched)


TestJobs = JobsMachine.TestCase
