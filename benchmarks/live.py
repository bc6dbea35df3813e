"""What the live source costs: job switch, the way of a solution to the socket, hashing against the bare kernel.

    python -m benchmarks.live [--workers 2] [--jobs 500] [--rounds 5] [--seconds 2]

Real QUIC on this machine: the node is a process of its own, the miner's parts run in this one, to be watched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.process import come_to
from benchmarks.service import show
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.bench import measure
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.mining.miner import Miner
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources.link import Handover
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.searcher import MinerSearcher
from quantus_miner.wire.messages import parse_fingerprint

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from quantus_miner.backends.base import Control
    from quantus_miner.model import Job
    from quantus_miner.native import Outcome

JOB_INTERVAL_S = 0.02
HARD = 2**128


class TimedEngine(CpuEngine):
    """Notes when each worker begins a job, and when a kernel returns with a hit; monotonic seconds."""

    def __init__(self, workers: int) -> None:
        super().__init__("cpu-fast", workers, fast_kernels(None))
        self.begun: dict[bytes, dict[int, float]] = {}
        self.hit: dict[int, float] = {}

    def search(self, job: Job, start: int, count: int, control: Control) -> Outcome:
        """See Engine.search."""
        self.begun.setdefault(job.header, {}).setdefault(threading.get_ident(), time.monotonic())
        outcome = super().search(job, start, count, control)
        if outcome.nonce is not None:
            self.hit[outcome.nonce] = time.monotonic()
        return outcome


class TimedLink(NodeLink):
    """Notes when a solution has been handed to the socket."""

    sent: dict[int, float]

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """See Link.submit."""
        done = super().submit(job, solution, hashes, elapsed)
        if done is Handover.SENT:
            self.sent[solution.nonce] = time.monotonic()
        return done


def node_process(pipe: Connection) -> None:
    """A node that sends as many jobs as it is told, of a difficulty, and says when it sent each."""

    async def serve(folder: Path) -> None:
        node = QuicNode(Chain(Pow.POSEIDON2, HARD, 3600.0), folder)
        await node.start()
        fingerprint = (node.folder / "miner-tls-cert-sha256").read_text()
        pipe.send((node.port, node.token, fingerprint))
        while (order := await asyncio.to_thread(pipe.recv)) is not None:
            jobs, interval, difficulty = order
            sent = {}
            for _ in range(jobs):
                node.chain.difficulty = difficulty
                node.chain.propose()
                sent[node.chain.proposal.mining_hash().hex()] = time.monotonic()
                node._renew()  # noqa: SLF001 - renew_job would make the header after the clock
                await asyncio.sleep(interval)
            pipe.send(json.dumps(sent))
        await node.stop()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(Path(folder)))


async def run(workers: int, jobs: int, rounds: int, seconds: float) -> None:
    """All of it."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=node_process, args=(theirs,), daemon=True)
    process.start()
    port, token, fingerprint = await asyncio.to_thread(ours.recv)
    engine = TimedEngine(workers)
    miner = Miner([engine], chunk_s=2.0)
    miner.start()
    link = TimedLink("127.0.0.1", port, token, parse_fingerprint(fingerprint))
    link.sent = {}
    live = LiveSource(MinerSearcher(miner), [link], priority=1)
    task = asyncio.create_task(live.run())

    async def order(count: int, interval: float, difficulty: int) -> dict[str, float]:
        ours.send((count, interval, difficulty))
        sent: dict[str, float] = json.loads(await asyncio.to_thread(ours.recv))
        return sent

    await come_to("the first job", lambda: live.stats()[0].jobs)

    bare, through = [], []
    for _ in range(rounds):
        await order(1, 0.2, HARD)
        began, before = time.perf_counter(), miner.stats().hashes
        await asyncio.sleep(seconds)
        through.append((miner.stats().hashes - before) / (time.perf_counter() - began))
        # Paused, so that the bare kernel has the machine to itself.
        assert live._mined is not None  # noqa: SLF001
        live._mined.search.cancel()  # noqa: SLF001
        result = await asyncio.to_thread(
            measure,
            CpuEngine("cpu-fast", workers, fast_kernels(None)),
            Pow.POSEIDON2,
            seconds,
            lambda _elapsed, _rate: None,
        )
        bare.append(result.hash_rate)
    ratios = [a / b for a, b in zip(through, bare, strict=True)]
    print(f"hashing through the live source / bare kernel median {statistics.median(ratios):.4f}   ", end="")
    print(f"({', '.join(f'{ratio:.4f}' for ratio in ratios)}; bare {statistics.median(bare) / 1e3:.0f} kH/s)")

    sent = await order(jobs, JOB_INTERVAL_S, HARD)
    switch = [
        1000 * (max(begun.values()) - sent[header.hex()])
        for header, begun in engine.begun.items()
        if header.hex() in sent and len(begun) == workers
    ]
    show(f"NewJob sent to all {workers} workers on it, {len(switch)} of {jobs} jobs", switch)

    link.sent.clear()
    engine.hit.clear()
    await order(jobs, JOB_INTERVAL_S, 30_000)
    ways = [1000 * (moment - engine.hit[nonce]) for nonce, moment in link.sent.items()]
    show(f"hit to bytes on the wire, {len(ways)} hits", ways)
    stats = live.stats()[0]
    print(f"{stats.jobs} jobs, {stats.sent} solutions sent, {stats.late} late, {stats.connects} connection(s)")

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    miner.close(10)
    ours.send(None)
    process.join(10)


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    asyncio.run(run(options.workers, options.jobs, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
