"""The service as a process: the system's limits, and signals."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from .broken import WAIT_S, Broken
from .conftest import MinerProcess


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
