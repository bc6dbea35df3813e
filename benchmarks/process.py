"""A miner as a process of its own for the benchmarks, and waiting that gives up."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S: Final = 60.0


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Look at ``condition`` until it is true. Ends the benchmark with ``what`` after a minute."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"benchmark: waited {WAIT_S:.0f} s for {what}, and gave up")
        time.sleep(0.0005)


async def come_to(what: str, condition: Callable[[], object]) -> None:
    """``wait_until`` beside other tasks."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
    except TimeoutError:
        sys.exit(f"benchmark: waited {WAIT_S:.0f} s for {what}, and gave up")


def environment() -> dict[str, str]:
    """The environment without any settings for the miner."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MINER_", "STATE_DIRECTORY"))}


class BenchmarkProcess:
    """``quantus-miner`` with ``arguments``, and no settings from the environment.

    ``program``: what Python runs. ``prefix``: a command that runs it. ``log``: its lines so far.
    """

    program: tuple[str, ...] = ("-m", "quantus_miner")

    def __init__(self, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *self.program, *arguments], stderr=subprocess.PIPE, text=True, env=environment()
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """End it with SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def wait_for(self, pattern: str) -> str:
        """What the group of ``pattern`` matches in the first line of the log that it matches."""
        found: list[str] = []

        def look() -> bool:
            if self.process.poll() is not None:
                said = "".join(self.log[-20:])
                sys.exit(f"benchmark: the process has ended with exit code {self.process.returncode}:\n{said}")
            found[:] = [match[1] for line in self.log if (match := re.search(pattern, line))]
            return bool(found)

        wait_until(f"a log line like '{pattern}'", look)
        return found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)


class BenchmarkMiner(BenchmarkProcess):
    """``quantus-miner serve`` on free ports that keeps its state in ``state`` and takes settings from ``flags`` alone.

    ``start_s``: seconds until it was ready.
    """

    def __init__(self, state: Path, *flags: str, prefix: tuple[str, ...] = ()) -> None:
        began = time.perf_counter()
        super().__init__("--port=0", f"--state-dir={state}", *flags, prefix=prefix)
        self.port = int(self.wait_for(r"Server starting on \S+:(\d+)\n"))
        wait_until("the service to be ready", self._ready)
        self.start_s = time.perf_counter() - began

    @property
    def metrics_port(self) -> int:
        """Of the exporter, if ``--metrics-port=0`` was among the flags."""
        return int(self.wait_for(r"Starting metrics endpoint on \S+:(\d+)\n"))

    def connect(self, port: int | None = None) -> http.client.HTTPConnection:
        """A connection to the job API, or to another port."""
        return http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)

    def _ready(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()


def resident_mb(pid: int) -> float:
    """Resident memory of a process now, in megabytes of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, "it has ended"
    return int(found[1]) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, those of its ended children not included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
