"""What the service costs: hashing through it against the bare kernel, latencies under load, start, stop, memory.

    python -m benchmarks.service [--workers 2] [--seconds 3] [--rounds 5]

Everything is measured on the running machine in one go; the two hash rates in turn, so that drift hits both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import WAIT_S, BenchmarkMiner, resident_mb, wait_until
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.bench import measure
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, Job, NonceRange, Pow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quantus_miner.backends.base import Control
    from quantus_miner.native import Outcome

POLL_S = 0.5
"""As nodes poll."""


class Service(BenchmarkMiner):
    """A miner process and one connection to each of its ports."""

    def __init__(self, state: Path, workers: int) -> None:
        super().__init__(state, "--metrics-port=0", f"--workers={workers}")
        self.api = self.connect()
        self.exporter = self.connect(self.metrics_port)

    def call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """The decoded reply."""
        self.api.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
        reply: dict[str, Any] = json.loads(self.api.getresponse().read())
        return reply

    def submit(self) -> str:
        """Posts a job that has no solution; its id."""
        job_id = str(uuid.uuid4())
        self.call("POST", "/mine", {"job_id": job_id, "mining_hash": os.urandom(32).hex(), "difficulty": str(MAX)})
        return job_id

    def busy_workers(self) -> int:
        """From a scrape."""
        self.exporter.request("GET", "/metrics")
        found = re.search(rb"^miner_busy_workers (\d+)", self.exporter.getresponse().read(), re.MULTILINE)
        assert found
        return int(found[1])

    def hash_rate(self, seconds: float) -> float:
        """Nonces a second of one job, polled as nodes do, from its first slice to the end."""
        job_id = self.submit()
        first = self.call("GET", f"/result/{job_id}")
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            time.sleep(POLL_S)
            last = self.call("GET", f"/result/{job_id}")
        self.call("POST", f"/cancel/{job_id}")
        wait_until("the workers to be idle after a cancel", lambda: not self.busy_workers())
        rate: float = (last["hash_count"] - first["hash_count"]) / (last["elapsed_time"] - first["elapsed_time"])
        return rate


@contextlib.contextmanager
def service(workers: int) -> Iterator[Service]:
    """A running service with a state folder of its own, killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        running = Service(Path(folder), workers)
        try:
            yield running
        finally:
            running.kill()


def times_ms(count: int, action: Callable[[], object]) -> list[float]:
    """Milliseconds that ``action`` took, ``count`` times."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return times


def show(name: str, times: list[float]) -> None:
    """One line: median, p99 and maximum in milliseconds."""
    if not times:
        print(f"{name:44} nothing to measure")
        return
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{name:44} median {statistics.median(ordered):7.2f} ms   p99 {p99:7.2f} ms   max {ordered[-1]:7.2f} ms")


def throughput(running: Service, workers: int, seconds: float, rounds: int) -> None:
    """Hashing through the service against the bare kernel, in turn."""
    engine = CpuEngine("cpu-fast", workers, fast_kernels(None))
    through, bare = [], []
    for _ in range(rounds):
        bare.append(measure(engine, Pow.POSEIDON2, seconds, lambda _elapsed, _rate: None).hash_rate)
        through.append(running.hash_rate(seconds))
    ratios = [a / b for a, b in zip(through, bare, strict=True)]
    print(f"hashing through the service / bare kernel    median {statistics.median(ratios):.4f}", end="   ")
    print(f"({', '.join(f'{ratio:.4f}' for ratio in ratios)}; ", end="")
    print(f"bare {statistics.median(bare) / 1e3:.0f} kH/s, kernel {engine.kernel(Pow.POSEIDON2)})")


def latencies(running: Service, count: int) -> None:
    """Calls while all workers hash."""
    base = running.submit()
    ids: list[str] = []
    show("POST /mine while all workers hash", times_ms(count, lambda: ids.append(running.submit())))
    show("GET /result while all workers hash", times_ms(count, lambda: running.call("GET", f"/result/{base}")))
    show("POST /cancel while all workers hash", times_ms(count, lambda: running.call("POST", f"/cancel/{ids.pop()}")))
    running.call("POST", f"/cancel/{base}")


class ObservedEngine(CpuEngine):
    """Lets one wait for the begin and the end of searches without taking CPU from them."""

    def __init__(self, workers: int) -> None:
        super().__init__("cpu-fast", workers, fast_kernels(None))
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """See Engine.search."""
        self.begun.release()
        outcome = super().search(job, start, count, control)
        self.ended.release()
        return outcome


def acquire(semaphore: threading.Semaphore, what: str) -> None:
    """Wait for ``what``, a minute at most."""
    if not semaphore.acquire(timeout=WAIT_S):
        sys.exit(f"benchmark: waited {WAIT_S:.0f} s for {what}, and gave up")


def cancel_to_idle(workers: int, count: int) -> None:
    """From the call of ``Miner.cancel`` until every worker has left its kernel."""
    engine = ObservedEngine(workers)
    miner = Miner([engine], chunk_s=1e6)  # a slice that only the cancel ends, once the speed is known
    miner.start()
    times = []
    for number in range(count):
        job = Job(str(number), Pow.POSEIDON2, os.urandom(32), 0, (NonceRange(0, MAX),))
        search = miner.submit(job, lambda _: None)
        for _ in range(workers):
            acquire(engine.begun, "a worker to enter its kernel")
        began = time.perf_counter()
        miner.cancel(search)
        for _ in range(workers):
            acquire(engine.ended, "a worker to leave its kernel")
        times.append((time.perf_counter() - began) * 1000)
        wait_until("the workers to be idle after a cancel", lambda: not miner.stats().busy_workers)
        engine.begun, engine.ended = threading.Semaphore(0), threading.Semaphore(0)
    miner.close(10)
    show("cancel to all workers out of their kernels", times[1:])


def stop(running: Service) -> float:
    """Seconds from SIGTERM during hashing to the exit, which has to be clean."""
    running.submit()
    wait_until("the workers to take up a job", running.busy_workers)
    began = time.perf_counter()
    running.process.send_signal(signal.SIGTERM)
    code = running.process.wait(30)
    assert code == 0, code
    return time.perf_counter() - began


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()

    starts, stops, resident = [], [], []
    for _ in range(options.rounds):
        with service(options.workers) as running:
            starts.append(running.start_s)
            resident.append(resident_mb(running.process.pid))
            stops.append(stop(running))
    show("start to ready", [1000 * start for start in starts])
    show("SIGTERM during hashing to exit code 0", [1000 * stop for stop in stops])
    print(f"{'resident memory, idle':44} median {statistics.median(resident):7.1f} MB")
    cancel_to_idle(options.workers, options.calls)
    with service(options.workers) as running:
        latencies(running, options.calls)
        throughput(running, options.workers, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
