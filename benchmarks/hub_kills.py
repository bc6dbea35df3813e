"""Kills hubs and their NATS server with SIGKILL at random moments, and compares what rigs found with what a node got.

    python -m benchmarks.hub_kills [--kills 200] [--mode embedded|cluster|three]

Rigs use the real link and a disk of their own, and find one solution for each header of a development node, which
records all results. Half of the kills come within milliseconds of a solution. In the mode ``embedded``, one hub runs a
NATS server, and is started again after each kill. In the mode ``cluster``, two hubs share a NATS server with
JetStream, and one of them leads. In the mode ``three``, they share a cluster of three servers. A solution is lost if
the node, still at its header, does not get it within a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.cluster import JetStreamServer, RecordingNode, share_key, url_of

from benchmarks.process import come_to, environment
from quantus_miner import pow as reference
from quantus_miner.dev import node_files
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.hub.roster import Roster
from quantus_miner.model import Pow, Solution
from quantus_miner.sources.hub import HubLink
from quantus_miner.store.writer import Store
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob
    from quantus_miner.sources.link import Handover

RIGS: Final = 3
LOST_S: Final = 60.0
SLOW_S: Final = 10.0
STATUS: Final = fleet.StatusMessage("bench", 1.0, 1.0, 1, 1, 1)


class Rig:
    """A rig with the real link, which the benchmark has find solutions. Implements Listener."""

    def __init__(self, url: fleet.HubUrl, state: Path) -> None:
        self._store = Store(state, history_days=1)
        self._store.begin()
        self.link = HubLink(url, self._store, lambda: STATUS)
        self.job: LiveJob | None = None
        self.lost = 0

    async def run(self) -> None:
        """Keep the link, as the live source does."""
        try:
            while True:
                with contextlib.suppress(LinkLostError, LinkRefusedError):
                    await self.link.run(self)
                self.job, self.lost = None, self.lost + 1
                await asyncio.sleep(0.5)
        finally:
            self._store.close(5.0)

    def on_open(self) -> None:
        """See ``Listener``."""

    def on_alive(self) -> None:
        """See ``Listener``."""

    def on_job(self, job: LiveJob) -> None:
        """See ``Listener``."""
        self.job = job

    def on_no_job(self) -> None:
        """See ``Listener``."""
        self.job = None

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """See ``Listener``."""

    def on_verdict(self, verdict: object) -> None:
        """See ``Listener``."""


class Hub:
    """A hub's process."""

    def __init__(self, node: RecordingNode, state: Path, *flags: str) -> None:
        self.tracebacks = 0
        self._command = (
            *(
                sys.executable,
                "-m",
                "quantus_miner",
                "hub",
                "--port=0",
                f"--state-dir={state}",
                "--log=info,miner.live=warn",
            ),
            f"--node-addr=127.0.0.1:{node.port}",
            f"--auth-token-file={node.folder / node_files.TOKEN}",
            f"--tls-cert-sha256-file={node.folder / node_files.FINGERPRINT}",
            *flags,
        )
        self.log: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.tracebacks += any("Traceback" in line for line in self.log)
        self.log = []
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, env=environment())
        threading.Thread(target=self._read, args=(self.process, self.log), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], log: list[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            log.extend(process.stderr)

    @property
    def leads(self) -> bool:
        """Whether its log says that it leads, or need not say so."""
        said = [line for line in self.log if "This hub leads" in line or "no longer leads" in line]
        return bool(said) and "This hub leads" in said[-1]

    @property
    def ready(self) -> bool:
        """Whether its log says that it leads or stands by."""
        return any("This hub leads" in line or "this one stands by" in line for line in self.log)

    def check(self) -> None:
        """End the benchmark if it has ended by itself."""
        if self.process.poll() is not None:
            sys.exit(f"benchmark: a hub has ended with exit code {self.process.returncode}:\n{''.join(self.log[-20:])}")

    def kill(self) -> None:
        """As SIGKILL does."""
        self.check()
        self.process.kill()
        self.process.wait()

    def child(self) -> int:
        """The process id of its NATS server."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return int(text.split()[0])


class Run:
    """One mode, from its start to the figures."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.mode = mode
        self.node = RecordingNode(folder, difficulty=3)
        self.folder = folder
        self.roster = Roster(folder / "hub0")
        self.servers = servers_of(folder, self.roster, {"embedded": 0, "cluster": 1, "three": 3}[mode])
        self.hubs: list[Hub] = []
        self.rigs: list[Rig] = []
        self.found: dict[str, tuple[float, str]] = {}  # by header: when, and the nonce
        self.rng = random.Random(1)  # noqa: S311 - not for secrets
        self.armed = asyncio.Event()

    async def begin(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all."""
        await self.node.start()
        stack.push_async_callback(self.node.stop)
        if self.servers:
            ports = await self._begin_cluster(stack)
        else:
            self.hubs = [Hub(self.node, self.folder / "hub0", "--nats-port=0")]
            found: list[int] = []

            def look() -> bool:
                found[:] = [int(match[1]) for line in self.hubs[0].log if (match := re.search(r"port (\d+) of", line))]
                return bool(found)

            await come_to("the hub's port", look)
            ports = found
            self.hubs[0].kill()
            self.hubs = [Hub(self.node, self.folder / "hub0", f"--nats-port={ports[0]}")]
        for hub in self.hubs:
            stack.callback(hub.kill)
        servers, pin = tuple(("127.0.0.1", port) for port in ports), self.roster.fingerprint()
        urls = [self.roster.invite(f"rig{number}", servers, pin) for number in range(RIGS)]
        for server in self.servers:
            server.reload()
        self.rigs = [Rig(url, self.folder / url.name) for url in urls]
        tasks = [asyncio.create_task(rig.run()) for rig in self.rigs] + [asyncio.create_task(self.find())]
        stack.push_async_callback(_ended, tasks)
        for task in tasks:
            stack.callback(task.cancel)
        await come_to("the first block", lambda: self.node.tally.blocks > 3)

    async def _begin_cluster(self, stack: contextlib.AsyncExitStack) -> list[int]:
        self.roster.hub_key()
        share_key(self.roster, self.folder / "hub1")
        for server in self.servers:
            stack.push_async_callback(server.kill)
            await server.start()
        url = url_of(self.roster, *self.servers)
        self.hubs = [Hub(self.node, self.folder / f"hub{number}", f"--nats={url}") for number in range(2)]
        return [server.port for server in self.servers]

    async def find(self) -> None:
        """Have one rig find one solution for each header that the rigs get."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, 0.2))
            rig = self.rng.choice(self.rigs)
            job = rig.job
            if job is None or job.header.hex() in self.found:
                continue
            nonce = self.rng.getrandbits(512)
            while (value := reference.evaluate(Pow.POSEIDON2, job.header, nonce)) > job.target:
                nonce += 1
            self.found[job.header.hex()] = time.monotonic(), f"{nonce:0128x}"
            rig.link.submit(job, Solution(nonce, value), 1, 1.0)
            self.armed.set()

    async def kill(self) -> tuple[str, float]:
        """Kill something at a random moment, and start it again. Return what it was, and when."""
        if self.servers:
            await self.until_ready()
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        else:
            self.armed.clear()
            await self.armed.wait()
            await asyncio.sleep(self.rng.uniform(0.0, 0.02))
        began = time.monotonic()
        if self.rng.random() < 0.3:
            if self.servers:
                server = self.rng.choice(self.servers)
                await server.kill()
                await server.start()
            else:
                os.kill(self.hubs[0].child(), 9)
            return "NATS", began
        hub = next((hub for hub in self.hubs if hub.leads), self.hubs[0])
        hub.kill()
        hub.start()
        return "hub", began

    async def until_ready(self) -> None:
        """Wait until a hub leads and the other one stands by."""
        end = time.monotonic() + LOST_S
        while not all(hub.ready for hub in self.hubs) and time.monotonic() < end:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.05)
        if time.monotonic() >= end:
            print("  no standby:", *self.said(), sep="\n    ", flush=True)
            for hub in self.hubs:
                hub.check()

    async def recovered(self, began: float) -> float:
        """Return the seconds from ``began`` to the next block whose solution was found after that."""

        def is_new() -> bool:
            return bool(self.node.results) and self.found.get(self.node.results[-1][0], (0.0,))[0] > began

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOST_S):
                await self.node.until(is_new)
        return time.monotonic() - began

    def said(self) -> list[str]:
        """Return the last lines of the hubs."""
        return [line.rstrip() for hub in self.hubs for line in hub.log[-8:]]

    def lost(self) -> list[str]:
        """Return the headers whose solutions the node did not get."""
        got = {header for header, _ in self.node.results}
        current = self.node.chain.proposal.mining_hash().hex()
        return [header for header in self.found if header not in got and header != current]

    def duplicates(self) -> int:
        """Return how many results the node got again."""
        return sum(count - 1 for count in Counter(self.node.results).values())


def servers_of(folder: Path, roster: Roster, count: int) -> list[JetStreamServer]:
    """Return NATS servers of one cluster, if there are several."""
    if count < 2:
        return [JetStreamServer(folder / "nats", roster)][:count]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return [
        JetStreamServer(
            folder / f"nats{port}",
            roster,
            more=f'server_name: n{port}\ncluster {{ name: q, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for port in ports
    ]


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def play(mode: str, kills: int) -> bool:
    """Print the figures of one mode. Return True if nothing was lost or repeated."""
    began = time.monotonic()
    took: dict[str, list[float]] = {"hub": [], "NATS": []}
    stuck = 0
    with tempfile.TemporaryDirectory() as name:
        async with contextlib.AsyncExitStack() as stack:
            run = Run(Path(name), mode)
            await run.begin(stack)
            lost_before = sum(rig.lost for rig in run.rigs)
            for number in range(kills):
                what, killed = await run.kill()
                seconds = await run.recovered(killed)
                took[what].append(seconds)
                if seconds >= SLOW_S:
                    print(f"  {seconds:.1f} s after a kill of the {what}:", *run.said(), sep="\n    ", flush=True)
                if seconds >= LOST_S:
                    stuck += 1
                    run.node.renew_job()
                if number % 25 == 24:
                    print(f"  {number + 1} kills, {time.monotonic() - began:.0f} s", flush=True)
            tracebacks = sum(hub.tracebacks for hub in run.hubs)
            lost, duplicates, found = len(run.lost()) + stuck, run.duplicates(), len(run.found)
            left = sum(rig.lost for rig in run.rigs) - lost_before
    load = f"{os.getloadavg()[0]:.0f} of {os.cpu_count()} processors"
    print(f"{mode}, load at the end {load}: {kills} kills, {found} solutions found, ", end="")
    print(f"{lost} lost, {duplicates} sent twice, ", end="")
    print(f"rigs lost the hub {left} times, {tracebacks} tracebacks")
    for what, figures in took.items():
        if len(figures) > 1:
            cuts = statistics.quantiles(figures, n=100)
            text = f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s, longest {max(figures):.2f} s"
            print(f"  kill of the {what} to the next block, {len(figures)} times: {text}")
    return not (lost or duplicates or tracebacks)


def main() -> None:
    """Run the modes and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mode", choices=("embedded", "cluster", "three"), action="append")
    options = parser.parse_args()
    good = [asyncio.run(play(mode, options.kills)) for mode in options.mode or ("embedded", "cluster", "three")]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
