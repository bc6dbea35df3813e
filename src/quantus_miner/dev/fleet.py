"""``quantus-miner dev-fleet``: a node, a hub, rigs and a stratum miner on this machine, for first steps and tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantus_miner.dev import node_files
from quantus_miner.dev.miner_process import (
    LEFT_OUT,
    START_TIMEOUT_S,
    ignore_stop_signals,
    on_stop_signal,
    temporary_folder,
)
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import MinerError
from quantus_miner.host import files
from quantus_miner.hub.roster import Roster

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.dev.chain import Chain

STOP_S: Final = 1.5
"""Seconds that the processes have to end. Then they are killed."""


def say(name: str, line: str) -> None:
    """Print a line of one process."""
    print(f"{name:5} | {line}", flush=True)


class Program:
    """A ``quantus-miner`` without settings from the environment. Its log is printed under ``name``."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self._arguments = (*arguments, "--log=info", "--log-format=text")
        self._process: asyncio.subprocess.Process | None = None
        self._copying: asyncio.Task[None] | None = None

    async def start(self, *texts: str) -> list[str]:
        """Start it. Return what follows each of ``texts`` in its log, once all were there. Raises MinerError."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quantus_miner", *self._arguments),
            env={name: value for name, value in os.environ.items() if not name.startswith("MINER_")},
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,  # a terminal's Ctrl-C reaches only us, and we stop it
        )
        loop = asyncio.get_running_loop()
        awaited = {text: loop.create_future() for text in texts}
        self._copying = asyncio.create_task(self._copy(self._process, awaited))
        done, waiting = await asyncio.wait(awaited.values(), timeout=START_TIMEOUT_S)
        if waiting:
            raise MinerError(f"{self.name} is not ready after {START_TIMEOUT_S:g} s")
        if not all(future.result() for future in done):
            raise MinerError(f"{self.name} ended with exit code {await self._process.wait()} before it was ready")
        return [future.result() for future in awaited.values()]

    async def wait(self) -> str:
        """Return how it ended, once it has."""
        assert self._process is not None  # noqa: S101 - it was started
        return f"{self.name} ended with exit code {await self._process.wait()}"

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def end(self, timeout_s: float) -> None:
        """Wait for its end, and kill it after ``timeout_s`` seconds."""
        if self._process is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._copying is not None:
            await self._copying

    async def _copy(self, process: asyncio.subprocess.Process, awaited: dict[str, asyncio.Future[str]]) -> None:
        """Print its log, and note what is awaited in it. At its end, what did not come is empty."""
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(ValueError):  # a line that is too long
            async for data in process.stderr:
                line = data.decode(errors="replace").rstrip("\n")
                if not LEFT_OUT.search(line):
                    say(self.name, line)
                for text, future in awaited.items():
                    if text in line and not future.done():
                        future.set_result(line.split(text)[1])
        for future in awaited.values():
            if not future.done():
                future.set_result("")


def run(chain: Chain, rigs: int, blocks: int | None) -> int:
    """Run node, hub, ``rigs`` rigs and one stratum miner until ``blocks`` are found or the user interrupts.

    Return 1 if any work was invalid, else 0. Raises MinerError if one of them does not start or ends.
    """
    return asyncio.run(_play(chain, rigs, blocks))


async def _play(chain: Chain, rigs: int, blocks: int | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop_signal(lambda: loop.call_soon_threadsafe(stop.set))
    folder = temporary_folder()
    node = QuicNode(chain, folder, report=lambda line: say("node", line))
    await node.start()
    say("node", f"dev-node: block time {chain.block_time:g} s, UDP 127.0.0.1:{node.port}")
    programs: list[Program] = []
    playing = asyncio.create_task(_play_all(node, folder, rigs, programs))
    ends = [playing, asyncio.create_task(stop.wait())]
    if blocks is not None:
        ends.append(asyncio.create_task(node.until(lambda: node.tally.blocks >= blocks)))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if playing.done() and not stop.is_set():
            raise MinerError(playing.result())
    finally:
        ignore_stop_signals()
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        for program in programs:
            program.terminate()
        await asyncio.gather(*(program.end(STOP_S) for program in programs))
        await node.stop()
        say("node", f"dev-node: {node.tally.summary(chain)}, {node.stale} stale")
    return 1 if node.tally.invalid else 0


async def _play_all(node: QuicNode, folder: Path, rigs: int, programs: list[Program]) -> str:
    """Start all programs, each added to ``programs`` before. Return how the first one ended, when one has.

    Raises MinerError if one does not start.
    """
    roster = Roster(folder / "hub")
    names = [f"rig{number}" for number in range(1, rigs + 1)]
    pin = roster.fingerprint()
    invitations = [roster.invite(name, (), pin) for name in names]
    hub = Program(
        "hub",
        *(
            "hub",
            f"--state-dir={folder / 'hub'}",
            "--port=0",
            "--nats-port=0",
            "--stratum-port=0",
            "--stratum-bind=127.0.0.1",
        ),
        f"--node-addr=127.0.0.1:{node.port}",
        f"--auth-token-file={node.folder / node_files.TOKEN}",
        f"--tls-cert-sha256-file={node.folder / node_files.FINGERPRINT}",
    )
    programs.append(hub)
    stratum, nats = await hub.start("Stratum miners can connect to ", "Rigs can connect to port ")
    servers = (("127.0.0.1", int(nats.split()[0])),)
    # Flags of a process can be seen by all users of the machine.
    urls = [folder / name for name in names]
    for path, invitation in zip(urls, invitations, strict=True):
        files.replace(path, replace(invitation, servers=servers).secret.encode(), 0o600)
    sources = {name: [f"--hub-file={path}"] for name, path in zip(names, urls, strict=True)}
    sources["miner"] = [f"--pool=stratum+tcp://{stratum}", "--wallet=any", "--worker-name=miner"]
    miners = [
        Program(name, "--port=0", "--bind=127.0.0.1", "--workers=1", f"--state-dir={folder / name}-state", *source)
        for name, source in sources.items()
    ]
    programs += miners
    await asyncio.gather(*(miner.start("Server starting on ") for miner in miners))
    ends = [asyncio.create_task(program.wait()) for program in programs]
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in ends:
            task.cancel()
