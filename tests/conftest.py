"""What several test files share."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import hypothesis
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantus_miner import logs
from quantus_miner.backends.autotune import fastest_kernels
from quantus_miner.backoff import Backoff
from quantus_miner.logs import journal
from quantus_miner.parts import supervisor

from .opencl import MISSING, choose_vendors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# The same examples in every run; a longer hunt: --hypothesis-profile=default
hypothesis.settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # a slow machine is no failure
)
hypothesis.settings.load_profile("deterministic")

WAIT_S = 60.0
"""Seconds after which a test gives up: many, for a loaded machine."""
VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    """The golden vectors in ``vectors/NAME.json``."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what was captured of hostile texts: a report travels between processes as UTF-8."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What processes under test remember goes into a folder of this run."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["POCL_CACHE_DIR"] = str(tmp_path_factory.mktemp("pocl"))
    fastest_kernels(Path(os.environ["XDG_STATE_HOME"]) / "quantus-miner" / "kernels.json")


@pytest.fixture(scope="session", autouse=True)
def _opencl_works(_no_state_of_the_user: None) -> bool:
    """Whether a kernel can be built for the CPU. For every session: what imports pyopencl first settles the choice."""
    return choose_vendors()


@pytest.fixture(scope="session")
def opencl_on_cpu(_opencl_works: bool) -> None:
    """Skips what needs OpenCL on the CPU, and says what to install."""
    if not _opencl_works:
        pytest.skip(MISSING)


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A log that the test may configure, with no journal, and everything as before at its end."""
    for name in ("JOURNAL_STREAM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(journal, "SOCKET", "/nowhere/journal")
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if isinstance(handler, logs.Handler):
            handler.close()
    logging.captureWarnings(capture=False)
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes datagrams and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield udp.getsockname()[1]


@pytest.fixture
def dead_port() -> int:
    """A port where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
    return port


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a service that have failed are started again at once."""
    monkeypatch.setattr(supervisor, "TICK_S", 0.0)
    monkeypatch.setattr(Backoff, "wait_s", lambda *_: 0.0)


class MinerProcess:
    """A real ``quantus-miner serve`` on free ports, with its log as it comes.

    Unless told otherwise it has a state folder of its own, so that no job of another test goes on in it.
    """

    files: int | None = None
    """Its limit of open files; None: ours."""
    program: tuple[str, ...] = ("-m", "quantus_miner")

    def __init__(self, *args: str, **environ: str) -> None:
        state = tempfile.mkdtemp(dir=os.environ["XDG_STATE_HOME"])
        kernels = Path(os.environ["XDG_STATE_HOME"]) / "quantus-miner" / "kernels.json"
        if kernels.exists():
            shutil.copy(kernels, state)  # measuring them takes time
        environ = {"MINER_STATE_DIR": state} | environ
        self.process = subprocess.Popen(
            [sys.executable, *self.program, *args],
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("MINER_")} | environ,
            preexec_fn=self._limit,
        )
        self.log: list[str] = []
        self._ended = False
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _limit(self) -> None:
        """In the new process, before the program starts."""
        if self.files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grown:
                self.log.append(line.rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def wait_for_line(self, text: str) -> str:
        """The first log line with ``text`` in it."""
        with self._grown:
            self._grown.wait_for(lambda: self._ended or any(text in line for line in self.log), timeout=WAIT_S)
            lines = [line for line in self.log if text in line]
        assert lines, self.log
        return lines[0]

    def _port(self, text: str) -> int:
        return int(self.wait_for_line(text).rsplit(":", 1)[1])

    @property
    def port(self) -> int:
        return self._port("Server starting on ")

    @property
    def metrics_port(self) -> int:
        return self._port("Starting metrics endpoint on ")

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status code and decoded JSON of one request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)) as connection:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            assert response.headers["content-type"] == "application/json"
            return response.status, json.loads(response.read())

    def result(self, job_id: str) -> dict[str, Any]:
        """Polls without a pause until the job has ended."""
        while True:
            _, result = self.call("GET", f"/result/{job_id}")
            if result["status"] != "running":
                assert isinstance(result, dict)
                return result

    def scrape(self) -> str:
        """The exporter's reply."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=WAIT_S)
        ) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples of a scrape by name and labels."""
        families = text_string_to_metric_families(self.scrape())
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        if self.process.stderr is not None:
            self.process.stderr.close()


def with_file_limit(files: int, *args: str) -> MinerProcess:
    """A miner that may open ``files`` files at once."""

    class Limited(MinerProcess):
        pass

    Limited.files = files
    return Limited(*args)


@pytest.fixture(scope="session")
def miner() -> Iterator[MinerProcess]:
    """A running miner for tests that leave nothing behind."""
    with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1", "--log", "debug") as process:
        assert process.port
        yield process
        assert process.stop() == 0
