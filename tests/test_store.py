"""The store: what is on the disk after a crash at any byte, a damaged file, a disk that fails; the history."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import resource
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.cli import cli
from quantus_miner.errors import MinerError
from quantus_miner.jobs import KEEP_S, KEEP_UNSERVED_S, MAX_JOBS, Jobs
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow, Progress, Solution, Status
from quantus_miner.sources.link import Verdict
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.store import database, history, schema
from quantus_miner.store.rows import Find, Sent, StoredJob, StoredPoint, StoredSolution
from quantus_miner.store.writer import SAVE_S, Store

from .fuzz import hunt
from .live import Clock, ScriptedLink
from .live import job as live_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 30.0
HEADER = bytes(range(32))


def a_job(job_id: str, *ranges: NonceRange, target: int = 0) -> Job:
    return Job(job_id, Pow.POSEIDON2, HEADER, target, ranges or (NonceRange(0, MAX),))


def running(job_id: str, done: int = 0) -> StoredJob:
    return StoredJob(a_job(job_id), Progress((NonceRange(done, MAX),), done, done / 1000), Status.RUNNING)


def ended(job_id: str, status: Status = Status.COMPLETED, at: float = 1e9, *, served: bool = False) -> StoredJob:
    solution = Solution(MAX, 2**500 + 1) if status is Status.COMPLETED else None
    engine = "cpu-fast" if solution else None
    return StoredJob(a_job(job_id), Progress((), 7, 0.5), status, solution, engine, at, served)


@contextmanager
def opened(
    folder: Path, days: int = 30, clock: Callable[[], float] = lambda: 0.0
) -> Iterator[tuple[Store, list[StoredJob]]]:
    store = Store(folder, history_days=days, clock=clock, retry_s=0.01)
    jobs = store.start()
    try:
        yield store, jobs
    finally:
        store.close(WAIT_S)
        assert not store._thread.is_alive()


class Lines(logging.Handler):
    """What the store logs, to be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._grown = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._grown:
            self.lines.append(record.getMessage())
            self._grown.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line with ``text`` in it."""
        with self._grown:
            assert self._grown.wait_for(lambda: any(text in line for line in self.lines), WAIT_S), self.lines
            return next(line for line in self.lines if text in line)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Of the store, from level INFO."""
    handler, logger = Lines(), logging.getLogger("miner.store")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def crash(folder: Path, target: Path) -> Path:
    """The files of a running store as a loss of power leaves them, in the new folder ``target``."""
    target.mkdir()
    for path in folder.glob("jobs.db*"):
        if path.is_file() and not path.name.endswith("-shm"):
            shutil.copy(path, target)
    return target


def test_everything_of_a_job_comes_back(tmp_path: Path) -> None:
    ranges = (NonceRange(5, MAX), NonceRange(0, 4))
    jobs = [
        StoredJob(
            Job('näh\x00\ud800"', Pow.SHA3, HEADER, MAX, ranges, Order.COUNTING),
            Progress((NonceRange(9, 9), NonceRange(0, 3)), 2**40, 1.25),
            Status.RUNNING,
        ),
        StoredJob(
            Job("walk", Pow.POSEIDON2, HEADER, 0, (NonceRange(1, 2),), Order.WALK),
            Progress((NonceRange(2, 2),), 1),
            Status.RUNNING,
        ),
        ended("a", served=True),
        ended("b", Status.FAILED),
        ended("c", Status.CANCELLED),
    ]
    with opened(tmp_path) as (store, before):
        assert before == []
        for stored in jobs:
            store.put(stored).result(WAIT_S)
    with opened(tmp_path) as (_, after):
        assert after == jobs


OPERATIONS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["run", "progress", "solve", "cancel", "serve", "forget"])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25)
@given(operations=OPERATIONS, moment=st.floats(0, 1))
def test_a_crash_at_any_byte_leaves_what_was_promised(operations: list[tuple[int, str]], moment: float) -> None:
    """A commit whose future is done is there, whole; one that is cut is not there at all."""
    with tempfile.TemporaryDirectory() as name, opened(folder := Path(name) / "real") as (store, _):
        # Behind the reservation: from here on the log is overwritten from its beginning.
        jobs = {"first": running("first")}
        store.put(jobs["first"]).result(WAIT_S)

        def written() -> bytes:
            with (folder / "jobs.db-wal").open("rb") as wal:
                return wal.read(2**19)

        states = [(written(), list(jobs.values()))]
        for number, (who, what) in enumerate(operations):
            job_id = str(who)
            match what:
                case "forget":
                    jobs.pop(job_id, None)
                    store.retain(set(jobs))
                    # The commit that follows has it too.
                    job_id = "last"
                    jobs[job_id] = running(job_id, number)
                case "run":
                    jobs[job_id] = running(job_id)
                case "progress":
                    jobs[job_id] = running(job_id, number)
                case _:
                    status = Status.CANCELLED if what == "cancel" else Status.COMPLETED
                    jobs[job_id] = ended(job_id, status, served=what == "serve")
            store.put(jobs[job_id]).result(WAIT_S)
            states.append((written(), sorted(jobs.values(), key=lambda stored: stored.job.id)))
        # The crash cuts one of the operations, so many of its bytes have got to the disk.
        step = min(int(moment * len(operations)), len(operations) - 1)
        (before, promised), (after, following) = states[step : step + 2]
        changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        share = moment * len(operations) - step
        cut = changed[min(int(share * len(changed)), len(changed) - 1)] if share < 1 else len(after)
        crashed = Path(name) / "crashed"
        crashed.mkdir()
        for file in ("jobs.db", "jobs.db-wal"):
            shutil.copy(folder / file, crashed)
        with (crashed / "jobs.db-wal").open("r+b") as wal:
            wal.write(after[:cut] + before[cut:])
        with opened(crashed) as (_, loaded):
            found = sorted(loaded, key=lambda stored: stored.job.id)
        # A forgetting may have got a commit of its own.
        ids = {stored.job.id for stored in following}
        forgotten = [stored for stored in promised if stored.job.id in ids]
        assert found in ([following] if cut == len(after) else [promised, forgotten])


def test_a_search_goes_on_exactly_where_it_was() -> None:
    """Whatever the moment: what is counted as tested and what is left to do are the whole range, without overlap."""
    size, rng = 300_000, random.Random(7)
    whole = NonceRange(10**6, 10**6 + size - 1)
    engine = CpuEngine("cpu-fast", 2, fast_kernels(None))
    miner = Miner([engine], chunk_s=0.005)
    miner.start()
    snapshots: list[Progress] = []
    search = miner.submit(a_job("x", whole), lambda _: None)
    while search.status is Status.RUNNING:
        progress = miner.progress(search)
        if search.status is Status.RUNNING:
            snapshots.append(progress)
    assert miner.close(WAIT_S)
    assert search.tested == size
    assert len(snapshots) > 3
    for progress in snapshots:
        pieces = sorted(progress.todo, key=lambda piece: piece.start)
        assert progress.hashes + sum(piece.size for piece in pieces) == size
        assert all(left.end < right.start for left, right in itertools.pairwise(pieces))
        assert whole.start <= pieces[0].start <= pieces[-1].end <= whole.end
    again = Miner([CpuEngine("cpu-fast", 2, fast_kernels(None))], chunk_s=0.005)
    again.start()
    for progress in rng.sample(snapshots, 3):
        done = threading.Event()
        resumed = again.submit(a_job("x", whole), lambda _, done=done: done.set(), progress=progress)  # type: ignore[misc]
        assert done.wait(WAIT_S)
        assert (resumed.status, again.hashes(resumed)) == (Status.FAILED, size)
        assert again.elapsed(resumed) > progress.elapsed
    assert again.close(WAIT_S)


def test_a_stopped_search_has_nothing_to_repeat() -> None:
    miner = Miner([CpuEngine("cpu-fast", 2, fast_kernels(None))], chunk_s=5.0)
    miner.start()
    search = miner.submit(a_job("x"), lambda _: None)
    while miner.hashes(search) <= 10_000:
        os.sched_yield()
    assert miner.close(WAIT_S)
    progress = miner.progress(search)
    assert progress.hashes == miner.hashes(search)
    assert progress.hashes + sum(piece.size for piece in progress.todo) == MAX + 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (b"\x00" * 5000, "not a database"),
        (random.Random(1).randbytes(20_000), "not a database"),
        ((hunt.SEEDS / "store-file" / "size").read_bytes(), ""),  # found by fuzzing: SQLite wants too much memory
        ("truncated", "malformed"),
        ("flipped", ""),
        ("version", "schema has version -1"),
        ("foreign", "schema has version 0"),
        ("content", "nothing to do"),
        ("order", "in walk order"),
        ("range", "beyond the end of its walk order"),
        ("time", "inf seconds"),
        ("tables", "its tables are not those of a miner"),
        ("no text", "is not a valid"),
        ("no name", "names that make no sense"),
        ("format", "its format is unknown"),
        ("index", "index"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | str, says: str
) -> None:
    with opened(tmp_path) as (store, _):
        for number in range(50):
            store.put(running(str(number))).result(WAIT_S)
    path = tmp_path / database.FILE
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "flipped":
        content = bytearray(path.read_bytes())
        for at in range(4096 * 2, len(content), 7):
            content[at] ^= 0xFF
        path.write_bytes(content)
    elif damage == "no name":
        # It is in what SQLite says of the file.
        path.write_bytes(path.read_bytes().replace(b"tablejobs", b"tablejo\xe0s").replace(b"TABLE jobs", b"TABEL jobs"))
    elif damage == "format":
        content = bytearray(path.read_bytes())
        content[database.WRITE_VERSION] = 3
        path.write_bytes(content)
    elif damage == "index":
        # An id in the table, but not in the index.
        path.write_bytes(path.read_bytes().replace(b"49qpow", b"4xqpow"))
    else:
        if damage == "foreign":
            path.unlink()
        script = {
            "version": "PRAGMA user_version = -1",
            "foreign": "CREATE TABLE other (a)",
            "content": "UPDATE jobs SET todo = x''",
            "order": "UPDATE jobs SET nonce_order = 'walk', pow = 'qpow-sha3'",
            "range": "UPDATE jobs SET nonce_order = 'walk'",
            "time": "UPDATE jobs SET elapsed = 9e999",
            "tables": "DROP INDEX finds_by_nonce",
            "no text": "UPDATE jobs SET pow = CAST(x'ff' AS TEXT)",
        }[damage]
        connection = sqlite3.connect(path)
        connection.execute(script)
        connection.commit()
        connection.close()
    broken = path.read_bytes()
    with opened(tmp_path) as (store, jobs):
        assert jobs == []
        store.put(running("new")).result(WAIT_S)
        assert store.ok
    (kept,) = tmp_path.glob("jobs.db.damaged-*Z")
    assert kept.read_bytes() == broken
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"set aside as {kept.name}, begun anew" in line
    assert says in line
    with opened(tmp_path) as (_, jobs):
        assert jobs == [running("new")]


@contextmanager
def full_disk(size: int = 0) -> Iterator[None]:
    """Nothing can be written to a file beyond its first ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_and_delays_nobody(tmp_path: Path, lines: Lines) -> None:
    with opened(tmp_path) as (store, _):
        store.put(running("before")).result(WAIT_S)
        store.put(running("forgotten")).result(WAIT_S)
        with full_disk():
            store.put(running("during")).result(WAIT_S)
            assert not store.ok
            assert store.put(ended("before")).done()
            store.found(Find(time.time_ns(), "pool", "j", Pow.POSEIDON2, HEADER, Solution(77, 5)))
            store.judged("pool", 77, "accepted")
            store.retain({"before", "during"})
        lines.wait_for("can be written again")
        store.put(running("after")).result(WAIT_S)
        crashed = crash(tmp_path, tmp_path / "crashed")
    assert ["Cannot write" in lines.lines[0], "can be written again" in lines.lines[1]] == [True, True]
    assert len(lines.lines) == 2
    for folder in (tmp_path, crashed):
        with opened(folder) as (_, jobs):
            assert {stored.job.id: stored for stored in jobs} == {
                "before": ended("before"),
                "during": running("during"),
                "after": running("after"),
            }
    assert [entry["verdict"] for entry in entries(tmp_path)] == ["accepted"]


def test_on_a_disk_without_room_jobs_take_what_was_reserved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with opened(tmp_path) as (store, _):
        # Behind the reservation, which comes first of all.
        store.put(running("before")).result(WAIT_S)
        sizes = [(tmp_path / name).stat().st_size for name in ("jobs.db", "jobs.db-wal")]
        assert min(sizes) >= database.RESERVE_BYTES
        with full_disk(max(sizes)):
            # As many as are held at once, and all of them written again and again.
            numbers = range(MAX_JOBS - 1)
            for turn in range(3):
                commits = [store.put(running(f"{number:0128}", turn)) for number in numbers]
                commits[-1].result(WAIT_S)
                assert store.ok
        for name in ("jobs.db", "jobs.db-wal"):
            shutil.copy(tmp_path / name, crashed)
    with opened(crashed) as (_, jobs):
        assert jobs == [running("before"), *(running(f"{number:0128}", 2) for number in numbers)]
    assert not caplog.records


def without_log(folder: Path) -> set[str]:
    """The jobs that are in the database itself, behind its log. Empty if the writer was just changing it."""
    with tempfile.TemporaryDirectory() as copy:
        path = shutil.copy(folder / database.FILE, copy)
        with closing(sqlite3.connect(path)) as found, suppress(sqlite3.DatabaseError):
            return {job_id.decode() for (job_id,) in found.execute("SELECT id FROM jobs")}
    return set()


def test_a_long_log_is_moved_into_the_database_when_there_is_time(tmp_path: Path) -> None:
    ids = {str(number) for number in range(database.CHECKPOINT_ROWS)}
    clock = time.monotonic() + WAIT_S
    with opened(tmp_path) as (store, _):
        for job_id in ids:
            store.put(running(job_id)).result(WAIT_S)
        while without_log(tmp_path) != ids:
            assert time.monotonic() < clock, "the log was not moved"
        # The writer knows that the change of the file is its own.
        store.put(running("last")).result(WAIT_S)
        assert store.ok
    with opened(tmp_path) as (_, jobs):
        assert {stored.job.id for stored in jobs} == ids | {"last"}


def test_a_log_that_cannot_be_moved_waits_for_a_later_commit(tmp_path: Path, lines: Lines) -> None:
    with opened(tmp_path) as (store, _), closing(sqlite3.connect(tmp_path / database.FILE)) as reader:
        store.put(running("0")).result(WAIT_S)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM jobs").fetchall()  # which holds on to this state of the log
        for number in range(database.CHECKPOINT_ROWS):
            store.put(running("0", number)).result(WAIT_S)
        assert store.ok
    assert lines.lines == []


def test_what_cannot_be_reserved_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path):
        pass
    with full_disk(2**20), opened(tmp_path) as (store, _):
        for number in range(9):
            store.put(running(str(number))).result(WAIT_S)
        assert store.ok
    (line,) = [record.getMessage() for record in caplog.records]
    # As a limit of the size, not of the disk, says it.
    assert line == f"Cannot reserve room in {tmp_path}: disk I/O error; jobs take what was reserved before"


@pytest.mark.parametrize("method", ["load", "write"])
def test_an_error_of_our_own_makes_nobody_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("our own")

    monkeypatch.setattr(database.Database, method, fail)
    with opened(tmp_path) as (store, jobs):
        assert jobs == []
        store.put(running("a")).result(WAIT_S)
        store._thread.join(WAIT_S)
        assert not store.ok
        store.put(running("b")).result(WAIT_S)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "The store has failed: jobs are kept in memory only until a restart"


def test_who_waits_for_the_last_jobs_may_give_up(tmp_path: Path) -> None:
    """A signal ends the service while it starts: the writer is not disturbed."""
    store = Store(tmp_path, history_days=1)

    async def give_up() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(store.loaded))
        waiting.cancel()
        await asyncio.wait((waiting,))

    asyncio.run(give_up())
    assert store.start() == []
    store.close(WAIT_S)
    assert store.ok


def test_a_folder_that_cannot_be_there_is_made_when_it_can(
    tmp_path: Path, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    folder.write_text("in the way")
    with opened(folder) as (store, jobs):
        assert jobs == []
        assert not store.ok
        assert store.put(running("a")).done()
        folder.unlink()
        lines.wait_for("can be written again")
        assert store.ok
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    with opened(folder) as (_, jobs):
        assert jobs == [running("a")]


def test_a_second_one_uses_memory_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as (first, _):
        first.put(running("mine")).result(WAIT_S)
        with opened(tmp_path) as (second, jobs):
            assert jobs == []
            assert not second.ok
            assert second.put(running("other")).done()
            second.retain(set())
        assert "Another miner uses" in caplog.text
    with opened(tmp_path) as (third, jobs):
        assert jobs == [running("mine")]
        assert third.ok


def test_results_stay_readable_for_their_time_and_no_longer(tmp_path: Path) -> None:
    first, second = Clock(), Clock()
    second.now = 7.0  # each run has an origin of its own
    now = first.now
    kept = [
        ended("unserved", at=now - KEEP_UNSERVED_S + 60),
        ended("served", at=now - KEEP_S + 60, served=True),
        ended("cancelled", Status.CANCELLED, at=now - KEEP_S + 60),
        ended("of the future", at=now + 10**6, served=True),
        running("running", 5),
    ]
    old = [
        ended("old unserved", at=now - KEEP_UNSERVED_S - 1),
        ended("old served", at=now - KEEP_S - 1, served=True),
        ended("old failed", Status.FAILED, at=now - KEEP_S - 1),
    ]
    with opened(tmp_path, clock=first) as (store, _):
        for stored in [*kept, *old]:
            store.put(stored).result(WAIT_S)
    miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.01)
    with opened(tmp_path, clock=second) as (store, earlier):
        jobs = Jobs(miner, store, expiry_s=600, clock=second, call_soon=lambda call, search: call(search))
        jobs.restore(earlier)
        assert {entry.id for entry in jobs.entries} == {stored.job.id for stored in kept}
        active, solved = jobs.get("running"), jobs.get("unserved")
        assert active is not None
        assert solved is not None
        assert (active.status, active.polled, jobs.figures(active)[0]) == (Status.RUNNING, second.now, 5)
        assert solved.readable_until() - second.now == pytest.approx(60)
        assert (solved.stored.solution, jobs.figures(solved)) == (Solution(MAX, 2**500 + 1), (7, 0.5))
        jobs.cancel(active)
        second.now += 61
        jobs.tick()
    with opened(tmp_path) as (_, left):
        assert {stored.job.id: stored.status for stored in left} == {
            "of the future": Status.COMPLETED,
            "running": Status.CANCELLED,
        }


def test_the_running_time_is_kept_without_anything_else_to_write(tmp_path: Path) -> None:
    with opened(tmp_path, clock=(clock := Clock())) as (store, _):
        store.put(ended("a", at=clock.now)).result(WAIT_S)
        clock.now += 100.0
    with opened(tmp_path, clock=(clock := Clock())) as (store, (job,)):
        assert clock.now - (job.ended or 0.0) == 100.0
        clock.now += SAVE_S + 1.0
        store._commit.result(WAIT_S)  # that nobody asked for
        crash(tmp_path, tmp_path / "crashed")
    with opened(tmp_path / "crashed", clock=(clock := Clock())) as (_, (job,)):
        assert clock.now - (job.ended or 0.0) == 101.0 + SAVE_S


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_file_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(tmp_path / database.FILE)
    connection.executescript("PRAGMA journal_mode = WAL;" + "".join(schema.STEPS[:version]))
    solved = ended("solved", at=time.time() - 10**6 if version == 1 else 0.0)
    into_jobs = database.PUT
    if version < 3:
        into_jobs = into_jobs.replace("target", "goal").replace("nonce_order", "positions")
    connection.executemany(into_jobs, [stored.columns() for stored in (solved, running("long", 5))])
    into_finds = (
        "INSERT INTO finds (time_ns, source, job_id, pow, header, nonce, difficulty, verdict)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    connection.execute(into_finds, find(1, age_s=10**6).columns())
    connection.commit()
    connection.close()
    assert [entry["nonce"] for entry in entries(tmp_path)] == ["1"]
    for _ in range(2):
        with opened(tmp_path, days=1) as (store, jobs):
            # Version 1 did not say for how long it was used: the solution gets its whole time.
            assert jobs == [replace(solved, ended=0.0), running("long", 5)]
            store.put(running("long", 5)).result(WAIT_S)
            assert store.ok
    assert [entry["nonce"] for entry in entries(tmp_path)] == ["1"]


def test_points_of_the_plots_survive_without_a_commit_of_their_own(tmp_path: Path) -> None:
    first, second = StoredPoint(10, 1_000, b"{}"), StoredPoint(10, 1_010, b'{"hashes":1}')
    with opened(tmp_path, clock=(clock := Clock())) as (store, _):
        assert store.earlier_points == []
        store.keep_point(first)
        store.keep_point(second)
        crash(tmp_path, tmp_path / "before")
        clock.now += SAVE_S + 1.0
        store._commit.result(WAIT_S)  # that nobody asked for
        crash(tmp_path, tmp_path / "after")
    for folder, expected in (("before", []), ("after", [first, second])):
        with opened(tmp_path / folder) as (store, _):
            assert store.earlier_points == expected
    again = StoredPoint(10, 1_000, b'{"hashes":2}')
    with opened(tmp_path) as (store, _):
        store.keep_point(again)
    many = [StoredPoint(300, 300 * number, b"{}") for number in range(database.MAX_POINTS + 5)]
    with opened(tmp_path) as (store, _):
        assert store.earlier_points == [second, again]
        for point in many:
            store.keep_point(point)
    with opened(tmp_path) as (store, _):
        assert store.earlier_points == [second, again, *many[5:]]


def test_points_wait_for_a_disk_that_fails(tmp_path: Path, lines: Lines) -> None:
    point = StoredPoint(10, 1_000, b"{}")
    folder = tmp_path / "state"
    with opened(folder) as (store, _):
        store.put(running("a")).result(WAIT_S)
        shutil.rmtree(folder)
        folder.write_text("in the way")
        store.keep_point(point)
        lines.wait_for("Cannot write")
        folder.unlink()
        lines.wait_for("can be written again")
    with opened(folder) as (store, jobs):
        assert (store.earlier_points, jobs) == ([point], [running("a")])


def test_the_outbox_survives_a_restart_until_it_is_settled(tmp_path: Path) -> None:
    waits, sent, gone = (
        StoredSolution(HEADER, Solution(nonce, 7), sent)
        for nonce, sent in enumerate((Sent.PERHAPS, Sent.YES, Sent.NO), 1)
    )
    with opened(tmp_path) as (store, _):
        for solution in (waits, replace(sent, sent=Sent.NO), gone):
            store.keep(solution).result(WAIT_S)
        store.keep(sent)
        store.settle([gone.key, (HEADER, 4)])
    with opened(tmp_path) as (store, _):
        assert sorted(store.outbox, key=lambda solution: solution.key) == [waits, sent]
        # A file that is gone is written again, with all of it.
        (tmp_path / "jobs.db").unlink()
        store.keep(gone).result(WAIT_S)
        store.put(running("a")).result(WAIT_S)
    with opened(tmp_path) as (store, jobs):
        assert {solution.key for solution in store.outbox} == {waits.key, sent.key, gone.key}
        assert [job.job.id for job in jobs] == ["a"]


def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as (store, _):
        store.put(running("a")).result(WAIT_S)
    path = tmp_path / database.FILE
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with opened(tmp_path) as (store, jobs):
        assert (jobs, store.ok) == ([], False)
        assert store.put(running("b")).done()
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [database.FILE]
    newer = "it was written by a newer version of quantus-miner"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"Cannot use {path}: {newer}; it is left as it is, jobs are kept in memory only"
    with pytest.raises(MinerError, match=newer):
        history.latest(tmp_path, 1)


# --- history ---


def entries(folder: Path, *args: str) -> list[dict[str, str | None]]:
    done = CliRunner().invoke(cli, ["history", "--json", "--state-dir", str(folder), *args], catch_exceptions=False)
    assert done.exit_code == 0
    return [json.loads(line) for line in done.output.splitlines()]


def find(number: int, age_s: float = 0.0) -> Find:
    moment = time.time_ns() - int(age_s * 1e9)
    return Find(moment, "pool p", f"job {number}\x1b[2J", Pow.POSEIDON2, HEADER, Solution(number, MAX // 1234))


def test_history_is_bounded_in_age_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_FINDS", 10)
    assert entries(tmp_path) == []
    # Its age is the time that the miner ran since. What the clock of the machine says is only shown.
    with opened(tmp_path, days=2, clock=(clock := Clock())) as (store, _):
        store.put(running("a"), find(1)).result(WAIT_S)
        clock.now += 86_400
        store.put(running("a"), find(2, age_s=-(10**9))).result(WAIT_S)
    with opened(tmp_path, days=2) as (store, _):
        store.put(running("a"), find(3, age_s=10**9)).result(WAIT_S)
    assert [entry["nonce"] for entry in entries(tmp_path)] == ["1", "2", "3"]
    with opened(tmp_path, days=2, clock=(clock := Clock())) as (store, _):
        clock.now += 86_401
        store.put(running("a")).result(WAIT_S)
    with opened(tmp_path, days=2) as (store, _):
        store.put(running("a")).result(WAIT_S)
    assert [entry["nonce"] for entry in entries(tmp_path)] == ["2", "3"]
    with opened(tmp_path, days=2) as (store, _):
        for number in range(100, 120):
            store.found(find(number))
        store.judged("pool p", 119, "stale")
        store.judged("another", 118, "stale")
    assert [(entry["nonce"], entry["verdict"]) for entry in entries(tmp_path, "--last", "2")] == [
        ("76", None),
        ("77", "stale"),
    ]
    with opened(tmp_path, days=2) as (store, _):
        store.put(running("a")).result(WAIT_S)
    assert len(entries(tmp_path)) == 10


def test_history_is_a_table_that_cannot_harm_the_terminal(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        store.found(find(0xABC))
        store.put(running("a")).result(WAIT_S)
        # Beside the one who writes.
        shown = CliRunner().invoke(cli, ["history", "--state-dir", str(tmp_path)], catch_exceptions=False).output
    head, line = shown.splitlines()
    assert head.split() == ["time", "source", "job", "nonce", "difficulty", "verdict"]
    assert line.split()[1:] == ["pool", "p", "job", "2748\\x1b[2J", "abc", "1,234", "-"]


def test_what_a_live_source_sends_is_history_with_its_verdict(tmp_path: Path) -> None:
    async def scenario(store: Store) -> Solution:
        link = ScriptedLink("pool p")
        miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05)
        miner.start()
        task = asyncio.create_task(LiveSource(MinerSearcher(miner), [link], priority=1, publish=store.on_event).run())
        listener = await link.connected()
        link.give(listener, live_job("j"))
        _, solution, _ = await link.solution()
        listener.on_verdict(Verdict(False, True, "Stale share", 0.1, solution.nonce, 200))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert miner.close(WAIT_S)
        return solution

    with opened(tmp_path) as (store, _):
        solution = asyncio.run(scenario(store))
    (entry,) = [entry for entry in entries(tmp_path) if entry["nonce"] == f"{solution.nonce:x}"]
    assert (entry["source"], entry["job_id"], entry["verdict"]) == ("pool p", "j", "stale")
    assert entry["header"] == HEADER.hex()
    assert int(entry["difficulty"] or 0) >= 200


def test_history_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / database.FILE).write_bytes(b"no database at all" * 100)
    done = CliRunner().invoke(cli, ["history", "--state-dir", str(tmp_path)])
    assert "cannot read" in str(done.exception)
    assert "not a database" in str(done.exception)


@pytest.mark.parametrize(
    "change",
    ["difficulty = 'much'", "job_id = x'ff'", "source = CAST(x'ff' AS TEXT)"],
)
def test_history_with_a_damaged_line_is_one_line(tmp_path: Path, change: str) -> None:
    with opened(tmp_path) as (store, _):
        store.put(running("a"), find(1)).result(WAIT_S)
    connection = sqlite3.connect(tmp_path / database.FILE)
    connection.execute(f"UPDATE finds SET {change}")  # noqa: S608 - ours
    connection.commit()
    connection.close()
    done = CliRunner().invoke(cli, ["history", "--state-dir", str(tmp_path)])
    assert isinstance(done.exception, MinerError)
    assert "cannot read" in str(done.exception)


def test_a_solution_and_its_line_of_history_come_together_or_not_at_all(tmp_path: Path) -> None:
    seen = set()
    with opened(tmp_path / "real") as (store, _):
        wal = tmp_path / "real" / "jobs.db-wal"
        store.put(running("a")).result(WAIT_S)
        before = wal.read_bytes()
        store.put(ended("a"), find(5)).result(WAIT_S)
        after = wal.read_bytes()
        changed = [at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        for cut in (*range(changed[0], changed[-1], 701), len(after)):
            crashed = tmp_path / str(cut)
            crashed.mkdir()
            shutil.copy(tmp_path / "real" / "jobs.db", crashed)
            (crashed / "jobs.db-wal").write_bytes(after[:cut] + before[cut:])
            connection = sqlite3.connect(crashed / "jobs.db")
            (status,) = connection.execute("SELECT status FROM jobs").fetchone()
            (finds,) = connection.execute("SELECT count(*) FROM finds").fetchone()
            connection.close()
            seen.add((status, finds))
    assert seen == {("running", 0), ("completed", 1)}
