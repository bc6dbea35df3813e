"""The service killed and started again: real processes, real disk, no job and no solution lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import resource
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from quantus_miner.model import MAX

from .conftest import MinerProcess
from .test_store import entries

if TYPE_CHECKING:
    from pathlib import Path

HEADER = bytes(range(32)).hex()


def job(job_id: str, difficulty: int = MAX, **fields: str) -> dict[str, str]:
    return {"job_id": job_id, "mining_hash": HEADER, "difficulty": str(difficulty), **fields}


def start(folder: Path, *args: str) -> MinerProcess:
    return MinerProcess("--port=0", "--metrics-port=0", "--workers=1", f"--state-dir={folder}", *args)


def span(size: int) -> dict[str, str]:
    return {"nonce_start": f"{1:0128x}", "nonce_end": f"{size:0128x}"}


def test_after_a_kill_results_are_served_and_jobs_go_on(tmp_path: Path) -> None:
    size = 2_000_000
    with start(tmp_path, "--progress-chunk-ms=50") as miner:
        for fields in (job("solved", 1000), job("cancelled"), job("long", MAX, **span(size))):
            assert miner.call("POST", "/mine", fields)[0] == 200
        solved = miner.result("solved")
        miner.call("POST", "/cancel/cancelled")
        cancelled = miner.result("cancelled")
        while (progress := miner.call("GET", "/result/long")[1])["elapsed_time"] < 1.2:
            assert progress["status"] == "running", "too fast a machine for this range"
        miner.stop(signal.SIGKILL)
    assert solved["status"] == "completed"
    with start(tmp_path, "--progress-chunk-ms=50") as miner:
        assert miner.wait_for_line("Jobs restored from the last run: 3, still running: 1")
        assert miner.result("solved") == solved
        assert miner.result("cancelled") == cancelled
        for job_id in ("solved", "cancelled", "long"):
            assert miner.call("POST", "/mine", job(job_id))[0] == 409
        assert miner.call("GET", "/result/long")[1]["hash_count"] > 0
        miner.wait_for_line("Job long failed")  # polls without a pause would take its time
        # All of the range, and what was done before is not done again.
        long = miner.result("long")
        assert (long["status"], long["hash_count"]) == ("failed", size)
        assert miner.metrics()["miner_hashes_total", frozenset()] < size
        assert miner.metrics()["miner_store_ok", frozenset()] == 1
    (found,) = entries(tmp_path)
    assert (found["source"], found["job_id"], found["nonce"]) == ("http", "solved", solved["nonce"])


CLOCK = """
import os, time
ahead = float(os.environ["CLOCK_AHEAD_S"])
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + ahead
time.time_ns = lambda: real_ns() + int(ahead * 10**9)
"""
DAY_S = 86_400


def test_a_clock_that_is_wrong_at_some_starts_costs_no_solution_and_no_history(tmp_path: Path) -> None:
    """A board whose clock begins years ago until it is set, and one that was once set wrong."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    solved: dict[str, str] = {}
    for run, days in enumerate((-2200, 0, 40, 0, -2200)):
        arguments = ("--port=0", "--workers=1", f"--state-dir={tmp_path / 'state'}", "--history-days=1")
        with MinerProcess(*arguments, PYTHONPATH=path, CLOCK_AHEAD_S=str(days * DAY_S)) as miner:
            # Found in the run before, not read since.
            for job_id, nonce in solved.items():
                assert miner.result(job_id)["work"] == nonce
            assert miner.call("POST", "/mine", job(f"{run}", 100))[0] == 200
            line = miner.wait_for_line(f"Job {run} completed: nonce ")
            solved = {f"{run}": f"{int(line.partition('nonce ')[2].partition(',')[0], 16):0128x}"}
            assert miner.stop(signal.SIGKILL if run % 2 else signal.SIGTERM) in (0, -signal.SIGKILL)
    found = entries(tmp_path / "state")
    assert [entry["job_id"] for entry in found] == ["0", "1", "2", "3", "4"]
    # What is shown is what the clock said.
    years = [str(entry["time"])[:4] for entry in found]
    assert years[0] == years[4] < years[1]


def test_sigterm_keeps_every_hash(tmp_path: Path) -> None:
    with start(tmp_path, "--progress-chunk-ms=60000") as miner:
        miner.call("POST", "/mine", job("a"))
        while (before := miner.call("GET", "/result/a")[1]["hash_count"]) < 50_000:
            pass
        began = time.monotonic()
        assert miner.stop() == 0
        assert time.monotonic() - began < 1
    with start(tmp_path) as miner:
        assert miner.call("GET", "/result/a")[1]["hash_count"] >= before
        # And again, after a run in which nothing was asked.
        assert miner.stop() == 0


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Whatever the miner said it holds: an accepted job is known, a result that was served stays as it was."""
    rng = random.Random(5)
    accepted: set[str] = set()
    served: dict[str, dict[str, Any]] = {}
    cancelled: set[str] = set()

    def load(miner: MinerProcess, stopped: threading.Event) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError, AssertionError):
            while not stopped.is_set():
                job_id = str(uuid.uuid4())
                if miner.call("POST", "/mine", job(job_id, 500))[0] == 200:
                    accepted.add(job_id)
                if len(accepted) % 5 == 0:
                    miner.call("POST", f"/cancel/{job_id}")
                    cancelled.add(job_id)
                for known in list(accepted - served.keys())[-5:]:
                    status, result = miner.call("GET", f"/result/{known}")
                    if status == 200 and result["status"] in ("completed", "cancelled"):
                        served[known] = result

    for _ in range(4):
        with start(tmp_path) as miner:
            assert miner.port
            stopped = threading.Event()
            client = threading.Thread(target=load, args=(miner, stopped))
            client.start()
            goal = len(served) + rng.randrange(3, 12)
            while len(served) < goal:
                assert client.is_alive(), miner.log
            miner.stop(signal.SIGKILL)
            stopped.set()
            client.join(20)
    with start(tmp_path) as miner:
        assert len(accepted) > 12
        for job_id in accepted:
            result = miner.result(job_id)
            assert result["job_id"] == job_id
            assert result["status"] == ("cancelled" if result["nonce"] is None else "completed")
            assert served.get(job_id, result) == result
            assert result["status"] == "completed" or job_id in cancelled


def test_a_full_disk_does_not_stop_the_mining(tmp_path: Path) -> None:
    with start(tmp_path) as miner:
        assert miner.call("POST", "/mine", job("before", 100))[0] == 200
        before = miner.result("before")
        pid = miner.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        try:
            assert miner.call("POST", "/mine", job("during", 100))[0] == 200
            during = miner.result("during")
            assert during["status"] == "completed"
            assert miner.metrics()["miner_store_ok", frozenset()] == 0
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        miner.wait_for_line("can be written again")
        assert miner.metrics()["miner_store_ok", frozenset()] == 1
        miner.stop(signal.SIGKILL)
        told = [line for line in miner.log if "miner.store" in line]
        assert len(told) == 2
    with start(tmp_path) as miner:
        assert miner.result("before") == before
        assert miner.result("during") == during


def test_a_folder_that_is_taken_away_costs_no_job(tmp_path: Path) -> None:
    """As one that is unmounted: the miner had gone on writing to files that nobody would find again."""
    folder = tmp_path / "state"
    with start(folder) as miner:
        assert miner.call("POST", "/mine", job("before", 100))[0] == 200
        before = miner.result("before")
        assert miner.call("POST", "/mine", job("long"))[0] == 200
        folder.rename(tmp_path / "away")
        miner.wait_for_line(f"{folder / 'jobs.db'} was removed or replaced")
        assert miner.call("POST", "/mine", job("during", 100))[0] == 200
        during = miner.result("during")
        assert miner.metrics()["miner_store_ok", frozenset()] == 1
        miner.stop(signal.SIGKILL)
    with start(folder) as miner:
        assert miner.result("before") == before
        assert miner.result("during") == during
        assert miner.call("GET", "/result/long")[1]["status"] == "running"


def test_a_second_miner_on_one_folder_runs_without_it(tmp_path: Path) -> None:
    with start(tmp_path) as first, start(tmp_path) as second:
        assert first.port
        # Whichever came first has it.
        assert second.port
        first.call("POST", "/mine", job("a", 10))
        second.call("POST", "/mine", job("a", 10))
        assert first.result("a")["status"] == second.result("a")["status"] == "completed"
        assert {miner.metrics()["miner_store_ok", frozenset()] for miner in (first, second)} == {0, 1}
        assert len([line for line in [*first.log, *second.log] if "Another miner uses" in line]) == 1
