"""Pausing and resuming a running miner, and its status."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from quantus_miner.cli.control import connect
from quantus_miner.client import Client, is_local
from quantus_miner.errors import MinerError
from quantus_miner.host import load
from quantus_miner.parts import pauses
from quantus_miner.schedule import parse_schedule
from quantus_miner.wire.status import Status

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = {"job_id": "a\x1b[31m", "mining_hash": "00" * 32, "difficulty": str(2**500)}


@pytest.fixture
def steered(tmp_path: Path) -> Iterator[MinerProcess]:
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}") as miner:
        assert miner.port
        yield miner


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.strip()}"}


def command(miner: MinerProcess, *args: str) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{miner.port}"
    return subprocess.run(
        [sys.executable, "-m", "quantus_miner", *args, "--url", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status(miner: MinerProcess) -> Any:
    code, reply = miner.call("GET", "/status")
    assert code == 200
    assert msgspec.convert(reply, Status)
    return reply


def test_nobody_steers_the_miner_without_its_token(steered: MinerProcess, tmp_path: Path) -> None:
    for path in ("/pause", "/resume"):
        for headers in ({}, bearer("x"), bearer("é")):
            assert steered.call("POST", path, headers=headers)[0] == 401
        token = (tmp_path / "control-token").read_text()
        foreign = bearer(token) | {"Origin": "https://page.example"}
        assert steered.call("POST", path, headers=foreign)[0] == 403
    assert status(steered)["pauses"] == []
    assert stat.S_IMODE((tmp_path / "control-token").stat().st_mode) == 0o600


def test_the_token_of_the_api_is_the_one_that_steers(tmp_path: Path) -> None:
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}", MINER_API_TOKEN="abc") as miner:  # noqa: S106
        own = (tmp_path / "control-token").read_text() if miner.port else ""
        assert miner.call("POST", "/pause", headers=bearer(own))[0] == 401
        assert miner.call("POST", "/pause", headers=bearer("abc"))[0] == 200


def test_without_a_token_anywhere_the_miner_cannot_be_steered(tmp_path: Path) -> None:
    (tmp_path / "control-token").mkdir()
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}") as miner:
        assert miner.port
        code, reply = miner.call("POST", "/pause")
        assert (code, reply["message"]) == (403, "this call needs a token; set --api-token")
        miner.wait_for_line("so /pause and /resume need --api-token")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", 'the body must be empty or JSON such as {"device": "cpu"}'),
        (b'{"devcie": "cpu"}', 'the body must be empty or JSON such as {"device": "cpu"}'),
        (b'{"device": 1}', 'the body must be empty or JSON such as {"device": "cpu"}'),
        (b"\xff", 'the body must be empty or JSON such as {"device": "cpu"}'),
        (b'{"device": "gpu\\n"}', "there is no device 'gpu\\n'; allowed: cpu"),
    ],
)
def test_what_cannot_be_paused_is_said(steered: MinerProcess, tmp_path: Path, body: bytes, message: str) -> None:
    token = (tmp_path / "control-token").read_text()
    code, reply = steered.call("POST", "/pause", body, headers=bearer(token))
    assert (code, reply["message"]) == (400, message)


def test_a_paused_miner_keeps_its_jobs_and_goes_on_with_them(steered: MinerProcess, tmp_path: Path) -> None:
    headers = bearer((tmp_path / "control-token").read_text())
    assert steered.call("POST", "/mine", JOB)[0] == 200
    while status(steered)["state"] != "mining":
        pass
    code, reply = steered.call("POST", "/pause", {"device": "cpu"}, headers=headers)
    assert (code, reply) == (200, {"status": "ok", "changed": True, "pauses": [{"device": "cpu", "reason": "user"}]})
    while status(steered)["devices"][0]["busy_workers"]:
        pass
    shown = status(steered)
    assert (shown["state"], shown["reason"], shown["active_jobs"]) == ("paused", "user", 1)
    assert shown["jobs"][0]["job_id"] == JOB["job_id"]
    assert status(steered)["hashes"] == shown["hashes"]
    assert steered.call("GET", "/health")[0] == 200
    code, reply = steered.call("POST", "/resume", headers=headers)
    assert (code, reply) == (200, {"status": "ok", "changed": True, "pauses": []})
    while status(steered)["hashes"] == shown["hashes"]:
        pass
    raw = urllib.request.urlopen(f"http://127.0.0.1:{steered.port}/status", timeout=20).read()
    assert raw.isascii()
    assert raw.decode().isprintable()


def test_the_commands_steer_the_miner_of_this_machine(steered: MinerProcess, tmp_path: Path) -> None:
    folder = f"--state-dir={tmp_path}"
    steps = [
        (("pause", folder), 0, "Paused\nPaused: all devices (user)\n"),
        (("pause", "--device=cpu", folder), 0, "Nothing to do: paused already\nPaused: all devices (user)\n"),
        (("resume", folder), 0, "Resumed\n"),
        (("resume", folder), 0, "Nothing to do: resumed already\n"),
    ]
    for args, code, output in steps:
        done = command(steered, *args)
        assert (done.returncode, done.stdout, done.stderr) == (code, output, "")
    wrong = command(steered, "pause", "--device=x", folder)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.endswith("refuses POST /pause: there is no device 'x'; allowed: cpu\n")
    stranger = command(steered, "pause", f"--state-dir={tmp_path / 'other'}")
    assert stranger.returncode == 1
    assert stranger.stderr.endswith("requires its token; give it with --api-token-file\n")
    assert steered.stop() == 0
    gone = command(steered, "pause", folder)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1
    assert "no miner answers at http://127.0.0.1:" in gone.stderr


def test_the_commands_find_the_port_and_the_folder_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    with MinerProcess("--port=0", "--workers=1", MINER_API_TOKEN_FILE=str(tmp_path / "token")) as miner:
        # It listens on loopback; the command must not try to connect to "any address".
        environ = {
            "MINER_PORT": str(miner.port),
            "MINER_BIND": str(ipaddress.IPv4Address(0)),
            "MINER_API_TOKEN_FILE": f"{tmp_path}/token",
        }
        done = subprocess.run(
            [sys.executable, "-m", "quantus_miner", "pause"],
            capture_output=True,
            text=True,
            env=os.environ | environ,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "Paused\nPaused: all devices (user)\n")
        assert json.dumps(status(miner)["pauses"]) == '[{"device": null, "reason": "user"}]'


# --- pauses that nobody asks for ---

MONDAY = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "mined"),
    [
        ("22:00-06:00", ["Mon 22:00", "Tue 05:59", "Mon 00:00", "Sun 23:59"]),
        ("08:00-08:01", ["Mon 08:00", "Sun 08:00"]),
        ("Sat-Sun 00:00-24:00", ["Sat 00:00", "Sun 23:59"]),
        ("Fri-Mon 23:00-01:00", ["Fri 23:00", "Sat 00:59", "Tue 00:59"]),
        ("Sun 23:00-01:00,Wed 12:00-13:00", ["Sun 23:30", "Mon 00:30", "Wed 12:59"]),
    ],
)
def test_a_schedule_says_when_to_mine(text: str, mined: list[str]) -> None:
    schedule = parse_schedule(text)
    week = [MONDAY + dt.timedelta(minutes=minute) for minute in range(7 * 24 * 60)]
    included = {time.strftime("%a %H:%M") for time in week if schedule.includes(time)}
    assert set(mined) <= included
    # Each span begins and ends where it says: these are the minutes at which something changes.
    edges = sum(schedule.includes(time) != schedule.includes(time - dt.timedelta(minutes=1)) for time in week)
    assert edges == {"22:00-06:00": 14, "08:00-08:01": 14, "Sat-Sun 00:00-24:00": 2}.get(text, edges)
    assert (
        len(included)
        == {
            "22:00-06:00": 7 * 480,
            "08:00-08:01": 7,
            "Sat-Sun 00:00-24:00": 2 * 1440,
            "Fri-Mon 23:00-01:00": 4 * 120,
            "Sun 23:00-01:00,Wed 12:00-13:00": 180,
        }[text]
    )


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22:00-22:00", "24:00-01:00", "10:60-11:00", "10:00-24:01", "Mo 10:00-11:00", "1:00-2:00", ","],
)
def test_times_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="times such as 22:00-06:00"):
        parse_schedule(text)


def test_the_schedule_pauses_and_a_reload_changes_it(tmp_path: Path) -> None:
    now = dt.datetime.now().astimezone()
    begins, ends = now + dt.timedelta(hours=2), now + dt.timedelta(hours=4)
    config = tmp_path / "config.toml"
    config.write_text(f'schedule = "{begins:%H:%M}-{ends:%H:%M}"')
    with MinerProcess("--port=0", "--workers=1", f"--config={config}") as miner:
        assert status(miner)["pauses"] == [{"device": None, "reason": "schedule"}]
        config.write_text("")
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Reloaded: schedule")
        assert status(miner)["pauses"] == []


def test_the_load_of_others_pauses_after_10_s_and_resumes_after_a_quiet_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    own = 100.0
    monkeypatch.setattr(time, "process_time", lambda: own)
    monkeypatch.setattr(pauses, "others_cpu_time", functools.partial(load.others_cpu_time, root=tmp_path))

    def write(others_s: float) -> None:
        ticks = int((others_s + own) * os.sysconf("SC_CLK_TCK"))
        # CPU 1 is not ours; idle, iowait, steal and guest are no work of this machine.
        text = f"cpu  9 9 9 9\ncpu0 {ticks} 0 0 7 7 0 0 7 7 7\ncpu1 999999 0 0 0 0 0 0 0 0 0\nintr 1\n"
        (tmp_path / "proc" / "stat").write_text(text)

    others = 0.0
    write(others)
    busy = pauses.Load(50, frozenset({0}), 0.0)
    seen = []
    for second in range(1, 200):
        own += 0.5  # what the miner itself uses does not count
        others += 0.9 if 20 <= second < 80 else 0.1
        write(others)
        seen.append(busy.is_busy(float(second)))
    begin, end = seen.index(True) + 1, len(seen) - seen[::-1].index(True) + 1
    assert 24 <= begin <= 30
    assert 80 <= end <= 140
    assert all(seen[begin - 1 : end - 1])


def test_a_machine_that_does_not_say_its_load_is_not_busy(tmp_path: Path) -> None:
    assert load.others_cpu_time(frozenset({0}), tmp_path) is None
    used = load.others_cpu_time(frozenset(range(8192)))
    assert used is not None
    assert used > 0


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:9833", True),
        ("http://[::1]:9833/", True),
        ("http://localhost", True),
        ("http://rig1:9833", False),
        ("http://192.0.2.1:9833", False),
        ("http://127.0.0.1.page.example", False),
        ("http://[", False),
    ],
)
def test_only_this_machine_gets_the_token_of_its_miner(url: str, local: bool, tmp_path: Path) -> None:
    (tmp_path / "control-token").write_text("abc")
    assert is_local(url) == local
    if url == "http://[":
        return
    given = {"state_dir": str(tmp_path), "api_token_file": None}
    assert connect(url, given)._headers == ({"Authorization": "Bearer abc"} if local else {})
    given["api_token_file"] = str(tmp_path / "control-token")
    assert connect(url, given)._headers == {"Authorization": "Bearer abc"}


def test_the_token_goes_only_where_something_is_steered() -> None:
    def answered(call: Callable[[], object]) -> None:
        with contextlib.suppress(MinerError):
            call()

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        client = Client(url, "abc")
        for call, has_token in ((client.status, False), (client.pause, True)):
            caller = threading.Thread(target=answered, args=(call,))
            caller.start()
            connection, _ = server.accept()
            with connection:
                assert (b"Bearer abc" in connection.recv(65_536)) == has_token
            caller.join()


def test_pausing_works_once_the_disk_does(tmp_path: Path) -> None:
    (tmp_path / "control-token").mkdir()
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}") as miner:
        assert miner.call("POST", "/pause")[0] == 403
        (tmp_path / "control-token").rmdir()
        assert miner.call("POST", "/pause")[0] == 401
        token = (tmp_path / "control-token").read_text()
        assert miner.call("POST", "/pause", headers=bearer(token))[0] == 200
