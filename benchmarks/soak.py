"""An hour of live mining compressed: thousands of job changes, hundreds of forced disconnects, and what they leave.

    python -m benchmarks.soak [--jobs 2000] [--disconnects 200] [--workers 1]

Real QUIC between the development node and the miner's parts in one process. Every solution is followed from the worker
to the node: what the miner sent on a connection that stood has to arrive and be valid; no nonce may come twice. Prints
figures and ends with exit code 1 if something was lost, repeated or leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.process import come_to, resident_mb
from quantus_miner import pow as reference
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.mining.miner import Miner
from quantus_miner.model import LiveJob, Pow, Solution, target_from_difficulty
from quantus_miner.sources.failover import Policy
from quantus_miner.sources.link import Handover
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.wire.messages import parse_fingerprint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from quantus_miner.wire.messages import JobResult

DIFFICULTY = 3_000
"""A solution every few milliseconds, so that hardly a job change or disconnect is without one under way."""
JOB_S = 0.02
IDLE_S = 1.0
"""Seconds without a sign of life after which the miner gives a node up, in place of 15 s."""
WARM_UP = 20
"""Disconnects before memory is first looked at."""


class Node(QuicNode):
    """Keeps its job when a solution comes, as a pool does, and remembers everything that was sent to it."""

    headers: dict[str, bytes]
    received: list[tuple[bytes, int]]
    invalid = unknown = 0

    def on_result(self, result: JobResult) -> None:
        """Checks it against the job it is for."""
        header = self.headers.get(result.job_id)
        nonce = int(result.work or "0", 16)
        if header is None:
            self.unknown += 1
        elif reference.is_valid(Pow.POSEIDON2, header, nonce, target_from_difficulty(DIFFICULTY)):
            self.received.append((header, nonce))
        else:
            self.invalid += 1
        self.notify()

    def next_job(self) -> None:
        """A new header for all miners."""
        self.chain.difficulty = DIFFICULTY
        self.renew_job()
        assert self._job is not None
        self.headers[self._job.job_id] = bytes.fromhex(self._job.mining_hash)

    def vanish(self) -> None:
        """Closes the port without a word to anyone."""
        self.miners.clear()
        assert self._server is not None
        self._server.close()


class WatchedLink(NodeLink):
    """Remembers what was handed to the socket and what came too late."""

    sent: list[tuple[bytes, int]]
    late = 0

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """See Link.submit. Nothing waits: a node is sent few results."""
        done = super().submit(job, solution, hashes, elapsed)
        if done is Handover.SENT:
            self.sent.append((job.header, solution.nonce))
        else:
            self.late += 1
        return done


class Soak:
    """The run: a node that can be replaced, and the miner's parts."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.port = 0
        self.received: list[tuple[bytes, int]] = []
        self.bad = 0
        self.miner = Miner([CpuEngine("cpu-fast", workers, fast_kernels(None))], chunk_s=2.0)

    async def start_node(self) -> None:
        """The node, after a restart with its certificate, its port and job numbers from 1."""
        self.node = Node(Chain(Pow.POSEIDON2, DIFFICULTY, 3600.0), self.folder)
        self.node.headers, self.node.received = {}, []
        await asyncio.sleep(0.01)  # the loop closes the old port in its next turn
        await self.node.start(self.port)
        self.port = self.node.port
        self.node.next_job()

    def collect(self) -> None:
        """What a node that goes away has received."""
        self.received += self.node.received
        self.bad += self.node.invalid + self.node.unknown
        self.node.received, self.node.invalid, self.node.unknown = [], 0, 0

    async def restart(self) -> None:
        """Closes its connections and the port; comes back."""
        await self.node.stop()
        self.collect()
        await self.start_node()

    async def vanish(self) -> None:
        """Goes without a word; comes back."""
        self.node.vanish()
        self.collect()
        await self.start_node()

    async def drop(self) -> None:
        """Closes its connections."""
        self.node.drop()

    async def garbage(self) -> None:
        """Sends a frame that is no JSON."""
        self.node.send(b"\0\0\0\4junk")

    async def oversized(self) -> None:
        """Announces a frame of 4 GB."""
        self.node.send(b"\xff\xff\xff\xff")


def resources() -> tuple[int, int, int, float]:
    """Open files, threads, tasks, and resident memory in MB."""
    gc.collect()
    files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return files, threading.active_count(), len(asyncio.all_tasks()), resident_mb(os.getpid())


async def run(jobs: int, disconnects: int, workers: int, folder: Path) -> bool:
    """All of it; whether nothing was lost, repeated or leaked."""
    soak = Soak(folder, workers)
    await soak.start_node()
    fingerprint = (soak.node.folder / "miner-tls-cert-sha256").read_text(encoding="ascii")
    link = WatchedLink("127.0.0.1", soak.port, soak.node.token, parse_fingerprint(fingerprint), idle_s=IDLE_S)
    link.sent = []
    soak.miner.start()
    # No session lasts here: the miner comes back at once all the same.
    live = LiveSource(
        MinerSearcher(soak.miner), [link], priority=1, policy=Policy(max_retry_s=1.0, max_refused_retry_s=1.0)
    )
    mining = asyncio.create_task(live.run())
    kinds: list[Callable[[], Awaitable[None]]] = [soak.drop, soak.garbage, soak.oversized, soak.restart, soak.vanish]
    rng = random.Random(1)  # noqa: S311 - the same run each time
    done: Counter[str] = Counter()
    changes, before = 0, resources()
    began = time.monotonic()
    for turn in range(disconnects):
        connects = live.stats()[0].connects
        await soak.node.until(lambda: any(miner.authenticated for miner in soak.node.miners))
        for _ in range(jobs // disconnects):
            await asyncio.sleep(rng.uniform(0.2, 1.8) * JOB_S)
            soak.node.next_job()
            changes += 1
        await asyncio.sleep(rng.uniform(0, JOB_S))
        kind = rng.choice(kinds)
        await kind()
        done[kind.__name__] += 1
        if turn + 1 == WARM_UP:
            before = resources()

        def again(before: int = connects) -> bool:
            return live.stats()[0].connects > before

        await come_to("the miner to connect again", again)
    seconds = time.monotonic() - began
    after = resources()

    # The end, in order: no hits any more, then time for the last frames.
    await asyncio.to_thread(soak.miner.close, 10)
    await asyncio.sleep(0)
    last = len(link.sent)
    soak.collect()
    deadline = time.monotonic() + 2
    while len(soak.received) < last and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        soak.collect()
    mining.cancel()
    await asyncio.gather(mining, return_exceptions=True)
    await soak.node.stop()
    soak.collect()

    stats, miner = live.stats()[0], soak.miner.stats()
    found = sum(miner.solved_by_engine.values())
    sent, received = Counter(link.sent), Counter(soak.received)
    repeated = sum(count - 1 for count in sent.values())
    unexplained = found - len(link.sent) - link.late
    in_flight = sum((sent - received).values())
    print(f"{changes} job changes, {sum(done.values())} forced disconnects {dict(done)} in {seconds:.0f} s")
    print(f"{stats.connects} connections, {stats.jobs} jobs received, {miner.hashes:,} nonces")
    print(f"{found} solutions: {len(link.sent)} sent, {link.late} too late to count, {unexplained} unaccounted for")
    print(f"the node received {len(soak.received)}; {in_flight} were on the wire when their connection was cut")
    print(f"invalid or unknown at the node: {soak.bad}; nonces sent twice: {repeated}; ", end="")
    print(f"hits that the reference rejected: {miner.rejected_solutions}")
    for name, old, new in zip(("open files", "threads", "tasks", "resident MB"), before, after, strict=True):
        print(f"{name:12} after {WARM_UP} disconnects {old:8.1f}   after {disconnects} {new:8.1f}")
    leaked = any(new > old + 2 for old, new in zip(before[:3], after[:3], strict=True)) or after[3] > before[3] + 10
    return not (leaked or soak.bad or repeated or unexplained or in_flight > 3 * disconnects)


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--disconnects", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not asyncio.run(run(options.jobs, options.disconnects, options.workers, Path(folder))))


if __name__ == "__main__":
    main()
