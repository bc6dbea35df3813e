"""What the page costs the miner: CPU time beside the workers, hash rate, memory.

    python -m benchmarks.page [--workers 1] [--seconds 4] [--rounds 40] [--clients 3]

Clients read /events as browsers on other machines do, and /metrics is asked for once a second; or browsers on this
machine show the page instead of those clients. Nobody looks before and after each of these, and what is measured is
compared with the mean of both, so that drift cancels out. The hash rate of a busy or virtual machine varies by far more
than the page takes; so the nonces that a worker tests per second of its own CPU time are compared as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.browser import browser, is_there
from benchmarks.process import WAIT_S, BenchmarkMiner, resident_mb, wait_until
from quantus_miner.model import MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver import Chrome

FILLED: Final = "return document.querySelectorAll('#plot canvas').length && document.title.includes('H/s')"
"""True once the page shows something."""
NICE: Final = 18
"""Field of /proc/PID/stat, counted from the one after the name as 2."""
JOB: Final = "endless"
SETTLE_S: Final = 1.0
"""Seconds between a change of state and its measurement."""


class Cost(NamedTuple):
    """CPU time beside the workers in percent of a core, nonces a second, nonces per second of the workers' CPU time."""

    others: float
    rate: float
    per_cpu_s: float


def get(miner: BenchmarkMiner, path: str, port: int | None = None) -> bytes:
    """The body of a reply."""
    with contextlib.closing(miner.connect(port)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def status(miner: BenchmarkMiner) -> dict[str, Any]:
    """The reply of /status."""
    reply: dict[str, Any] = json.loads(get(miner, "/status"))
    return reply


def cpu_s(pid: int) -> tuple[float, float]:
    """Seconds of CPU time of the workers, which have a nice value above the service's, and of all other threads."""
    workers, others, base = 0, 0, os.getpriority(os.PRIO_PROCESS, pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        spent = int((task / "schedstat").read_text().split()[0])
        if int(fields[NICE - 2]) == base:
            others += spent
        else:
            workers += spent
    return workers / 1e9, others / 1e9


@contextlib.contextmanager
def scraped(miner: BenchmarkMiner) -> Iterator[None]:
    """Ask for /metrics once a second."""
    stopping = threading.Event()

    def scrape() -> None:
        while not stopping.wait(1.0):
            get(miner, "/metrics", miner.metrics_port)

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


def measure(miner: BenchmarkMiner, seconds: float) -> Cost:
    """What some seconds cost, once what has just begun or ended is over. Polls the job, which would expire."""
    get(miner, f"/result/{JOB}")
    time.sleep(SETTLE_S)
    pid = miner.process.pid
    hashes, (workers, others), began = status(miner)["hashes"], cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    (workers_after, others_after), hashes_after, ended = cpu_s(pid), status(miner)["hashes"], time.perf_counter()
    took, tested = ended - began, hashes_after - hashes
    return Cost(100 * (others_after - others) / took, tested / took, tested / (workers_after - workers))


def compare(miner: BenchmarkMiner, drivers: list[Chrome], clients: int, seconds: float, rounds: int) -> None:
    """Print what each state costs, and the change against nobody looking: medians with their 95 % intervals."""
    names = [f"{clients} clients and scrapes", *([f"{clients} browsers here and scrapes"] if drivers else [])]
    alone = [measure(miner, seconds)]
    states: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with scraped(miner), shown(miner, drivers) if "browsers" in name else read(miner, clients):
                cost = measure(miner, seconds)
            alone.append(measure(miner, seconds))
            before, after = alone[-2:]
            states[name].append((cost, Cost(*((one + other) / 2 for one, other in zip(before, after, strict=True)))))
    print(f"{'nobody looks':30} {statistics.median(cost.others for cost in alone):5.2f} % of a core beside the workers")
    for name, pairs in states.items():
        more = statistics.median(cost.others - base.others for cost, base in pairs)
        print(f"{name:30} {statistics.median(cost.others for cost, _ in pairs):5.2f} % of a core ({more:+.2f})")
        print(f"{'':30} hash rate {_interval([100 * (cost.rate / base.rate - 1) for cost, base in pairs])}")
        changes = [100 * (cost.per_cpu_s / base.per_cpu_s - 1) for cost, base in pairs]
        print(f"{'':30} nonces per second of a worker's CPU time {_interval(changes)}")


def _interval(changes: list[float]) -> str:
    """The median and where it lies with a probability of 95 % at least, by the sign test."""
    changes.sort()
    n, tail, rank = len(changes), 0.0, 0
    while rank < n // 2 and (tail := tail + math.comb(n, rank) / 2**n) <= 0.025:
        rank += 1
    low, high = changes[max(rank - 1, 0)], changes[n - max(rank, 1)]
    return f"{statistics.median(changes):+.2f} % ({low:+.2f} to {high:+.2f}, {n} pairs)"


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clients", type=int, default=3, help="clients, and browsers if there is Chromium; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        miner = BenchmarkMiner(Path(folder), "--metrics-port=0", f"--workers={options.workers}")
        stack.callback(miner.kill)
        print(f"resident memory, idle            {resident_mb(miner.process.pid):6.1f} MB")
        with contextlib.closing(miner.connect()) as connection:
            job = {"job_id": JOB, "mining_hash": os.urandom(32).hex(), "difficulty": str(MAX)}
            connection.request("POST", "/mine", json.dumps(job), {"content-type": "application/json"})
            assert connection.getresponse().status == 200
        wait_until("the workers to be busy", lambda: status(miner)["state"] == "mining")
        drivers = [stack.enter_context(browser()) for _ in range(options.clients)] if is_there() else []
        compare(miner, drivers, options.clients, options.seconds, options.rounds)
        print(f"resident memory at the end       {resident_mb(miner.process.pid):6.1f} MB")


if __name__ == "__main__":
    main()
