"""A hub with thousands of simulated rigs and stratum miners, as real processes: what it takes, and how fast it is.

    python -m benchmarks.fleet [--rigs 1000 10000] [--miners 1000] [--seconds 20]

The node runs in this process, the hub with its NATS server and the simulations in others, all on the same CPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.process import BenchmarkProcess, children, cpu_s, environment, resident_mb
from quantus_miner.dev import node_files
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.hub.roster import RIGS, Roster, new_key
from quantus_miner.model import Pow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from quantus_miner.wire.messages import JobResult

PROCESSES: Final = 2
"""Processes of simulated rigs."""
JOBS: Final = 20
RIGS_PER_S: Final = 5_000
"""Rigs for each second between two jobs."""
HARD: Final = 2**100
"""A difficulty that is met by none of the simulated miners."""
SHARE_S: Final = 5
SHARES: Final = 40
"""Shares that each miner sends at once."""
SOLVING: Final = 64
"""Rigs that send solutions, the next one when the last one is answered."""


class Node(QuicNode):
    """A node whose job stays, whatever solves it. ``results``: how many came."""

    results = 0

    def on_result(self, result: JobResult) -> None:  # noqa: ARG002 - it is not looked at
        """Count it."""
        self.results += 1

    async def give(self, difficulty: int) -> tuple[str, float]:
        """Send a new job; its header, and when it was sent."""
        self.chain.difficulty = difficulty
        at = time.monotonic()
        self.renew_job()
        return self.chain.proposal.mining_hash().hex(), at


@dataclass(slots=True)
class Simulation:
    """A process of simulated rigs or miners."""

    process: asyncio.subprocess.Process

    async def ask(self, request: str) -> dict[str, Any]:
        """Its reply to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(request.encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            sys.exit("benchmark: a simulation has ended")
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextlib.asynccontextmanager
async def simulations(module: str, *arguments: Iterable[object]) -> AsyncIterator[list[Simulation]]:
    """One process of ``module`` for each list of arguments."""
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"benchmarks.{module}", *map(str, each),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment(), limit=1 << 26,
        )
        for each in arguments
    ]  # fmt: skip
    try:
        yield [Simulation(process) for process in started]
    finally:
        for process in started:
            process.kill()
            await process.wait()


async def ask_all(each: list[Simulation], request: str) -> list[dict[str, Any]]:
    """The replies of all processes."""
    return await asyncio.gather(*(simulation.ask(request) for simulation in each))


def total(replies: list[dict[str, Any]], name: str) -> int:
    """The sum of one figure."""
    return sum(reply[name] for reply in replies)


def percentiles(values: list[float]) -> str:
    """``p50, p99, last`` in milliseconds."""
    ordered = sorted(values) or [float("nan")]
    picked = (ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1])
    return "p50 {:5.0f} ms, p99 {:5.0f} ms, last {:5.0f} ms".format(*(1000 * value for value in picked))


class Hub:
    """A hub process for ``node`` with ``count`` invited rigs. ``seeds``: the file with their keys."""

    def __init__(self, node: Node, folder: Path, count: int) -> None:
        state = folder / f"hub-{count}"
        self.roster = Roster(state)
        self.certificate = self.roster.certificate()
        keys = {f"rig{number}": new_key() for number in range(count)}
        self.seeds = folder / f"seeds-{count}.json"
        self.seeds.write_text(json.dumps(keys))
        (self.roster.folder / RIGS).write_text(json.dumps({name: key for name, (_, key) in keys.items()}))
        self.running = BenchmarkProcess(
            "hub", "--port=0", "--log=info,miner.hub=warn", f"--state-dir={state}",
            f"--node-addr=127.0.0.1:{node.port}",
            f"--auth-token-file={node.folder / node_files.TOKEN}",
            f"--tls-cert-sha256-file={node.folder / node_files.FINGERPRINT}",
            "--nats-port=0", "--stratum-port=0", "--stratum-difficulty=1", f"--stratum-share-time={SHARE_S}",
        )  # fmt: skip
        self.pid = self.running.process.pid
        self.nats_port = int(self.running.wait_for(r"Rigs can connect to port (\d+)"))
        self.stratum_port = int(self.running.wait_for(r"Stratum miners can connect to \S+:(\d+)"))
        self.running.wait_for("(Connected to node)")

    @property
    def nats_pid(self) -> int:
        """The NATS server's process."""
        return children(self.pid)[0]

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds that hub and NATS have used."""
        return cpu_s(self.pid), cpu_s(self.nats_pid)

    def usage(self) -> str:
        """Memory of the hub and of NATS."""
        return f"hub {resident_mb(self.pid):.0f} MB, NATS {resident_mb(self.nats_pid):.0f} MB"


async def arrivals(node: Node, each: list[Simulation], count: int, jobs: int) -> list[float]:
    """Seconds from the node's frame to each of ``count`` simulated ones, for all of ``jobs`` jobs."""
    times: list[float] = []
    for _ in range(jobs):
        header, at = await node.give(HARD)
        seen: list[float] = []
        end = time.monotonic() + 30
        await asyncio.sleep(count / RIGS_PER_S)
        while len(seen) < count and time.monotonic() < end:
            seen = [when - at for reply in await ask_all(each, f"arrivals {header}") for when in reply["arrivals"]]
            await asyncio.sleep(0.2)
        if len(seen) < count:
            print(f"  a job came to {len(seen)} of {count} within 30 s")
        times += seen
    return times


async def all_here(each: list[Simulation], count: int, what: str) -> list[dict[str, Any]]:
    """Wait until all are connected; their replies."""
    replies: list[dict[str, Any]] = []
    end = time.monotonic() + 120
    while not replies or total(replies, "here") < count:
        if time.monotonic() > end:
            sys.exit(f"benchmark: {what}: {total(replies, 'here')} of {count} are here after 120 s")
        await asyncio.sleep(0.1)
        replies = await ask_all(each, "look")
    return replies


async def with_rigs(node: Node, folder: Path, count: int, jobs: int, seconds: float) -> None:
    """Measure a hub with ``count`` rigs."""
    print(f"{count:,} rigs")
    hub = await asyncio.to_thread(Hub, node, folder, count)
    share = -(-count // PROCESSES)
    parts = [(hub.nats_port, hub.certificate, hub.seeds, share * part, share) for part in range(PROCESSES)]
    try:
        async with simulations("fleet_rigs", *parts) as each:
            print(f"  before: {hub.usage()}")
            began, before = time.monotonic(), hub.cpu_s()
            await ask_all(each, "connect")
            await all_here(each, count, "connecting")
            took = ", ".join(f"{after - first:.1f}" for first, after in zip(before, hub.cpu_s(), strict=True))
            print(f"  all connected after {time.monotonic() - began:.1f} s; CPU seconds of hub, NATS: {took}")
            print(f"  job from the node's frame: {percentiles(await arrivals(node, each, count, jobs))}")
            await show_load(hub, seconds)
            await show_solutions(node, each, seconds)
            await show_recovery(hub, each, count)
    finally:
        hub.running.kill()


async def show_load(hub: Hub, seconds: float) -> None:
    """Print what hub and NATS use while all rigs report."""
    before, began = hub.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - began
    used = [100 * (after - first) / elapsed for first, after in zip(before, hub.cpu_s(), strict=True)]
    print(f"  all report every 5 s: hub {used[0]:.0f} % of a CPU, NATS {used[1]:.0f} %; {hub.usage()}")


async def show_solutions(node: Node, each: list[Simulation], seconds: float) -> None:
    """Print how many solutions a second the hub takes and puts on its disk."""
    await node.give(1)
    await asyncio.sleep(1)
    before, began = node.results, time.monotonic()
    await each[0].ask(f"solve {SOLVING}")
    await asyncio.sleep(seconds)
    reply = await each[0].ask("rest")
    elapsed = time.monotonic() - began
    print(
        f"  solutions of {SOLVING} rigs: {reply['kept'] / elapsed:.0f} a second kept on the disk, "
        f"{reply['others']} not; {node.results - before} sent to the node"
    )
    await node.give(HARD)


async def show_recovery(hub: Hub, each: list[Simulation], count: int) -> None:
    """Print when the rigs are back after NATS was killed."""
    lost = total(await ask_all(each, "forget"), "lost")
    before = cpu_s(hub.pid)
    killed = time.monotonic()
    os.kill(hub.nats_pid, signal.SIGKILL)
    # Each rig notices the end first.
    while total(await ask_all(each, "look"), "lost") < lost + count:  # noqa: ASYNC110 - each of them notices
        await asyncio.sleep(0.02)
    tries = total(await all_here(each, count, "coming back"), "lost") - lost
    back = [when - killed for reply in await ask_all(each, "welcomes") for when in reply["welcomes"]]
    print(
        f"  NATS killed, rigs back: {percentiles(back)}; {tries / count - 1:.1f} failed attempts a rig, "
        f"CPU seconds of hub, NATS: {cpu_s(hub.pid) - before:.1f}, {cpu_s(hub.nats_pid):.1f}"
    )


async def with_miners(node: Node, folder: Path, count: int, jobs: int, seconds: float) -> None:
    """Measure a hub with ``count`` stratum miners."""
    print(f"{count:,} stratum miners")
    hub = await asyncio.to_thread(Hub, node, folder, 0)
    try:
        async with simulations("fleet_miners", (hub.stratum_port,)) as each:
            (crowd,) = each
            began = time.monotonic()
            await crowd.ask(f"connect flood {count}")
            await all_here(each, count, "connecting")
            print(f"  all connected after {time.monotonic() - began:.1f} s; {hub.usage()}")
            print(f"  job from the node's frame: {percentiles(await arrivals(node, each, count, jobs))}")
            await crowd.ask(f"prepare {SHARES}")
            began = time.monotonic()
            reply = await crowd.ask("flood")
            while reply["accepted"] + sum(reply["refused"].values()) < SHARES * count:
                await asyncio.sleep(0.02)
                reply = await crowd.ask("look")
            elapsed = time.monotonic() - began
            print(
                f"  {SHARES} shares of each at once: {SHARES * count / elapsed:,.0f} a second, "
                f"{reply['accepted']:,} accepted, refused: {reply['refused'] or 'none'}"
            )
            await crowd.ask("leave")
            await crowd.ask(f"connect mine {count}")
            await all_here(each, count, "connecting")
            await show_convergence(crowd, hub, count, 2 * seconds)
    finally:
        hub.running.kill()


async def show_convergence(crowd: Simulation, hub: Hub, count: int, seconds: float) -> None:
    """Print how many miners have a difficulty at which a share comes every 5 s, give or take a factor of two."""
    before, cpu, began = await crowd.ask("mine"), cpu_s(hub.pid), time.monotonic()
    near = []
    for after in (seconds / 4, seconds / 2, seconds):
        await asyncio.sleep(began + after - time.monotonic())
        ratios = [ratio / SHARE_S for ratio in (await crowd.ask("difficulties"))["ratios"]]
        near.append(f"{100 * sum(0.5 <= ratio <= 2 for ratio in ratios) / count:.0f} % after {after:g} s")
    reply = await crowd.ask("look")
    passed = time.monotonic() - began
    print(f"  within a factor of 2 of their difficulty, 1 at first: {', '.join(near)}")
    shares, refused = reply["accepted"] - before["accepted"], reply["refused"] or "none"
    used = 100 * (cpu_s(hub.pid) - cpu) / passed
    print(f"  {shares:,} shares in {passed:.0f} s, refused: {refused}; hub {used:.0f} % of a CPU, {hub.usage()}")


async def _main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        node = Node(Chain(Pow.POSEIDON2, HARD, 3600.0), folder)
        await node.start()
        try:
            for count in options.rigs:
                await with_rigs(node, folder, count, options.jobs, options.seconds)
            if options.miners:
                await with_miners(node, folder, options.miners, options.jobs, options.seconds)
        finally:
            await node.stop()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rigs", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--miners", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_main(options))


if __name__ == "__main__":
    main()
