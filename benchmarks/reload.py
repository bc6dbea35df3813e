"""Settings that change by SIGHUP while the miner is busy: the pause that each worker sees, and every nonce counted.

    python -m benchmarks.reload [--seconds 10] [--changes 20]

A real service searches a range without a solution. Meanwhile its workers, its pools and its log filter change in turn.
Each slice of each worker is recorded: together they have to be the range, no nonce twice and none missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final

from benchmarks.process import BenchmarkMiner, wait_until

HEADER: Final = bytes(range(32)).hex()
NEVER: Final = str(2**512 - 1)
"""A difficulty that no nonce reaches."""
WALLET: Final = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"
RECORDING: Final = """
import json, sys, threading, time
from quantus_miner.backends.cpu import CpuEngine
from quantus_miner.cli import main
search, slices = CpuEngine.search, []
def recorded(self, job, start, count, control):
    began = time.monotonic()
    outcome = search(self, job, start, count, control)
    thread = threading.current_thread()
    slices.append((job.id, thread.name, thread.native_id, start, outcome.tested, began, time.monotonic()))
    return outcome
CpuEngine.search = recorded
file = sys.argv.pop(1)
try:
    main()
finally:
    with open(file, "w") as output:
        json.dump(slices, output)
"""
"""The service, which writes down the slices of its workers."""


class Recorded(BenchmarkMiner):
    """The service with its slices in ``record``, and settings in a file that ``apply`` changes."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "slices.json"
        self._config = folder / "miner.toml"
        self._config.write_text("")
        program = folder / "recording.py"
        program.write_text(RECORDING)
        self.program = (str(program), str(self.record))
        super().__init__(folder, f"--config={self._config}", "--progress-chunk-ms=50")

    def apply(self, settings: dict[str, Any]) -> float:
        """Change to ``settings``; the seconds from the signal to the line that says so."""
        self._config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        before, began = self._reloads(), time.monotonic()
        self.process.send_signal(signal.SIGHUP)
        wait_until("the settings to be applied", lambda: self._reloads() > before)
        return time.monotonic() - began

    def _reloads(self) -> int:
        return sum("Reloaded" in line for line in self.log)

    def call(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """The decoded reply of the job API."""
        connection = self.connect()
        try:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def search(self, nonces: int) -> str:
        """The id of a job that ends when all of ``nonces`` nonces are tested."""
        job_id = str(uuid.uuid4())
        whole = {"nonce_start": f"{1:0128x}", "nonce_end": f"{nonces:0128x}", "difficulty": NEVER}
        reply = self.call("POST", "/mine", {"job_id": job_id, "mining_hash": HEADER, **whole})
        assert reply["status"] == "accepted", reply
        return job_id

    def result(self, job_id: str) -> Any:  # noqa: ANN401 - JSON
        """The state of a job."""
        return self.call("GET", f"/result/{job_id}")

    def wait(self, job_id: str) -> None:
        """Until the job has ended."""
        wait_until("the end of the range", lambda: self.result(job_id)["status"] != "running")


def settings() -> itertools.cycle[dict[str, Any]]:
    """What the settings change to, in turn: one worker more, a pool that is down, a second one, another log filter."""
    cpus = len(os.sched_getaffinity(0))
    pools = [f"stratum+tcp://127.0.0.1:{port}" for port in (9, 11)]
    live = {"wallet": WALLET, "worker-name": "rig"}
    return itertools.cycle(
        (
            {"workers": max(1, cpus - 1)},
            {"workers": cpus},
            {"workers": cpus, **live, "pool": pools[:1]},
            {"workers": cpus, **live, "pool": pools},
            {"workers": cpus, "log": "info,miner.live=warn"},
        )
    )


def main() -> None:
    """Change settings, end, and print what the record says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of searching, about")
    parser.add_argument("--changes", type=int, default=20, help="changes of settings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        miner = Recorded(Path(folder))
        try:
            trial = miner.search(100_000)
            miner.wait(trial)
            tried = miner.result(trial)
            nonces = int(tried["hash_count"] / tried["elapsed_time"] * options.seconds)
            job_id = miner.search(nonces)
            took = []
            for values in itertools.islice(settings(), options.changes):
                took.append(miner.apply(values))
                time.sleep(options.seconds / options.changes / 2)
            miner.wait(job_id)
            miner.process.terminate()
            wait_until("the service to end", lambda: miner.process.poll() is not None)
        finally:
            miner.kill()
        slices = [entry[1:] for entry in json.loads(miner.record.read_text()) if entry[0] == job_id]
    print(f"{options.changes} changes of settings while {nonces:,} nonces are tested")
    print(
        f"SIGHUP to applied           median {1000 * statistics.median(took):8.2f} ms   max {1000 * max(took):8.2f} ms"
    )
    for worker in sorted({name for name, *_ in slices}):
        # A worker that ended and came back has another thread, and the time between is no pause.
        own = sorted((thread, began, ended) for name, thread, _, _, began, ended in slices if name == worker)
        pauses = [after[1] - before[2] for before, after in itertools.pairwise(own) if before[0] == after[0]] or [0.0]
        threads = len({thread for thread, *_ in own})
        line = f"{worker:10} between two slices median {1000 * statistics.median(pauses):8.2f} ms   max"
        print(f"{line} {1000 * max(pauses):8.2f} ms   ({len(own)} slices, started {threads} times)")
    first = expected = min(start for _, _, start, *_ in slices)
    for _, _, start, tested, *_ in sorted(slices, key=lambda entry: (entry[2], entry[3])):
        if start != expected:
            sys.exit(f"benchmark: nonces {'missing' if start > expected else 'tested twice'} at position {start}")
        expected += tested
    if expected - first != nonces:
        sys.exit(f"benchmark: {nonces:,} nonces were asked for, and others tested")
    print("every nonce was tested once")


if __name__ == "__main__":
    main()
