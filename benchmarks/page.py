"""What the page costs the miner: CPU time beside the workers, hash rate, memory.

    python -m benchmarks.page [--workers 1] [--seconds 10] [--rounds 8] [--clients 3]

Three states in turn, so that drift hits all: nobody looks; clients read /events as browsers on other machines do, and
/metrics and /status are asked for once a second; browsers on this machine show the page instead of those clients.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.browser import browser, is_there
from benchmarks.process import WAIT_S, BenchmarkMiner, resident_mb, wait_until
from quantus_miner.model import MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome

FILLED = "return document.querySelectorAll('#plot canvas').length && document.title.includes('H/s')"
"""True once the page shows something."""
NICE = 18
"""Field of /proc/PID/stat, counted from the one after the name as 2."""


def get(miner: BenchmarkMiner, path: str, port: int | None = None) -> bytes:
    """The body of a reply."""
    with contextlib.closing(miner.connect(port)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def status(miner: BenchmarkMiner) -> dict[str, Any]:
    """The reply of /status."""
    reply: dict[str, Any] = json.loads(get(miner, "/status"))
    return reply


def cpu_s(pid: int) -> float:
    """Seconds of CPU time of all threads that are no workers, which are those with a nice value above the service's."""
    total, base = 0, os.getpriority(os.PRIO_PROCESS, pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        if int(fields[NICE - 2]) == base:
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def scraped(miner: BenchmarkMiner) -> Iterator[None]:
    """Ask for /metrics and /status once a second."""
    stopping = threading.Event()

    def scrape() -> None:
        while not stopping.wait(1.0):
            get(miner, "/metrics", miner.metrics_port)
            get(miner, "/status")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@contextlib.contextmanager
def read(miner: BenchmarkMiner, clients: int) -> Iterator[None]:
    """Have ``clients`` clients read /events and throw away what they read."""
    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            reader = socket.create_connection(("127.0.0.1", miner.port), timeout=WAIT_S)
            reader.sendall(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b" 200 " in reader.recv(65_536)
            get(miner, "/history")
            thread = threading.Thread(target=_discard, args=(reader,), daemon=True)
            thread.start()
            stack.enter_context(reader)
            stack.callback(thread.join)
            stack.callback(reader.shutdown, socket.SHUT_RDWR)
        yield


def _discard(reader: socket.socket) -> None:
    while reader.recv(65_536):
        pass


@contextlib.contextmanager
def shown(miner: BenchmarkMiner, drivers: list[Chrome]) -> Iterator[None]:
    """Have all browsers show the page."""
    for driver in drivers:
        driver.get(f"http://127.0.0.1:{miner.port}/")
        wait_until("a browser to show the page", partial(driver.execute_script, FILLED))
    try:
        yield
    finally:
        for driver in drivers:
            driver.get("about:blank")


def measure(miner: BenchmarkMiner, seconds: float) -> tuple[float, float]:
    """Percentage of a core beside the workers, and nonces a second."""
    pid = miner.process.pid
    before, cpu, began = status(miner)["hashes"], cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    after, cpu_after, ended = status(miner)["hashes"], cpu_s(pid), time.perf_counter()
    return 100 * (cpu_after - cpu) / (ended - began), (after - before) / (ended - began)


def compare(miner: BenchmarkMiner, drivers: list[Chrome], clients: int, seconds: float, rounds: int) -> None:
    """All states in turn, and what they differ in."""
    states: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        states.setdefault("nobody looks", []).append(measure(miner, seconds))
        with scraped(miner), read(miner, clients):
            states.setdefault(f"{clients} clients and scrapes", []).append(measure(miner, seconds))
        if drivers:
            with scraped(miner), shown(miner, drivers):
                states.setdefault(f"{len(drivers)} browsers here and scrapes", []).append(measure(miner, seconds))
    alone = states["nobody looks"]
    for name, measured in states.items():
        cpu = statistics.median(cpu for cpu, _ in measured)
        more = statistics.median(one[0] - other[0] for one, other in zip(measured, alone, strict=True))
        ratios = [one[1] / other[1] for one, other in zip(measured, alone, strict=True)]
        print(f"{name:32} {cpu:5.2f} % of a core ({more:+.2f})   hash rate x {statistics.median(ratios):.4f}", end="")
        print(f"   ({', '.join(f'{ratio:.4f}' for ratio in ratios)})")


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=3, help="clients, and browsers if there is Chromium; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        miner = BenchmarkMiner(Path(folder), "--metrics-port=0", f"--workers={options.workers}")
        stack.callback(miner.kill)
        print(f"resident memory, idle            {resident_mb(miner.process.pid):6.1f} MB")
        with contextlib.closing(miner.connect()) as connection:
            job = {"job_id": "endless", "mining_hash": os.urandom(32).hex(), "difficulty": str(MAX)}
            connection.request("POST", "/mine", json.dumps(job), {"content-type": "application/json"})
            assert connection.getresponse().status == 200
        wait_until("the workers to be busy", lambda: status(miner)["state"] == "mining")
        drivers = [stack.enter_context(browser()) for _ in range(options.clients)] if is_there() else []
        compare(miner, drivers, options.clients, options.seconds, options.rounds)
        print(f"resident memory at the end       {resident_mb(miner.process.pid):6.1f} MB")


if __name__ == "__main__":
    main()
