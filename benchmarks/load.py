"""The service under load and under attack: what it still serves and hashes, what it takes, what it gives back.

    python -m benchmarks.load [--seconds 10] [--rounds 3] [--attacks idle,drip,…]

The service has as many workers as there are CPUs, and a job that does not end; clients and attackers use the same CPUs.
Attacked it runs with at most 256 file descriptors and, as root with cgroup v1, in 200 MB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks import attacks
from benchmarks.process import BenchmarkMiner, resident_mb
from quantus_miner.model import MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONNECTIONS: Final = 4
POLLS_A_MINUTE: Final = 100_000
FILES: Final = 256
MEMORY: Final = 200_000_000
CGROUP: Final = Path("/sys/fs/cgroup/memory")
BACK_S: Final = 30.0
"""Seconds after an attack within which all has to be as before."""


class Connection:
    """A keep-alive connection that costs little: one send, few receives a call."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status code and body. Raises OSError where the connection ends."""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        self._socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        answer, _, rest = data.partition(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split()[0])
        parts, size = [rest], len(rest)
        while size < length:
            parts.append(self._receive())
            size += len(parts[-1])
        return int(answer[9:12]), b"".join(parts)

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionResetError("closed")
        return data

    def close(self) -> None:
        """Closes it."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service(BenchmarkMiner):
    """A miner process with a job that does not end."""

    def __init__(self, state: Path, prefix: tuple[str, ...] = ()) -> None:
        super().__init__(state, "--metrics-port=0", f"--workers={len(os.sched_getaffinity(0))}", prefix=prefix)
        self.job = submit_new(self.port)

    def hashed(self) -> tuple[int, float]:
        """Nonces tested for the job, and the seconds that it has run."""
        with Connection(self.port) as connection:
            result = json.loads(connection.call("GET", f"/result/{self.job}")[1])
        return result["hash_count"], result["elapsed_time"]

    def usage(self) -> Usage:
        """What it takes now."""
        with Connection(self.metrics_port) as connection:
            body = connection.call("GET", "/metrics")[1]
        log = list(self.log)
        series = sum(not line.startswith(b"#") for line in body.splitlines())
        return Usage(resident_mb(self.process.pid), self.files(), series, len(log), sum(map(len, log)))

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds that the event loop's thread has used, and all others, which are the workers as good as alone."""
        tasks = {
            int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9
            for task in Path(f"/proc/{self.process.pid}/task").iterdir()
        }
        loop = tasks.pop(self.process.pid)
        return loop, sum(tasks.values())

    def files(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - a count


@dataclass(frozen=True, slots=True)
class Usage:
    """What a service takes: megabytes, descriptors, series of the exporter, lines and bytes of its log."""

    memory: float
    files: int
    series: int
    lines: int
    log_bytes: int


@dataclass(slots=True)
class Calls:
    """Milliseconds that calls took; how many were tried again on a new connection, and how many failed."""

    times: list[float] = field(default_factory=list)
    retried: int = 0
    failed: int = 0

    def p(self, part: float) -> float:
        """A percentile; ``part``: 0 .. 1."""
        ordered = sorted(self.times) or [float("nan")]
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def submit_new(port: int) -> str:
    """Posts a job that has no solution; its id."""
    job_id = str(uuid.uuid4())
    job = {"job_id": job_id, "mining_hash": os.urandom(32).hex(), "difficulty": str(MAX)}
    with Connection(port) as connection:
        status, body = connection.call("POST", "/mine", json.dumps(job).encode())
    assert status == 200, body
    return job_id


@contextlib.contextmanager
def service(*, limited: bool) -> Iterator[Service]:
    """A running service, killed at the end. ``limited``: as said above."""
    prefix: tuple[str, ...] = ()
    cgroup = CGROUP / f"quantus-miner-load-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if limited:
            prefix = ("prlimit", f"--nofile={FILES}")
            if os.geteuid() == 0 and (CGROUP / "memory.limit_in_bytes").exists():
                cgroup.mkdir()
                stack.callback(cgroup.rmdir)
                (cgroup / "memory.limit_in_bytes").write_text(str(MEMORY))
                prefix = ("sh", "-c", f'echo $$ >{cgroup}/cgroup.procs && exec "$@"', "sh", *prefix)
            else:
                print("no memory limit: that needs root and cgroup v1")
        running = Service(Path(folder), prefix)
        try:
            yield running
        finally:
            running.kill()


def in_threads(count: int, action: Callable[[int], None]) -> None:
    """Runs ``action`` in ``count`` threads to the end."""
    threads = [threading.Thread(target=action, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def flat_out(port: int, seconds: float, one: Callable[[Connection], object]) -> Calls:
    """``one`` again and again on CONNECTIONS connections."""
    calls = Calls()

    def client(_: int) -> None:
        with Connection(port) as connection:
            end = time.perf_counter() + seconds
            while (began := time.perf_counter()) < end:
                one(connection)
                calls.times.append(1000 * (time.perf_counter() - began))

    in_threads(CONNECTIONS, client)
    return calls


def paced(running: Service, seconds: float, rate: float, calls: Calls) -> None:
    """Polls ``rate`` times a second on CONNECTIONS connections. Times count from when a poll was due."""
    began = time.perf_counter()

    def client(number: int) -> None:
        with Connection(running.port) as connection:
            for turn in range(number, int(rate * seconds), CONNECTIONS):
                due = began + turn / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                assert connection.call("GET", f"/result/{running.job}")[0] == 200
                calls.times.append(1000 * (time.perf_counter() - due))

    in_threads(CONNECTIONS, client)


def throughput(running: Service, seconds: float) -> None:
    """Calls flat out."""

    def mine_and_cancel(connection: Connection) -> None:
        job_id = str(uuid.uuid4())
        job = {"job_id": job_id, "mining_hash": "ab" * 32, "difficulty": str(MAX)}
        assert connection.call("POST", "/mine", json.dumps(job).encode())[0] == 200
        assert connection.call("POST", f"/cancel/{job_id}")[0] == 200

    actions: dict[str, Callable[[Connection], object]] = {
        "GET /result": lambda connection: connection.call("GET", f"/result/{running.job}"),
        "GET /health": lambda connection: connection.call("GET", "/health"),
        "POST /mine and /cancel": mine_and_cancel,
    }
    print(f"flat out on {CONNECTIONS} connections{'a second':>20}{'p50, ms':>10}{'p99, ms':>10}")
    for name, action in actions.items():
        calls = flat_out(running.port, seconds, action)
        print(f"  {name:27}{len(calls.times) / seconds:19,.0f}{calls.p(0.5):10.2f}{calls.p(0.99):10.2f}")


def polled(running: Service, seconds: float, rounds: int) -> None:
    """100,000 polls a minute, and none, in turn: so that drift hits both."""
    with_polls, without = [], []
    for _ in range(rounds):
        without.append(Round(running, lambda: time.sleep(seconds)))
        calls = Calls()
        with_polls.append(Round(running, lambda calls=calls: paced(running, seconds, POLLS_A_MINUTE / 60, calls)))  # type: ignore[misc]
        with_polls[-1].calls = calls

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, with_polls))

    pairs = list(zip(with_polls, without, strict=True))
    ratios = [polls.speed / none.speed for polls, none in pairs]
    efficiency = statistics.median(polls.speed_of_cpu / none.speed_of_cpu for polls, none in pairs)
    loop, client = median(lambda one: one.loop_cpu / one.seconds), median(lambda one: one.client_cpu / one.seconds)
    cpus = len(os.sched_getaffinity(0))
    print(
        f"{60 * median(lambda one: len(one.calls.times) / one.seconds):,.0f} polls a minute served, "
        f"p50 {median(lambda one: one.calls.p(0.5)):.2f} ms, p99 {median(lambda one: one.calls.p(0.99)):.2f} ms\n"
        f"hash rate that remains: {statistics.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})\n"
        f"CPUs taken: {loop:.3f} by the service, {client:.3f} by the client; "
        f"nonces of a CPU second of the workers: {efficiency:.3f} of those without polls;\n"
        f"so on {cpus} CPUs with nothing else to do {efficiency * (1 - (loop + client) / cpus):.3f} of the hash rate "
        f"remain, {efficiency * (1 - loop / cpus):.3f} with the client elsewhere"
    )


class Round:
    """What ``action`` did to the hash rate: nonces a second, nonces a CPU second of workers; CPU seconds of others."""

    def __init__(self, running: Service, action: Callable[[], object]) -> None:
        self.calls = Calls()
        began, client, (loop, workers) = time.perf_counter(), time.process_time(), running.cpu_s()
        hashes, elapsed = running.hashed()
        action()
        hashes, elapsed = running.hashed()[0] - hashes, running.hashed()[1] - elapsed
        self.seconds = time.perf_counter() - began
        self.client_cpu = time.process_time() - client
        self.loop_cpu, worker_cpu = (
            after - before for after, before in zip(running.cpu_s(), (loop, workers), strict=True)
        )
        self.speed, self.speed_of_cpu = hashes / elapsed, hashes / worker_cpu


class Witness:
    """A client that behaves: polls 20 times a second on one connection, and asks /health on a new one 5 times."""

    def __init__(self, running: Service) -> None:
        self._running = running
        self._stop = threading.Event()
        self.polls = Calls()
        self.fresh = Calls()
        self.memory = resident_mb(running.process.pid)
        self.files = running.files()
        self._threads = [threading.Thread(target=run) for run in (self._poll, self._connect, self._watch)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _poll(self) -> None:
        connection: Connection | None = None
        while not self._stop.wait(0.05):
            began = time.perf_counter()
            # A second try, as every HTTP client has for a kept connection that has ended.
            for attempt in range(2):
                try:
                    connection = connection or Connection(self._running.port)
                    assert connection.call("GET", f"/result/{self._running.job}")[0] == 200
                    break
                except OSError:
                    if connection is not None:
                        connection.close()
                        connection = None
                    self.polls.retried += 1 - attempt
                    self.polls.failed += attempt
            self.polls.times.append(1000 * (time.perf_counter() - began))
        if connection is not None:
            connection.close()

    def _connect(self) -> None:
        while not self._stop.wait(0.2):
            began = time.perf_counter()
            try:
                with Connection(self._running.port) as connection:
                    self.fresh.failed += connection.call("GET", "/health")[0] != 200
            except OSError:
                self.fresh.failed += 1
            self.fresh.times.append(1000 * (time.perf_counter() - began))

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.memory = max(self.memory, resident_mb(self._running.process.pid))
            self.files = max(self.files, self._running.files())


def attack(running: Service, name: str, seconds: float) -> str:
    """One row of the table."""
    before, hashed = running.usage(), running.hashed()
    ports = (f"--port={running.port}", f"--metrics-port={running.metrics_port}")
    limit = f"--seconds={120 if name in ('jobs', 'paths') else seconds}"
    witness = Witness(running)
    began = time.perf_counter()
    if name == "none":
        time.sleep(seconds)
        done = {}
    else:
        command = [sys.executable, attacks.__file__, name, *ports, limit]
        done = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    took = time.perf_counter() - began
    witness.stop()
    rate = (running.hashed()[0] - hashed[0]) / took
    end = time.monotonic() + BACK_S
    while running.files() > before.files and time.monotonic() < end:
        time.sleep(0.1)
    after = running.usage()
    polls, fresh = witness.polls, witness.fresh
    columns = (
        f"{name:10}{took:4.0f}",
        f"{polls.p(0.99):7.1f}{polls.retried:5}{polls.failed:5}{len(polls.times):6}",
        f"{fresh.p(0.99):7.1f}{fresh.failed:5}{len(fresh.times):5}",
        f"{before.memory:6.1f}{witness.memory:6.1f}{after.memory:6.1f}",
        f"{before.files:4}{witness.files:5}{after.files:4}",
        f"{before.series:6}{after.series:6}",
        f"{after.lines - before.lines:5}{(after.log_bytes - before.log_bytes) / 1000:6.1f}",
        f"{rate / 1e3:6.0f}",
        ", ".join(f"{count:,} {what}" for what, count in done.items()),
    )
    return " | ".join(columns)


HEADINGS: Final = """
               | polls, kept connection   | new connections   | memory, MB         | descriptors   | series       | log         | hashed |
attack       s | p99 ms again  not  of    | p99 ms  not   of  | before most  after | bef. most aft.| before after | lines    kB |   kH/s | the attacker
"""  # noqa: E501 - a table's


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attacks", default=",".join(("none", *attacks.NAMES)))
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(f"{len(os.sched_getaffinity(0))} CPUs, as many workers; descriptors of the clients: {soft} of {hard}")
    if options.rounds:
        with service(limited=False) as running:
            throughput(running, options.seconds)
            polled(running, options.seconds, options.rounds)
    if not options.attacks:
        return
    with service(limited=True) as running:
        print(HEADINGS, end="")
        for name in options.attacks.split(","):
            print(attack(running, name, options.seconds), flush=True)
        assert running.process.poll() is None
        warnings = [line.rstrip() for line in running.log if " INFO " not in line]
        print(f"still the same process; its last warnings: {warnings[-3:]}")


if __name__ == "__main__":
    main()
