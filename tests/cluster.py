"""NATS servers with JetStream, and hubs that share them, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from quantus_miner.dev import node_files
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.host.notify import Notifier
from quantus_miner.hub import nats_server
from quantus_miner.hub.cluster import ClusterLease, prepare
from quantus_miner.hub.roster import KEY, Roster
from quantus_miner.hub_service import _connect
from quantus_miner.model import Pow
from quantus_miner.parts.cluster import Cluster
from quantus_miner.parts.door import StratumDoor
from quantus_miner.parts.live import Live
from quantus_miner.parts.supervisor import Supervisor
from quantus_miner.parts.upkeep import StateFolder
from quantus_miner.settings import load
from quantus_miner.sources import nats

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from quantus_miner.pow.block import Header
    from quantus_miner.settings import Settings
    from quantus_miner.wire.messages import JobResult


class JetStreamServer:
    """A ``nats-server`` of an operator, with what ``hub nats-config`` prints for the hub with this roster.

    ``more``: further lines of its configuration. ``port``: 0 before the first start, then always the same one.
    """

    def __init__(self, folder: Path, roster: Roster, *, more: str = "", port: int = 0) -> None:
        self.folder = folder
        self.roster = roster
        self.more = more
        self.port = port
        self.process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def configure(self) -> None:
        """Write its configuration, which it reads at its start and after SIGHUP."""
        pem = json.dumps(str(self.roster.certificate()))
        text = nats_server.cluster_config(self.roster.hub_key()[1], self.roster.load())
        (self.folder / "quantus.conf").write_text(text)
        (self.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port or -1}"\nports_file_dir: {json.dumps(str(self.folder))}\n'
            f"tls {{ cert_file: {pem}, key_file: {pem} }}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.folder / 'store'))} }}\n"
            f"include quantus.conf\n{self.more}\n"
        )

    async def start(self) -> None:
        """Return once it accepts connections."""
        self.configure()
        self.process = await asyncio.create_subprocess_exec(
            nats_server.find_program(),
            "--config",
            str(self.folder / "nats.conf"),
            stderr=asyncio.subprocess.DEVNULL,
            preexec_fn=partial(nats_server.end_with_parent, os.getpid()),
        )
        ports = self.folder / f"{nats_server.PROGRAM}_{self.process.pid}.ports"
        async with asyncio.timeout(20):
            while not (port := nats_server.read_port(ports)):
                assert self.process.returncode is None
                await asyncio.sleep(0.01)
        self.port = port

    def reload(self) -> None:
        """Have it read its configuration again."""
        self.configure()
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    async def kill(self) -> None:
        """As SIGKILL does."""
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


class SteadyChain(Chain):
    """A chain that keeps its difficulty, and whose proposal only a block replaces."""

    def __init__(self, difficulty: int) -> None:
        super().__init__(Pow.POSEIDON2, difficulty, block_time=3600.0)
        self._steady = difficulty

    def propose(self) -> Header:
        """Make a proposal."""
        self.difficulty = getattr(self, "_steady", self.difficulty)
        return super().propose()


class RecordingNode(QuicNode):
    """A development node that remembers each result: the header that it was for, and the nonce."""

    def __init__(self, folder: Path, difficulty: int = 20) -> None:
        super().__init__(SteadyChain(difficulty), folder)
        self.results: list[tuple[str, str]] = []

    def on_result(self, result: JobResult) -> None:
        self.results.append((self.chain.proposal.mining_hash().hex(), result.work or ""))
        super().on_result(result)


def settings_for(node: QuicNode, state: Path, url: str, **more: str) -> Settings:
    """The settings of a hub on NATS servers."""
    flags = {
        "node_addr": f"127.0.0.1:{node.port}",
        "auth_token_file": str(node.folder / node_files.TOKEN),
        "tls_cert_sha256_file": str(node.folder / node_files.FINGERPRINT),
        "state_dir": str(state),
        "nats": url,
    }
    return load(flags | more, {}, None, command="hub")


def url_of(roster: Roster, *servers: JetStreamServer) -> str:
    """What ``hub --nats`` gets."""
    places = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"tls://{places}?pin={roster.fingerprint().hex()}"


def share_key(roster: Roster, state: Path) -> None:
    """Give the hub with ``state`` the key of another one."""
    roster.hub_key()
    (state / "hub").mkdir(parents=True, exist_ok=True)
    shutil.copy(roster.folder / KEY, state / "hub" / KEY)


class ClusterHub:
    """A hub on NATS servers, in this process."""

    def __init__(self, settings: Settings) -> None:
        self.components = components = _connect(settings)
        parts = [part(components) for part in (StateFolder, Live, StratumDoor, Cluster)]
        self.supervisor = Supervisor(parts, settings, lambda: settings, Notifier({}))
        self.task = asyncio.create_task(self.supervisor.run())

    @property
    def leads(self) -> bool:
        """Whether it has work, which only the leader takes."""
        return self.components.hub.work is not None

    def crash(self) -> None:
        """Stop without giving the lease up."""
        for supervised in self.supervisor._parts:
            if supervised.task is not None:
                supervised.task.cancel()

    async def stop(self) -> None:
        """Stop in order."""
        await self.supervisor.stop()
        await asyncio.gather(self.task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class Place(contextlib.AsyncExitStack):
    """A node, a NATS server, and a roster with its certificate and keys, in ``folder``."""

    def __init__(self, folder: Path, **server: Any) -> None:
        super().__init__()
        self.folder = folder
        self.roster = Roster(folder / "hub1")
        self.node = RecordingNode(folder)
        self.server = JetStreamServer(folder / "nats", self.roster, **server)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.node.start()
        self.push_async_callback(self.node.stop)
        self.push_async_callback(self.server.kill)
        await self.server.start()
        client = await self.client()
        # As if a hub had led before, so that the first one need not wait.
        await ClusterLease(await prepare(client)).write("", 0)
        await nats.close(client)
        return self

    async def client(
        self, seed: str | None = None, inbox: str = "_INBOX.+hub", errors: list[str] | None = None
    ) -> Client:
        """Return a client of the server, as the hub unless it has another key. ``errors``: what the server says."""

        async def on_error(error: Exception) -> None:
            if errors is not None:
                errors.append(str(error))

        async def on_end() -> None:
            pass

        pem = self.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
        key = seed or self.roster.hub_key()[0]
        async with asyncio.timeout(60):
            while True:
                # A server that was just told to reads its file again by itself.
                with contextlib.suppress(Exception):
                    if errors is not None:
                        errors.clear()  # of an attempt that came too early
                    server = ("127.0.0.1", self.server.port)
                    return await nats.connect(
                        server, nats.trusting(pem), seed=key, inbox=inbox, on_error=on_error, on_end=on_end
                    )

    async def hub(self, name: str = "hub1", settings: Settings | None = None) -> ClusterHub:
        """Start a hub, which has the same key as the others, or these ``settings``."""
        if name != "hub1":
            share_key(self.roster, self.folder / name)
        if settings is None:
            settings = settings_for(self.node, self.folder / name, url_of(self.roster, self.server))
        return await self.enter_async_context(ClusterHub(settings))
