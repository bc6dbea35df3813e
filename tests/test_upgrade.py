"""State across versions: what earlier ones left is taken over, and an earlier one leaves what it does not know."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from quantus_miner.store import database, schema

from .conftest import MinerProcess
from .state.make import HEADER, arguments
from .test_store import entries

ROOT = Path(__file__).parent.parent
RECORDED = {path.name.removesuffix(".tar.xz"): path for path in sorted((ROOT / "tests" / "state").glob("*.tar.xz"))}


def test_the_state_of_each_release_is_recorded() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert released
    assert RECORDED.keys() == set(released)


@pytest.mark.parametrize("version", RECORDED)
def test_jobs_results_and_history_of_an_earlier_version_are_taken_over(version: str, tmp_path: Path) -> None:
    """It was killed with a job under way."""
    with tarfile.open(RECORDED[version]) as archive:
        archive.extractall(tmp_path, filter="data")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    state = tmp_path / "state"
    solved_blocks = int((state / "solved-blocks").read_text())
    assert solved_blocks > 0
    for _ in range(2):  # as it was left, and as we left it
        with MinerProcess(*arguments(state)) as miner:
            assert miner.wait_for_line("Jobs restored from the last run: 3, still running: 1")
            assert {job_id: miner.result(job_id) for job_id in results} == results
            first = miner.call("GET", "/result/long")[1]
            assert first["status"] == "running"
            assert first["hash_count"] > 0
            while miner.call("GET", "/result/long")[1]["hash_count"] == first["hash_count"]:
                pass
            assert miner.metrics()["miner_store_ok", frozenset()] == 1
            assert miner.stop() == 0
    assert int((state / "solved-blocks").read_text()) == solved_blocks
    (found,) = entries(state)
    assert (found["job_id"], found["nonce"]) == ("solved", results["solved"]["nonce"])


def test_an_earlier_version_says_so_once_and_mines_without_the_state_of_a_newer_one(tmp_path: Path) -> None:
    with MinerProcess(*arguments(tmp_path)) as miner:
        assert miner.call("GET", "/health")[0] == 200
        assert miner.stop() == 0
    path = tmp_path / database.FILE
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    with MinerProcess(*arguments(tmp_path)) as miner:
        job = {"job_id": "a", "mining_hash": HEADER, "difficulty": "1000"}
        assert miner.call("POST", "/mine", job)[0] == 200
        assert miner.result("a")["status"] == "completed"
        assert miner.stop() == 0
        said = [line for line in miner.log if "newer version" in line]
    assert len(said) == 1
    assert "it is left as it is, jobs are kept in memory only" in said[0]
    assert path.read_bytes() == before
