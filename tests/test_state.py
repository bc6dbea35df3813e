"""Faults of the state folder: files removed under the miner, odd file systems, what stands in the place of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantus_miner.backends import autotune
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.gpu import binaries
from quantus_miner.host import files
from quantus_miner.settings import load
from quantus_miner.store import database, history

from .test_service import run_cli
from .test_store import WAIT_S, Lines, crash, entries, find, full_disk, lines, opened, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantus_miner.store.writer import Store

__all__ = ["lines"]  # the fixture

NOBODY = 54321
"""A user without a passwd entry, without rights."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def in_memory(store: Store) -> None:
    """Jobs and a find, committed."""
    store.put(running("a", 3), find(1)).result(WAIT_S)
    store.put(running("b", 5)).result(WAIT_S)


def remove_all(folder: Path) -> None:
    for path in folder.glob("jobs.db*"):
        path.unlink()


def replace_by_another(folder: Path) -> None:
    """As a backup that is put back."""
    with opened(other := folder.with_name("other")) as (store, _):
        store.put(running("of the backup")).result(WAIT_S)
    (other / database.FILE).replace(folder / database.FILE)


def overwrite(folder: Path) -> None:
    """As cp does with a backup, or a disk with rubbish: it stays the same file."""
    with opened(other := folder.with_name("other")) as (store, _):
        store.put(running("of the backup")).result(WAIT_S)
    (folder / database.FILE).write_bytes((other / database.FILE).read_bytes())


# --- removed or replaced ---


@pytest.mark.parametrize(
    "remove",
    [
        remove_all,
        lambda folder: (folder / "jobs.db").unlink(),
        lambda folder: (folder / "jobs.db-wal").unlink(),
        lambda folder: (folder / "jobs.db-shm").unlink(),
        shutil.rmtree,
        lambda folder: folder.rename(folder.with_name("elsewhere")),
        replace_by_another,
        overwrite,
        lambda folder: os.truncate(folder / "jobs.db", 0),
        lambda folder: (folder / "jobs.db").write_bytes(b"\xa5" * 20_000),
    ],
    ids=["all", "database", "log", "map", "folder", "folder renamed", "another", "copied over", "truncated", "rubbish"],
)
def test_what_is_removed_is_written_again_without_being_asked(
    tmp_path: Path, lines: Lines, remove: Callable[[Path], object]
) -> None:
    with opened(folder := tmp_path / "state") as (store, _):
        in_memory(store)
        remove(folder)
        line = lines.wait_for("was removed or replaced while the miner ran")
        assert line.startswith(str(folder / database.FILE))
        # Behind what is written again.
        store.put(running("c")).result(WAIT_S)
        assert store.ok
        crash(folder, tmp_path / "crashed")
    for found in (folder, tmp_path / "crashed"):
        with opened(found) as (_, jobs):
            kept = {stored.job.id: stored for stored in jobs}
            kept.pop("of the backup", None)
            assert kept == {"a": running("a", 3), "b": running("b", 5), "c": running("c")}


def test_a_store_without_jobs_makes_its_file_again(tmp_path: Path, lines: Lines) -> None:
    with opened(folder := tmp_path / "state") as (store, _):
        shutil.rmtree(folder)
        lines.wait_for("was removed or replaced")
        store.close(WAIT_S)
        assert store.ok
    assert entries(folder) == []
    assert (folder / database.FILE).stat().st_size > 0


def test_a_folder_that_is_gone_and_cannot_be_made_is_told_until_it_is_back(tmp_path: Path, lines: Lines) -> None:
    """As a disk that is unmounted and mounted again."""
    folder, away = tmp_path / "state", tmp_path / "away"
    with opened(folder) as (store, _):
        in_memory(store)
        folder.rename(away)
        folder.write_text("in the way")
        assert "File exists; jobs are kept in memory only" in lines.wait_for("Cannot write")
        assert not store.ok
        assert store.put(running("c")).done()
        folder.unlink()
        away.rename(folder)
        lines.wait_for("can be written again")
        assert store.ok
    with opened(folder) as (_, jobs):
        assert {stored.job.id for stored in jobs} == {"a", "b", "c"}
    assert [entry["nonce"] for entry in entries(folder)] == ["1"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.mkdir(), "it is a folder; it must be a regular file"),
        (os.mkfifo, "it is a pipe, as <(...) of a shell makes it; it must be a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device; it must be a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["folder", "fifo", "device", "loop"],
)
def test_what_stands_in_the_place_of_the_database_is_told(
    tmp_path: Path, lines: Lines, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(path := tmp_path / database.FILE)
    with opened(tmp_path) as (store, jobs):
        assert (jobs, store.ok) == ([], False)
        assert store.put(running("a")).done()
        assert lines.wait_for("Cannot write") == (
            f"Cannot write {path}: {says}; jobs are kept in memory only until it can be written"
        )
        path.rename(tmp_path / "away")
        lines.wait_for("can be written again")
    with opened(tmp_path) as (_, jobs):
        assert jobs == [running("a")]


# --- one owner ---

OWN = """
import sys
from pathlib import Path
from quantus_miner.store.database import Database
from quantus_miner.store.ownership import LockedError
try:
    Database(Path(sys.argv[1]), 1)
except LockedError as error:
    print(error)
"""


def other_process(code: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_second_miner_gets_in_whatever_is_removed_beside_the_database(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, _):
        in_memory(store)
        for path in tmp_path.iterdir():
            if path.name != database.FILE:
                path.unlink()
        assert other_process(OWN, tmp_path) == "another miner uses it\n"
        store.put(running("c")).result(WAIT_S)
        assert other_process(OWN, tmp_path) == "another miner uses it\n"
    assert other_process(OWN, tmp_path) == ""


def test_a_system_without_locks_of_open_files_has_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "F_OFD_SETLK", 9999)  # what the kernel does not know
    with opened(tmp_path) as (store, _):
        in_memory(store)
        with opened(tmp_path) as (second, jobs):
            assert (jobs, second.ok) == ([], False)
        assert [entry["nonce"] for entry in entries(tmp_path)] == ["1"]


def test_a_file_that_another_miner_puts_there_is_left_to_it(tmp_path: Path, lines: Lines) -> None:
    other, folder = tmp_path / "other", tmp_path / "state"
    with opened(other) as (owner, _), opened(folder) as (store, _):
        in_memory(store)
        owner.put(running("of the other")).result(WAIT_S)
        folder.rename(tmp_path / "away")
        folder.symlink_to(other)
        assert "another miner uses it; jobs are kept in memory only" in lines.wait_for("Cannot write")
        assert not store.ok
        assert owner.ok
    with opened(other) as (_, jobs):
        assert jobs == [running("of the other")]


READ_AND_WRITE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("ROLLBACK")
database.close()
"""


def test_others_who_open_the_database_do_not_take_its_log_away(tmp_path: Path) -> None:
    """SQLite's last user removes the log: that we are one is said by locks, which a careless close takes away."""
    with opened(tmp_path):
        pass
    with opened(tmp_path) as (store, _):
        in_memory(store)
        log = (tmp_path / "jobs.db-wal").stat()
        other_process(READ_AND_WRITE, tmp_path / database.FILE)
        assert len(run_cli("history", f"--state-dir={tmp_path}").stdout.splitlines()) == 2
        assert os.path.samestat((tmp_path / "jobs.db-wal").stat(), log)


# --- a file system without shared memory maps ---


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to("/proc/nowhere/at-all")


@pytest.mark.parametrize("spoil", [a_folder, a_link_to_nowhere])
@pytest.mark.parametrize("before", ["nothing", "closed", "crashed"])
def test_without_shared_memory_another_journal_is_used(
    tmp_path: Path, lines: Lines, spoil: Callable[[Path], None], before: str
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    if before != "nothing":
        with opened(made := tmp_path / "made") as (store, _):
            in_memory(store)
            if before == "crashed":
                folder.rmdir()
                crash(made, folder)
        if before == "closed":
            shutil.copy(made / database.FILE, folder)
    spoil(folder / "jobs.db-shm")
    with opened(folder) as (store, jobs):
        assert {stored.job.id for stored in jobs} == (set() if before == "nothing" else {"a", "b"})
        in_memory(store)
        assert store.ok
        lines.wait_for("has no shared memory maps: commits to jobs.db take longer")
        # Beside the one who writes, and what a loss of power leaves.
        assert [entry["nonce"] for entry in entries(folder)] == (["1"] if before == "nothing" else ["1", "1"])
        crash(folder, tmp_path / "after")
        remove_all_but_the_map(folder)
        lines.wait_for("was removed or replaced")
        store.put(running("c")).result(WAIT_S)
    with opened(tmp_path / "after") as (_, jobs):
        assert jobs == [running("a", 3), running("b", 5)]
    with opened(folder) as (_, jobs):
        assert {stored.job.id for stored in jobs} == {"a", "b", "c"}
    assert not [line for line in lines.lines if "Cannot" in line]


def remove_all_but_the_map(folder: Path) -> None:
    for path in folder.glob("jobs.db*"):
        if not path.name.endswith("-shm"):
            path.unlink()


# --- history ---


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """Files are opened as a user without rights."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def let_pass(path: Path) -> None:
    """Let any user reach ``path`` through pytest's folders."""
    for parent in path.parents:
        if Path(tempfile.gettempdir()) in parent.parents:
            parent.chmod(0o711)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with a history, its newest line still in the log."""
    with opened(tmp_path / "state") as (store, _):
        in_memory(store)
        return crash(tmp_path / "state", tmp_path / "kept")


@as_root
@pytest.mark.parametrize("name", ["kept", "jobs.db"], ids=["folder", "file"])
def test_history_without_rights_is_one_line(kept: Path, name: str) -> None:
    let_pass(kept)
    (kept if name == "kept" else kept / name).chmod(0o600)
    with somebody_else(), pytest.raises(MinerError) as error:
        history.latest(kept, 9)
    assert str(error.value) == f"cannot read {kept / 'jobs.db'}: Permission denied; run this as the user of the miner"


@as_root
@pytest.mark.parametrize("closed", [True, False])
def test_history_can_be_read_without_the_right_to_write(
    kept: Path, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a read-only disk, or a copy of others."""
    if closed:
        with opened(kept):
            pass
    let_pass(kept)
    kept.chmod(0o555)
    for path in kept.iterdir():
        path.chmod(0o444)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    with somebody_else():
        assert [entry.nonce for entry in history.latest(kept, 9)] == ["1"]
        monkeypatch.setattr(tempfile, "tempdir", str(kept / "missing"))
        with pytest.raises(MinerError, match="nor copy it to a temporary folder: No such file"):
            history.latest(kept, 9)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.mkdir(), "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.write_bytes(b"no database" * 100), "file is not a database"),
        (lambda path: path.parent.rmdir(), "is not a folder; --state-dir must name the state folder of the miner"),
        (lambda path: (path.parent.rmdir(), path.parent.touch()), "is not a folder"),
    ],
    ids=["folder", "fifo", "device", "loop", "damaged", "missing", "file for folder"],
)
def test_history_that_is_none_is_one_line(tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    (folder := tmp_path / "state").mkdir()
    spoil(folder / database.FILE)
    done = run_cli("history", f"--state-dir={folder}")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("quantus-miner: ")
    assert says in line


@pytest.mark.parametrize("size", [0, 4096])
def test_a_file_that_was_only_begun_is_an_empty_history(tmp_path: Path, size: int) -> None:
    path = tmp_path / database.FILE
    if size:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    else:
        path.touch()
    assert path.stat().st_size == size
    assert entries(tmp_path) == []
    with opened(tmp_path) as (store, jobs):
        assert jobs == []
        in_memory(store)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_history_is_shown_in_any_locale(tmp_path: Path, encoding: str) -> None:
    with opened(tmp_path) as (store, _):
        store.put(running("a"), find(2**300)).result(WAIT_S)
    with contextlib.closing(sqlite3.connect(tmp_path / database.FILE)) as connection:
        connection.execute("UPDATE finds SET job_id = ?", ("näh💎".encode(),))
        connection.commit()

    def output(*args: str) -> bytes:
        command = [sys.executable, "-m", "quantus_miner", "history", f"--state-dir={tmp_path}", *args]
        environ = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    assert len(output().decode(encoding).splitlines()) == 2
    assert json.loads(output("--json").decode("ascii"))["job_id"] == "näh💎"


def test_history_steers_no_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\x07\x7f\x9b2J\u202e\u2028"
    with opened(tmp_path) as (store, _):
        store.put(running("a"), dataclasses.replace(find(2**300), job_id=name)).result(WAIT_S)
    shown = history.lines(history.latest(tmp_path, 1)) + history.json_lines(history.latest(tmp_path, 1))
    assert [line for line in shown if not line.isprintable()] == []
    assert json.loads(shown[-1])["job_id"] == name


# --- which folder ---


def test_of_several_folders_of_the_unit_the_first_is_taken() -> None:
    settings = load({}, {"STATE_DIRECTORY": "/var/lib/quantus-miner:/var/lib/other"}, None)
    assert str(settings.state_dir) == "/var/lib/quantus-miner"
    # Only systemd separates by colons.
    assert str(load({}, {"MINER_STATE_DIR": "/a:b"}, None).state_dir) == "/a:b"
    assert str(load({"state_dir": "/a:b"}, {}, None).state_dir) == "/a:b"
    assert load({}, {"STATE_DIRECTORY": ":", "XDG_STATE_HOME": "/x"}, None).state_dir.parts[:2] == ("/", "x")


@as_root
def test_a_user_without_home_and_passwd_entry_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    os.setresuid(NOBODY, 0, 0)
    try:
        with pytest.raises(SettingError, match=r"--state-dir must be set: .*HOME is unset"):
            load({}, {}, None)
        assert load({"state_dir": "/x"}, {}, None).port
    finally:
        os.setresuid(0, 0, 0)


# --- the small files ---


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(path),
        lambda path: path.write_bytes(b"x" * 101),
    ],
    ids=["folder", "fifo", "device", "loop", "large"],
)
def test_only_a_regular_file_of_a_sensible_size_is_read(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path := tmp_path / "file.bin")
    with pytest.raises(OSError, match=r"[Ff]ile|directory|symbolic|longer"):
        files.read(path, 100)
    assert binaries.cached(tmp_path, "file", ("y",), lambda: b"z") == b"z"


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "kernels.json", "x")
    with full_disk(), pytest.raises(OSError, match="too large"):
        files.replace(tmp_path / "other", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.json"]
    assert autotune.fastest_kernels(tmp_path / "kernels.json")


SMALL = ("kernels.json", "solved-blocks", "gpu")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("spoil", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "fifo"])
def test_bench_runs_whatever_stands_in_the_place_of_a_file(
    tmp_path: Path, name: str, spoil: Callable[[Path], object]
) -> None:
    spoil(tmp_path / name)
    engine = "--engine=cpu-chain-manipulator" if name == "solved-blocks" else "--engine=cpu-fast"
    done = run_cli("bench", engine, "--workers=1", "--seconds=0.1", f"--state-dir={tmp_path}")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
