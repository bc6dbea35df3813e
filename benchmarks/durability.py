"""Kills the service at random moments under load, and checks over HTTP that nothing it promised is lost.

    python -m benchmarks.durability [--kills 500] [--full-disk]

A client posts jobs, polls and cancels all the time, and notes what it was told; the service dies by SIGKILL. After each
start the checker asks for everything: an accepted job has to be known, a result that was served has to be served
unchanged, a cancelled job has to stay cancelled. ``--full-disk``, as root: on a small tmpfs, which is full in two of
three rounds when the service dies, and at the start after it in one of these two.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import BenchmarkMiner
from quantus_miner.jobs import MAX_ACTIVE, MAX_JOBS
from quantus_miner.model import MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

SURELY_HELD = MAX_JOBS - MAX_ACTIVE - 100
"""The oldest ended job that was read makes room; before it may be those that are running or that nobody has read."""
HARD = str(MAX)
EASY = "20000"


def call(
    connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Status code and decoded reply."""
    connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


class Client:
    """What was promised, and the load that makes the service promise more."""

    def __init__(self) -> None:
        self.open: dict[str, None] = {}
        self.served: dict[str, dict[str, Any]] = {}
        self.hard: set[str] = set()
        self.cancelled: set[str] = set()
        self.recent: deque[str] = deque(maxlen=300)  # those whose time to be read cannot be over
        self.numbers: dict[str, int] = {}  # in the order in which they were accepted
        self.counts: Counter[str] = Counter()
        self.post_ms: list[float] = []

    def load(self, service: BenchmarkMiner, stopped: threading.Event) -> None:
        """Posts, polls and cancels until ``stopped`` or the service is dead."""
        connection = service.connect()
        rng = random.Random()  # noqa: S311 - not for secrets
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            while not stopped.is_set():
                job_id = str(uuid.uuid4())
                hard = rng.random() < 0.1
                body = {"job_id": job_id, "mining_hash": os.urandom(32).hex(), "difficulty": HARD if hard else EASY}
                if hard:
                    self.hard.add(job_id)
                began = time.perf_counter()
                status, _ = call(connection, "POST", "/mine", body)
                self.post_ms.append(1000 * (time.perf_counter() - began))
                if status == 200:
                    self.counts["accepted"] += 1
                    self.numbers[job_id] = self.counts["accepted"]
                    self.open[job_id] = None
                if hard and call(connection, "POST", f"/cancel/{job_id}")[0] == 200:
                    self.cancelled.add(job_id)
                for known in list(self.open)[-4:]:
                    self.take(known, *call(connection, "GET", f"/result/{known}"))

    def take(self, job_id: str, status: int, result: dict[str, Any]) -> None:
        """Compares what is served with what was promised."""
        if status != 200:
            self.counts["lost"] += 1
            print(f"LOST {job_id}: {status} {result}, was {self.served.get(job_id)}", flush=True)
            self.open.pop(job_id, None)
            return
        before = self.served.get(job_id)
        if before is not None and result != before:
            self.counts["changed"] += 1
            print(f"CHANGED {job_id}: {result}, was {before}", flush=True)
        if job_id in self.cancelled and result["status"] not in ("cancelled", "completed"):
            self.counts["revived"] += 1
            print(f"REVIVED {job_id}: {result}", flush=True)
        if result["status"] != "running":
            self.open.pop(job_id, None)
            if before is None:
                self.counts[result["status"]] += 1
                self.served[job_id] = result
                self.recent.append(job_id)

    def check(self, service: BenchmarkMiner) -> None:
        """Asks for everything that is still readable."""
        connection = service.connect()
        held = [job_id for job_id in self.recent if self.counts["accepted"] - self.numbers[job_id] < SURELY_HELD]
        for job_id in [*self.open, *held]:
            self.take(job_id, *call(connection, "GET", f"/result/{job_id}"))
            # One whose cancel the kill forestalled would hash for ever.
            if job_id in self.open and job_id in self.hard:
                call(connection, "POST", f"/cancel/{job_id}")
                self.cancelled.add(job_id)


@contextlib.contextmanager
def folder(*, small: bool) -> Iterator[Path]:
    """A temporary state folder, on a tmpfs, with room for the jobs of a run, if ``small``."""
    with tempfile.TemporaryDirectory() as name:
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", name], check=True)  # noqa: S607
        try:
            yield Path(name)
        finally:
            if small:
                subprocess.run(["umount", name], check=True)  # noqa: S607


def fill(state: Path) -> None:
    """Takes all room that is left."""
    with contextlib.suppress(OSError), (state / "filler").open("ab", buffering=0) as filler:
        while True:
            filler.write(b"\0" * 4096)


def main() -> None:
    """Runs it and prints what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--full-disk", action="store_true")
    options = parser.parse_args()
    client, starts = Client(), []
    rng = random.Random(1)  # noqa: S311 - not for secrets
    began = time.monotonic()
    errors: Counter[str] = Counter()
    with folder(small=options.full_disk) as state:
        for number in range(options.kills + 1):
            service = BenchmarkMiner(state, "--workers=2")
            starts.append(service.start_s)
            client.check(service)
            if number == options.kills:
                service.kill()
                break
            stopped = threading.Event()
            thread = threading.Thread(target=client.load, args=(service, stopped))
            thread.start()
            time.sleep(rng.uniform(0.02, 1.0))
            if options.full_disk and number % 3 == 1:
                fill(state)
                time.sleep(rng.uniform(0.02, 1.0))
            service.kill()
            stopped.set()
            thread.join()
            if options.full_disk and number % 3 == 2:
                (state / "filler").unlink()
            failures = [line for line in service.log if "Cannot" in line]
            errors["in memory only"] += any("Cannot write" in line for line in failures)
            if failures:
                print(f"round {number}:", *failures, sep="\n  ", end="", flush=True)
            errors["traceback"] += any("Traceback" in line for line in service.log)
            errors["damaged"] += any("is damaged" in line for line in service.log)
            if number % 25 == 24:
                print(f"{number + 1} kills, {time.monotonic() - began:.0f} s: {dict(client.counts)}", flush=True)
    counts = client.counts
    print(f"kills {options.kills}, jobs accepted {counts['accepted']}, solutions served {counts['completed']}")
    print(f"lost {counts['lost']}, changed {counts['changed']}, cancelled ones revived {counts['revived']}")
    nonces = Counter(result["nonce"] for result in client.served.values() if result["nonce"])
    print(f"duplicates served {sum(count - 1 for count in nonces.values())}, logs: {dict(errors)}")
    print(f"start: median {statistics.median(starts):.2f} s, longest {max(starts):.2f} s")
    cuts = statistics.quantiles(client.post_ms, n=100)
    print(f"POST /mine while hashing: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, of {len(client.post_ms)}")
    sys.exit(bool(counts["lost"] or counts["changed"] or counts["revived"] or errors["traceback"]))


if __name__ == "__main__":
    main()
