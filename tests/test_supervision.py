"""The service when something in it fails: it goes on if it can, else it ends in order and with one clear line."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest

from quantus_miner import service
from quantus_miner.model import MAX

from .broken import WAIT_S, Broken, job
from .conftest import MinerProcess
from .test_heartbeat import Manager

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.parts.part import Part

# --- something raises ---


@pytest.mark.parametrize(
    ("patch", "line"),
    [
        ("from quantus_miner.mining.miner import Miner; Miner.tick = boom", "The miner's tick has failed"),
        ("from quantus_miner.jobs import Jobs; Jobs.tick = boom", "The job list's tick has failed"),
        (
            "from quantus_miner.heartbeat import Heartbeat; Heartbeat.on_snapshot = boom",
            "The heartbeat has failed to handle a snapshot",
        ),
        ("from quantus_miner.monitor import Monitor; Monitor.tick = boom", "The monitor's tick has failed"),
        (
            "from quantus_miner.store.writer import Store; Store.ok = property(boom)",
            "The monitor cannot read the store",
        ),
        ("from quantus_miner import logs; logs.tick = boom", "The log's tick has failed"),
        ("from quantus_miner.sources.live import LiveSource; LiveSource.run = boom", "The live source has failed"),
        ("from quantus_miner.sources.node import NodeLink; NodeLink.run = boom", "has failed"),
        ("from quantus_miner.web.job_api import JobApi; JobApi._health = boom", None),
        ("from quantus_miner.web import metrics; metrics.MinerCollector._miner_values = boom", None),
    ],
)
def test_a_part_that_raises_is_logged_in_one_line_and_the_rest_goes_on(patch: str, line: str | None) -> None:
    node = ("--node-addr=127.0.0.1:9", "--auth-token=x", f"--tls-cert-sha256={'ab' * 32}", "--metrics-port=0")
    with Broken(patch, *node) as miner:
        assert miner.port
        if line is None:
            miner.call("GET", "/health")
            miner.metrics()
        else:
            assert "boom" in miner.wait_for_line(line)
        solvable = job()
        assert miner.call("POST", "/mine", solvable)[0] == 200
        assert miner.result(solvable["job_id"])["status"] == "completed"
        assert miner.stop() == 0
    assert "Stopped: " in miner.log[-1]
    assert not [text for text in miner.log if "Traceback" in text or text.startswith(" ")]


def test_at_debug_a_part_that_raises_has_its_traceback() -> None:
    with Broken("from quantus_miner import logs; logs.tick = boom", "--log=debug") as miner:
        miner.wait_for_line("    Traceback")
        assert miner.stop() == 0


def test_a_thread_that_is_left_in_a_driver_does_not_abort_the_end() -> None:
    """As one that builds a kernel for a card: the end of Python, or of the driver's own library, would."""
    patch = """
import ctypes, threading
from quantus_miner.mining.miner import Miner
libc = ctypes.CDLL(None)
libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)
start = Miner.start
def left(self):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    start(self)
Miner.start = left
"""
    with Broken(patch) as miner:
        miner.works()
        assert miner.stop() == 0
    assert "Stopped: " in miner.log[-1]


def test_what_python_itself_would_print_goes_to_the_log() -> None:
    """It would wait for whoever reads stderr, in the middle of anything."""
    patch = """
import threading
from quantus_miner import logs
class Unraisable:
    __del__ = boom
def tick():
    threading.Thread(target=boom, name="lost").start()
    Unraisable()
logs.tick = tick
"""
    with Broken(patch) as miner:
        miner.wait_for_line("Thread lost has failed: RuntimeError: boom (<string>:2)")
        miner.wait_for_line("Ignored an exception that cannot be caught: RuntimeError: boom (<string>:2)")
        assert miner.stop() == 0
    assert not [text for text in miner.log if "Traceback" in text or text.startswith(" ")]


def test_without_its_exporter_the_service_goes_on() -> None:
    patch = """
from quantus_miner.web.server import Server
startup, servers = Server.startup, []
async def start(self, sockets=None):
    servers.append(self)
    if len(servers) == 1:
        boom()
    await startup(self, sockets)
Server.startup = start
"""
    with Broken(patch, "--metrics-port=0") as miner:
        miner.wait_for_line("The metrics exporter has failed to start: RuntimeError: boom")
        miner.works()
        assert miner.stop() == 0


ON_FILE = """
import logging
import os
from quantus_miner.web.server import Server
on_tick = Server.on_tick
async def tick(self, counter):
    if os.path.exists(os.environ["TRIGGER"]):
        {fault}
    return await on_tick(self, counter)
Server.on_tick = tick
"""


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("boom()", "quantus-miner: The job API has failed: RuntimeError: boom (<string>:2)"),
        ("return True", "quantus-miner: The job API has ended"),
    ],
)
def test_without_its_api_the_service_ends_in_order(tmp_path: Path, fault: str, line: str) -> None:
    trigger, state = tmp_path / "trigger", tmp_path / "state"
    manager = Manager(str(tmp_path / "notify"))
    environ = manager.environ(TRIGGER=str(trigger), MINER_STATE_DIR=str(state))
    with contextlib.closing(manager.socket):
        with Broken(ON_FILE.format(fault=fault), **environ) as miner:
            endless = job(str(MAX))
            assert miner.call("POST", "/mine", endless)[0] == 200
            while miner.call("GET", f"/result/{endless['job_id']}")[1]["hash_count"] == 0:
                pass
            trigger.touch()
            assert miner.process.wait(WAIT_S) == 1
            miner._reader.join(WAIT_S)
        hashes = int(miner.log[-2].partition("Stopped: ")[2].split()[0])
        assert miner.log[-1] == line
        assert not [text for text in miner.log if "Traceback" in text or text.startswith(" ")]
        assert manager.waiting()[-1]["STOPPING"] == "1"
    with MinerProcess("--port=0", MINER_STATE_DIR=str(state)) as next_run:
        next_run.wait_for_line("Jobs restored from the last run: 1, still running: 1")
        # All of it: what was done in the last second too.
        assert next_run.call("GET", f"/result/{endless['job_id']}")[1]["hash_count"] >= hashes > 0
        assert next_run.stop() == 0


@pytest.mark.parametrize(
    "patch",
    [
        "from quantus_miner.jobs import Jobs; Jobs.save = boom",
        "from quantus_miner.heartbeat import Heartbeat; Heartbeat.stopping = boom",
        "from quantus_miner.store.writer import Store; Store.close = boom",
        "from quantus_miner.mining.miner import Miner; Miner.close = boom",
    ],
)
def test_a_step_of_the_end_that_raises_does_not_stop_the_others(patch: str) -> None:
    with Broken(patch) as miner:
        miner.works()
        assert miner.stop() == 0
    assert "has failed: RuntimeError: boom" in miner.log[-2]
    assert "Stopped: " in miner.log[-1]


VITAL = [part for part in service.PARTS if part.vital]
ASYNC_BOOM = """
from quantus_miner import logs, service
logs.MAX_ALIKE.clear()
async def async_boom(*_):
    boom()
for part in service.PARTS:
    if {which}:
        part.{phase} = async_boom
"""


@pytest.mark.parametrize("phase", ["start", "run"])
def test_the_service_goes_on_without_all_parts_that_are_not_vital(phase: str) -> None:
    with Broken(ASYNC_BOOM.format(which="not part.vital", phase=phase), "--metrics-port=0") as miner:
        for part in service.PARTS:
            if not part.vital:
                miner.wait_for_line(f"{part.name} has failed; next try in ")
        miner.works()
        assert miner.stop() == 0
    assert "Stopped: " in miner.log[-1]
    assert not [text for text in miner.log if "Traceback" in text or text.startswith(" ")]


@pytest.mark.parametrize("part", VITAL, ids=lambda part: part.__name__)
@pytest.mark.parametrize("phase", ["start", "run"])
def test_a_vital_part_that_fails_ends_the_service_in_order(phase: str, part: type[Part]) -> None:
    with Broken(ASYNC_BOOM.format(which=f"part.__name__ == '{part.__name__}'", phase=phase)) as miner:
        assert miner.process.wait(WAIT_S) == 1
        miner._reader.join(WAIT_S)
    assert "Stopped: " in miner.log[-2]
    what = "internal error, please report it" if phase == "start" else f"{part.name} has failed"
    assert miner.log[-1] == f"quantus-miner: {what}: RuntimeError: boom (<string>:2)"
    assert not [text for text in miner.log if "Traceback" in text or text.startswith(" ")]


def test_every_step_of_the_end_may_raise() -> None:
    with Broken(ASYNC_BOOM.format(which="True", phase="stop")) as miner:
        miner.works()
        assert miner.stop() == 0
    for part in service.PARTS:
        miner.wait_for_line(f"Stopping {part.name[0].lower()}{part.name[1:]} has failed: RuntimeError: boom")
    assert "Stopped: " in miner.log[-1]


def test_every_part_may_raise_when_settings_change(tmp_path: Path) -> None:
    config = tmp_path / "miner.toml"
    config.write_text("")
    changed = {
        "log": "'debug'",
        "history_days": "1",
        "priority": "'http'",
        "progress_chunk_ms": "9",
        "api_token": "'x'",
        "schedule": "'00:00-24:00'",
        "allowed_hosts": "'rig1.lan'",
    }
    with Broken(ASYNC_BOOM.format(which="True", phase="apply"), f"--config={config}") as miner:
        assert miner.port
        config.write_text("".join(f"{name} = {value}\n" for name, value in changed.items()))
        miner.process.send_signal(signal.SIGHUP)
        concerned = [part for part in service.PARTS if part.settings & changed.keys()]
        assert len(concerned) >= 8
        for part in concerned:
            miner.wait_for_line(f"{part.name} has failed to apply ")
        config.write_text("")
        miner.works()
        assert miner.stop() == 0


def test_an_error_at_the_start_is_one_line() -> None:
    with Broken("from quantus_miner.jobs import Jobs; Jobs.restore = boom") as miner:
        assert miner.process.wait(WAIT_S) == 1
        miner._reader.join(WAIT_S)
    assert "Stopped: " in miner.log[-2]
    assert miner.log[-1] == "quantus-miner: internal error, please report it: RuntimeError: boom (<string>:2)"
    assert "Traceback" not in "\n".join(miner.log)
