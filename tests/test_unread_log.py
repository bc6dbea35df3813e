"""A log that nobody reads, and exit codes whatever becomes of the output."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .broken import WAIT_S, job
from .conftest import MinerProcess
from .log_lines import fill
from .test_heartbeat import Manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
