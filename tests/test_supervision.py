"""The service when something in it fails: it goes on if it can, else it ends in order and with one clear line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import service
from quantus_miner.model import MAX

from .conftest import MinerProcess
from .test_heartbeat import Manager
from .test_logs import fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantus_miner.parts.part import Part

WAIT_S = 30.0
HEADER = bytes(range(32)).hex()


def job(difficulty: str = "1000") -> dict[str, str]:
    return {"job_id": str(uuid.uuid4()), "mining_hash": HEADER, "difficulty": difficulty}


class Broken(MinerProcess):
    """The real service, with a fault built in: ``patch`` is run before it; ``boom`` raises."""

    def __init__(self, patch: str, *args: str, **environ: str) -> None:
        prologue = "def boom(*_, **__):\n    raise RuntimeError('boom')\n"
        self.program = ("-c", f"{prologue}{patch}\nfrom quantus_miner.cli import main\nmain()")
        super().__init__("--port=0", "--workers=1", *args, **environ)

    def works(self) -> None:
        assert self.call("GET", "/health")[0] == 200
        solvable = job()
        assert self.call("POST", "/mine", solvable)[0] == 200
        assert self.result(solvable["job_id"])["status"] == "completed"


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


# --- the system's limits ---


def _is_ready(miner: MinerProcess) -> bool:
    """Waits for the service to be ready, or to have ended."""
    try:
        miner.wait_for_line("Server starting on")
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("files", range(6, 20))
def test_too_few_file_descriptors_are_one_line(files: int) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    with Broken(limit) as miner:
        # How many are enough depends on the version of Python.
        if files >= 18 or (files >= 16 and _is_ready(miner)):
            assert miner.call("GET", "/health")[0] == 200
            assert miner.stop() == 0
        else:
            assert miner.process.wait(WAIT_S) in (1, 5)
            miner._reader.join(WAIT_S)
            assert "file descriptor" in miner.log[-1]
            assert miner.log[-1].startswith("quantus-miner: ")
        assert not [line for line in miner.log if "Traceback" in line or line.startswith(" ")]


THREADS = """
import resource, threading
import quantus_miner.service
# Room for so many stacks, and for all else. The next thread cannot be made.
stack = 1 << 30
threading.stack_size(stack)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
limit = now + {threads} * stack + stack // 2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


@pytest.mark.parametrize("threads", range(3))
def test_too_few_threads_are_one_line(threads: int) -> None:
    """The log has one, the store, and each worker."""
    with Broken(THREADS.format(threads=threads)) as miner:
        assert miner.process.wait(WAIT_S) == 1
        miner._reader.join(WAIT_S)
        assert miner.log[-1].startswith("quantus-miner: the system allows no more threads; raise the limit")
        assert not [line for line in miner.log if "Traceback" in line or line.startswith(" ")]


def test_as_many_threads_as_are_needed_are_enough() -> None:
    with Broken(THREADS.format(threads=3)) as miner:
        miner.works()
        assert miner.stop() == 0
        assert not [line for line in miner.log if "ERROR" in line]


# --- a log that nobody reads ---


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with contextlib.closing(manager.socket):
        yield manager


@contextlib.contextmanager
def unwritable(stderr: str) -> Iterator[tuple[list[str], Any]]:
    """A command that runs the miner, and the stderr to start it with."""
    command = [sys.executable, "-m", "quantus_miner"]
    with contextlib.ExitStack() as held:
        if stderr == "closed":
            yield ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], None
        elif stderr == "full disk":
            yield command, held.enter_context(open("/dev/full", "wb"))  # noqa: PTH123 - a device
        else:
            read, write = os.pipe()
            if stderr == "full pipe":
                fill(write)
                held.callback(os.close, read)
            else:
                os.close(read)
            yield command, held.enter_context(os.fdopen(write, "wb"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Client(MinerProcess):
    """Calls a service whose log says nothing."""

    def __init__(self, port: int) -> None:
        self._on = port

    @property
    def port(self) -> int:
        return self._on


UNWRITABLE = pytest.mark.parametrize("stderr", ["full pipe", "full disk", "closed reader", "closed"])


@UNWRITABLE
def test_a_log_that_cannot_be_written_stops_nothing(stderr: str, manager: Manager, tmp_path: Path) -> None:
    port = free_port()
    environ = manager.environ(MINER_STATE_DIR=str(tmp_path / "state"), WATCHDOG_USEC="2000000")
    with unwritable(stderr) as (command, target):
        command += [f"--port={port}", "--workers=1", "--log=debug"]
        process = subprocess.Popen(command, stderr=target, env=os.environ | environ)
        try:
            assert manager.next() == {"READY": "1"}
            client = Client(port)
            for _ in range(50):
                solvable = job("10")
                assert client.call("POST", "/mine", solvable)[0] == 200
                assert client.result(solvable["job_id"])["status"] == "completed"
            # Signs of life come all the while.
            assert [manager.next()["WATCHDOG"] for _ in range(2)] == ["1"] * 2
            process.terminate()
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            process.wait()


@UNWRITABLE
@pytest.mark.parametrize(
    ("args", "code"), [(["--port=x"], 2), (["--engine=gpu-cuda"], 5), (["nonsense"], 2), (["devices"], 0)]
)
def test_an_exit_code_is_right_whatever_becomes_of_stderr(stderr: str, args: list[str], code: int) -> None:
    with unwritable(stderr) as (command, target):
        command += args
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=target, timeout=WAIT_S, check=False)
    assert ended.returncode == code


@pytest.mark.parametrize(("reader", "code"), [("closed reader", 0), ("full disk", 1)])
def test_an_exit_code_is_right_whatever_becomes_of_stdout(reader: str, code: int) -> None:
    with unwritable(reader) as (command, target):
        ended = subprocess.run(
            [*command, "devices"], stdout=target, stderr=subprocess.PIPE, text=True, timeout=WAIT_S, check=False
        )
    assert ended.returncode == code
    assert len(ended.stderr.splitlines()) == code  # one line says why
    assert "internal error" not in ended.stderr


@pytest.mark.parametrize(("journal", "prefix"), [(True, "<3>"), (False, "")])
@pytest.mark.parametrize("args", [["--port=x"], ["--kernel=avx9"]])
def test_why_a_start_failed_has_a_priority_in_the_journal(journal: bool, prefix: str, args: list[str]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if journal else {}
        ended = subprocess.run(
            [sys.executable, "-m", "quantus_miner", *args],
            stderr=ours.fileno(),
            env=os.environ | environ,
            timeout=WAIT_S,
            check=False,
        )
        ours.close()
        with theirs.makefile() as lines:
            last = list(lines)[-1]
    assert ended.returncode == 2
    assert last.startswith(f"{prefix}quantus-miner: {args[0].partition('=')[0]}: ")


# --- signals ---


def test_signals_pause_and_resume_the_service_and_others_do_not_end_it() -> None:
    with MinerProcess("--port=0", "--workers=1") as miner:
        assert miner.port
        for number, doing, state in ((signal.SIGUSR1, "pausing", "paused"), (signal.SIGUSR2, "resuming", "idle")):
            miner.process.send_signal(number)
            miner.wait_for_line(f"Received {number.name}: {doing}")
            code, status = miner.call("GET", "/status")
            assert (code, status["state"]) == (200, state)
        miner.process.send_signal(signal.SIGPIPE)
        assert miner.call("GET", "/health")[0] == 200
        assert miner.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("line", ["Starting external miner service...", "Using engine", "Server starting on"])
def test_a_signal_before_the_service_is_ready_is_a_clean_end(line: str, number: signal.Signals) -> None:
    with MinerProcess("--port=0", "--workers=1") as miner:
        miner.wait_for_line(line)
        assert miner.stop(number) == 0
    assert f"Received {number.name}: stopping" in "\n".join(miner.log)
    assert "Traceback" not in "\n".join(miner.log)


def test_a_signal_ends_the_process_where_exceptions_are_lost() -> None:
    # Python imports modules through weak references whose callbacks ignore exceptions.
    program = """
import signal, weakref
from quantus_miner.host.signals import Signals
from quantus_miner.logs import configure
configure("info")
Signals()
one = set()
reference = weakref.ref(one, lambda _: signal.raise_signal(signal.SIGTERM))
del one
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith("INFO miner: Received SIGTERM: stopping\n")


def test_ctrl_c_while_the_program_is_imported_shows_no_traceback() -> None:
    program = """
import runpy, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "quantus_miner.cli.verify":
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background has it ignored
sys.meta_path.insert(0, Interrupting())
runpy.run_module("quantus_miner", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_more_signals_than_one_are_no_less_clean() -> None:
    with MinerProcess("--port=0", "--workers=1") as miner:
        assert miner.port
        code = None
        while code is None:  # until it is gone: none finds a moment in which it is killed
            miner.process.send_signal(signal.SIGTERM)
            code = miner.process.poll()
        assert code == 0
        miner._reader.join(WAIT_S)
    assert "Stopped: " in "\n".join(miner.log)
