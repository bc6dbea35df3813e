"""SIGHUP to a real service: what changes, what does not, and that no nonce is lost or tested twice meanwhile."""

from __future__ import annotations

import contextlib
import signal
import uuid
from typing import TYPE_CHECKING

import pytest

from quantus_miner.model import MAX

from .conftest import MinerProcess
from .test_heartbeat import Manager

if TYPE_CHECKING:
    from pathlib import Path

HEADER = bytes(range(32)).hex()


class Configured(MinerProcess):
    """A service with a config file that the test writes anew."""

    def __init__(self, folder: Path, text: str, *args: str, **environ: str) -> None:
        self.file = folder / "miner.toml"
        self.file.write_text(text)
        super().__init__(f"--config={self.file}", "--port=0", *args, **environ)
        self._reloads = 0

    def reload(self, text: str) -> list[str]:
        """Write the file, send SIGHUP, and return what the log says until the settings are applied."""
        assert self.port
        before = len(self.log)
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)
        with self._grown:
            ended = ("Reloaded", "cannot apply", "Restart the miner")
            assert self._grown.wait_for(lambda: any(word in line for line in self.log[before:] for word in ended), 60)
            return self.log[before:]

    def submit(self, **fields: str) -> str:
        job_id = str(uuid.uuid4())
        status, reply = self.call("POST", "/mine", {"job_id": job_id, "mining_hash": HEADER, **fields})
        assert status == 200, reply
        return job_id


def test_workers_come_and_go_and_every_nonce_is_tested_once(tmp_path: Path) -> None:
    with Configured(tmp_path, "workers = 1\n", "--progress-chunk-ms=20") as miner:
        # No solution: the end of the range comes when all its nonces are tested, and the count says if any was twice.
        span = 400_000
        job_id = miner.submit(difficulty=str(MAX), nonce_start=f"{1:0128x}", nonce_end=f"{span:0128x}")
        for workers in (2, 1, 2, 1, 2):
            lines = miner.reload(f"workers = {workers}\n")
            assert any(line.endswith("Reloaded: workers") for line in lines), lines
        result = miner.result(job_id)
        assert (result["status"], result["hash_count"]) == ("failed", span)
        assert miner.stop() == 0


def test_wrong_settings_change_nothing(tmp_path: Path) -> None:
    with Configured(tmp_path, "workers = 1\n") as miner:
        for bad, words in {
            "workers = 'x'\n": "--workers: 'x' (config file",
            "prot = 1\n": "has an unknown setting 'prot'",
            "= 1": "is not valid TOML",
        }.items():
            (line,) = [line for line in miner.reload(bad) if "Reloaded no settings" in line]
            assert words in line
        assert miner.call("GET", "/health")[0] == 200
        assert miner.stop() == 0


def test_flags_win_over_the_file_again(tmp_path: Path) -> None:
    with Configured(tmp_path, "", "--workers=1") as miner:
        assert "Reloaded: no setting has changed" in miner.reload("workers = 2\n")[-1]
        assert miner.stop() == 0


def test_a_token_from_a_file_is_read_again_and_never_shown(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("first\n")
    with Configured(tmp_path, f"api-token-file = '{token}'\n", "--workers=1") as miner:
        text = miner.file.read_text()

        def status(given: str) -> int:
            return miner.call("GET", "/result/x", headers={"authorization": f"Bearer {given}"})[0]

        assert (status("first"), status("second")) == (404, 401)
        token.write_text("second\n")
        assert "Reloaded: api_token" in miner.reload(text)[-1]
        assert (status("first"), status("second")) == (401, 404)
        assert miner.stop() == 0
    assert "second" not in "\n".join(miner.log)


def test_the_log_filter_and_the_host_names_apply(tmp_path: Path) -> None:
    with Configured(tmp_path, "", "--workers=1") as miner:
        assert miner.call("GET", "/health", headers={"host": "rig1.lan"})[0] == 421
        lines = miner.reload("allowed-hosts = 'rig1.lan'\nlog = 'debug'\njob-expiry-s = 5\npriority = 'http'\n")
        assert "Reloaded: allowed_hosts, job_expiry_s, priority, log" in lines[-1]
        assert miner.call("GET", "/health", headers={"host": "rig1.lan"})[0] == 200
        lines = miner.reload("log = 'warn'\nlog-format = 'json'\n")
        assert any("Restart the miner to apply: log_format" in line for line in lines), lines
        assert miner.stop() == 0
    assert "Stopped: " not in "\n".join(miner.log)  # it is at info


def test_another_engine_and_one_that_cannot_run(tmp_path: Path) -> None:
    with Configured(tmp_path, "", "--workers=1") as miner:
        solved = miner.submit(difficulty="10")
        assert miner.result(solved)["status"] == "completed"
        lines = miner.reload("engine = 'cpu-baseline'\n")
        assert any(line.endswith("Using engine: cpu-baseline") for line in lines)
        lines = miner.reload("engine = 'gpu-cuda'\nhistory-days = 3\n")
        miner.wait_for_line(
            "The miner cannot apply engine and keeps its old settings: engine 'gpu-cuda' is not available"
        )
        miner.wait_for_line("Reloaded: history_days")
        solved = miner.submit(difficulty="10")
        assert miner.result(solved)["status"] == "completed"
        assert miner.stop() == 0


def test_pools_come_and_go(tmp_path: Path) -> None:
    wallet = "wallet = 'qzmwDsC4s3WUqKFHvSoXqNkfnMWtrYMAMqYcSmqVDv5LtHoYT'\n"
    nobody = [f"stratum+tcp://127.0.0.1:{port}" for port in (9, 11)]
    with Configured(tmp_path, "", "--workers=1") as miner:
        lines = miner.reload(f"{wallet}pool = ['{nobody[0]}']\n")
        assert any("Reloaded: pool, wallet" in line for line in lines), lines
        miner.wait_for_line("127.0.0.1:9: ")
        lines = miner.reload(f"{wallet}pool = {nobody}\n")
        assert any("Reloaded: pool" in line for line in lines)
        lines = miner.reload("")
        assert any("Reloaded: pool, wallet" in line for line in lines)
        assert miner.stop() == 0


def test_a_manager_is_told(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with contextlib.closing(manager.socket), Configured(tmp_path, "", "--workers=1", **manager.environ()) as miner:
        assert miner.port
        while manager.next() != {"READY": "1"}:
            pass
        miner.reload("job-expiry-s = 7\n")
        told: list[dict[str, str]] = []
        while not told or told[-1] != {"READY": "1"}:
            told.append(manager.next())
        (reloading,) = [message for message in told if "RELOADING" in message]
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert miner.stop() == 0


@pytest.mark.parametrize("line", ["Starting external miner service...", "Using engine"])
def test_a_reload_before_the_service_is_ready_is_not_lost(tmp_path: Path, line: str) -> None:
    with Configured(tmp_path, "", "--workers=1") as miner:
        miner.wait_for_line(line)
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Reloaded: no setting has changed")
        assert miner.stop() == 0


def test_many_reloads_at_once_end_with_the_last_settings(tmp_path: Path) -> None:
    with Configured(tmp_path, "", "--workers=1") as miner:
        assert miner.port
        for days in range(1, 30):
            miner.file.write_text(f"job-expiry-s = {days}\n")
            miner.process.send_signal(signal.SIGHUP)
        miner.file.write_text("allowed-hosts = 'last.lan'\n")
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Reloaded: allowed_hosts")
        assert miner.call("GET", "/health", headers={"host": "last.lan"})[0] == 200
        assert miner.stop() == 0
