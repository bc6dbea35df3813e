"""``quantus-miner dev-node --quic``: a node that speaks the QUIC protocol, for first steps and tests.

It is as strict as real nodes, checks every solution with the reference, retargets like the HTTP development node, and
misbehaves on request.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from quantus_miner.dev import node_files
from quantus_miner.dev.chain import REBUILD_BLOCK_TIMES, Tally, block_line
from quantus_miner.dev.miner_process import (
    ignore_stop_signals,
    on_stop_signal,
    start_miner,
    stop_miner,
    temporary_folder,
)
from quantus_miner.errors import MinerError
from quantus_miner.wire import node as proto
from quantus_miner.wire.core import Broken
from quantus_miner.wire.messages import JobResult, NewJob

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from aioquic.quic.connection import QuicConnection

    from quantus_miner.dev.chain import Chain

IDLE_TIMEOUT_S: Final = 60.0
MAX_MINERS: Final = 100
MISBEHAVE_BLOCKS: Final = 3
"""Blocks between two drops, or two frames of garbage."""


class NodeMisbehaviour(StrEnum):
    """A fault that a development node shows on request."""

    DROP = "drop"
    """Drops its miners from time to time."""
    GARBAGE = "garbage"
    """Sends a frame that is not a message from time to time."""
    SLOW_JOB = "slow-job"
    """Waits for a block time before it sends the next job."""
    STALL = "stall"
    """Never sends a job, like a node that is syncing."""
    WRONG_PIN = "wrong-pin"
    """Writes a fingerprint that is not that of its certificate."""


class QuicNode:
    """A node on a UDP port of 127.0.0.1, with its files in ``<base_path>/chains/dev``. It runs on one event loop.

    ``report`` is called with a line of text for each thing that happens. ``alpn`` and ``ready_timeout_s``: for tests.
    """

    def __init__(
        self,
        chain: Chain,
        base_path: Path,
        *,
        misbehaviour: NodeMisbehaviour | None = None,
        report: Callable[[str], None] = lambda _: None,
        alpn: str = proto.ALPN,
        ready_timeout_s: float = proto.READY_TIMEOUT_S,
    ) -> None:
        self.chain = chain
        self.tally = Tally(time.monotonic())
        self.stale = self.failed = 0
        self.misbehaviour = misbehaviour
        self.ready_timeout_s = ready_timeout_s
        self.miners: set[_Miner] = set()
        self.port = 0
        self.folder = base_path / "chains" / "dev"
        self._configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn], idle_timeout=IDLE_TIMEOUT_S)
        self.token = node_files.prepare(self.folder, self._configuration)
        if misbehaviour is NodeMisbehaviour.WRONG_PIN:
            (self.folder / node_files.FINGERPRINT).write_text("00" * 32, encoding="ascii")
        self._report = report
        self._server: QuicServer | None = None
        self._changed = asyncio.Event()
        self._jobs = 0
        self._job: NewJob | None = None
        self._began: float | None = None  # when the first miner got a job for this block
        self._given: NewJob | None = None  # the last job that a miner got
        self._given_before = 0  # jobs that miners got for earlier blocks
        self._next: asyncio.TimerHandle | None = None

    async def start(self, port: int = 0) -> None:
        """Listen. Port 0 picks a free one. Raises MinerError if that fails."""
        try:
            transport, self._server = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: QuicServer(configuration=self._configuration, create_protocol=partial(_Miner, node=self)),
                local_addr=("127.0.0.1", port),
            )
        except OSError as error:
            raise MinerError(f"cannot listen on UDP 127.0.0.1:{port}: {error.strerror}") from None
        self.port = transport.get_extra_info("sockname")[1]
        self._renew()

    async def stop(self) -> None:
        """Close every connection and the port."""
        if self._next is not None:
            self._next.cancel()
        closing = set(self.miners)
        self.drop()
        for miner in closing:
            await miner.wait_closed()
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(0)  # the event loop closes the port in its next turn

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds. It is checked whenever something has happened here."""
        while not condition():
            await self._changed.wait()

    def drop(self) -> None:
        """Close every connection."""
        for miner in tuple(self.miners):
            miner.close(reason_phrase="node is restarting")

    def send(self, data: bytes) -> None:
        """Send bytes, which need not be a message, to every authenticated miner."""
        for miner in tuple(self.miners):
            if miner.authenticated:
                miner.send(data)

    def renew_job(self) -> None:
        """Replace the job with one for a fresh proposal."""
        self.chain.propose()
        self._renew()

    # --- what miners do ---

    def on_authenticated(self, miner: _Miner) -> None:
        """Send the current job to a miner that has just connected."""
        self._report("dev-node: a miner is connected")
        self._send_job(miner)
        self.notify()

    def on_result(self, result: JobResult) -> None:
        """Check a miner's result and append the block if it is a seal."""
        if result.status != "completed":
            self.failed += 1
            self._report(f"dev-node: job {result.job_id[:40]!r} is {result.status}")
        elif self._job is None or result.job_id != self._job.job_id:
            self.stale += 1
        elif not self.chain.seals(result.work or ""):
            self.tally.invalid += 1
            self._report(f"dev-node: INVALID work {result.work!r} for block {self.chain.height + 1}")
        else:
            self._append(result)
        self.notify()

    def notify(self) -> None:
        """Wake those who wait in ``until``."""
        self._changed.set()
        self._changed.clear()

    # --- private ---

    def _append(self, result: JobResult) -> None:
        seconds = time.monotonic() - (self._began if self._began is not None else self.tally.began)
        work, hashes, mining_s = result.work or "", result.hash_count, result.elapsed_time
        # A result tells the hashes of its own job alone.
        unreported = self.tally.given - self._given_before - 1
        self._report(block_line(self.chain, work.lstrip("0"), seconds, hashes, mining_s, unreported))
        self.chain.append(work, seconds)
        self.tally.blocks += 1
        self.tally.count(hashes, mining_s)
        self._began, self._given_before = None, self.tally.given
        if self.misbehaviour is NodeMisbehaviour.SLOW_JOB:
            self._job = None  # results are stale until the next one
            self._schedule(self.chain.block_time)
            return
        self._renew()
        if self.tally.blocks % MISBEHAVE_BLOCKS == 0:
            if self.misbehaviour is NodeMisbehaviour.DROP:
                self.drop()
            elif self.misbehaviour is NodeMisbehaviour.GARBAGE:
                self.send(b"\0\0\0\4junk")

    def _renew(self) -> None:
        self._jobs += 1
        self._job = NewJob(str(self._jobs), self.chain.proposal.mining_hash().hex(), str(self.chain.difficulty))
        for miner in tuple(self.miners):
            if miner.authenticated:
                self._send_job(miner)
        self._schedule(REBUILD_BLOCK_TIMES * self.chain.block_time)
        self.notify()

    def _schedule(self, seconds: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_later(seconds, self.renew_job)

    def _send_job(self, miner: _Miner) -> None:
        if self._job is not None and self.misbehaviour is not NodeMisbehaviour.STALL:
            if self._began is None:
                self._began = time.monotonic()
            if self._given is not self._job:
                self._given = self._job
                self.tally.given += 1
            miner.send_job(self._job)


class _Miner(QuicConnectionProtocol):
    """A miner's connection. Like a real node's, it allows one stream and sends no keep-alives."""

    def __init__(self, quic: QuicConnection, stream_handler: None = None, *, node: QuicNode) -> None:
        super().__init__(quic, stream_handler)
        self._node = node
        self._core: proto.NodeServer | None = None  # until the handshake is done
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def authenticated(self) -> bool:
        return self._core is not None and self._core.is_authenticated

    def send(self, data: bytes) -> None:
        self._quic.send_stream_data(0, data)
        self.transmit()

    def send_job(self, job: NewJob) -> None:
        if self._core is not None:
            self._core.send_job(job)
            self._flush(self._core)

    def close(self, error_code: int = 0, reason_phrase: str = "") -> None:
        self._node.miners.discard(self)
        super().close(error_code, reason_phrase)

    def quic_event_received(self, event: events.QuicEvent) -> None:
        match event:
            case events.HandshakeCompleted() if len(self._node.miners) >= MAX_MINERS:
                self.close(reason_phrase="too many miners")
            case events.HandshakeCompleted():
                self._node.miners.add(self)
                self._core = proto.NodeServer(
                    self._node.token, self._loop.time(), ready_timeout_s=self._node.ready_timeout_s
                )
                self._on_time(self._core)
                self._node.notify()
            case events.ConnectionTerminated():
                if self._deadline is not None:
                    self._deadline.cancel()
                self._node.miners.discard(self)
                self._node.notify()
            case events.StreamDataReceived(stream_id=stream_id, end_stream=end) if stream_id != 0 or end:
                self.close(reason_phrase=proto.PROTOCOL_ERROR)
            case events.StreamDataReceived(data=data) if self._core is not None:
                for happened in self._core.receive(data, self._loop.time()):
                    self._handle(happened)

    def _handle(self, event: proto.NodeSideEvent) -> None:
        match event:
            case proto.Authenticated():
                # A frame after Ready may have ended the connection already.
                if self.authenticated:
                    self._node.on_authenticated(self)
            case proto.ResultReceived(result):
                self._node.on_result(result)
            case proto.Closed(reason):
                self.close(reason_phrase=reason)
            case Broken():
                self.close(reason_phrase=proto.PROTOCOL_ERROR)

    def _on_time(self, core: proto.NodeServer) -> None:
        for event in core.tick(self._loop.time()):
            self._handle(event)
        if core.deadline is not None:
            self._deadline = self._loop.call_at(core.deadline, self._on_time, core)

    def _flush(self, core: proto.NodeServer) -> None:
        for frame in core.data_to_send():
            self.send(frame)


def run(chain: Chain, base_path: Path | None, port: int | None, blocks: int | None, misbehave: str | None) -> int:
    """Run the node until ``blocks`` are found or the user interrupts. Return 1 if any work was invalid, else 0.

    ``base_path``: where the node keeps its files. None: in a temporary folder. ``port``: where to listen. None: on a
    free port, with a miner that is started for this run; its end ends the run.
    """
    misbehaviour = None if misbehave is None else NodeMisbehaviour(misbehave)
    return asyncio.run(_play(chain, base_path or temporary_folder(), port, blocks, misbehaviour))


async def _play(
    chain: Chain, base_path: Path, port: int | None, blocks: int | None, misbehaviour: NodeMisbehaviour | None
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    on_stop_signal(lambda: loop.call_soon_threadsafe(stop.set))
    node = QuicNode(chain, base_path, misbehaviour=misbehaviour, report=partial(print, flush=True))
    await node.start(port or 0)
    miner = None
    try:
        print(
            f"dev-node: block time {chain.block_time:g} s, UDP 127.0.0.1:{node.port}, files in {node.folder}",
            flush=True,
        )
        ends: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        if blocks is not None:
            ends.append(asyncio.create_task(node.until(lambda: node.tally.blocks >= blocks)))
        if port is None:
            miner = await asyncio.to_thread(_start_miner, node)
            ends.append(asyncio.create_task(asyncio.to_thread(miner.wait)))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if miner is not None and miner.poll() is not None and not stop.is_set():
            raise MinerError(f"the miner ended with exit code {miner.returncode}")
    finally:
        ignore_stop_signals()
        if miner is not None:
            stop_miner(miner)
        await node.stop()
        print(f"dev-node: {node.tally.summary(chain)}, {node.stale} stale", flush=True)
    return 1 if node.tally.invalid else 0


def _start_miner(node: QuicNode) -> subprocess.Popen[str]:
    process, _ = start_miner(
        f"--node-addr=127.0.0.1:{node.port}",
        f"--auth-token-file={node.folder / node_files.TOKEN}",
        f"--tls-cert-sha256-file={node.folder / node_files.FINGERPRINT}",
        "--exit-on-refusal",
    )
    return process
