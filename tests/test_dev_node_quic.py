"""The development node of the QUIC era, and its command."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quantus_miner.dev import node_files, quic_node
from quantus_miner.dev.quic_node import NodeMisbehaviour, QuicNode
from quantus_miner.errors import LinkLostError, MinerError
from quantus_miner.host.certificate import self_signed
from quantus_miner.model import LiveJob
from quantus_miner.sources import quic
from quantus_miner.sources.link import Handover
from quantus_miner.sources.node import NodeLink
from quantus_miner.wire import messages
from quantus_miner.wire.messages import JobResult, parse_fingerprint
from quantus_miner.wire.node import ALPN

from .node_link import HARD, WAIT_S, link_to, linked, playing, run, solve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


# --- as strict as real ones ---


@asynccontextmanager
async def connected(node: QuicNode) -> AsyncIterator[quic.Connection]:
    """A bare connection."""
    connection = quic.Connection(
        alpn=ALPN, server_name="localhost", idle_s=15.0, receive=lambda _: None, on_room=lambda: None
    )
    await connection.open(socket.AF_INET, ("127.0.0.1", node.port))
    try:
        yield connection
    finally:
        connection.close()


def test_the_fingerprint_is_that_of_the_node_s_certificate(tmp_path: Path) -> None:
    """Guards a private attribute of aioquic."""

    async def test() -> None:
        async with playing(tmp_path) as node, connected(node) as connection:
            assert connection.fingerprint.hex() == (node.folder / node_files.FINGERPRINT).read_text().strip()

    run(test())


def test_a_node_waits_for_ready_so_long(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, ready_timeout_s=0.05) as node, connected(node) as connection:
            with pytest.raises(quic.EndedError) as ended:
                await connection.ended
            assert (ended.value.code, ended.value.reason, ended.value.by_application) == (0, "auth timeout", True)

    run(test())


@pytest.mark.parametrize(
    ("stream", "data", "end"), [(4, b"x", False), (2, b"x", False), (0, b"", True), (0, b"\xff" * 4, False)]
)
def test_a_node_closes_on_whatever_is_not_one_endless_stream(
    tmp_path: Path, stream: int, data: bytes, end: bool
) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, connected(node) as connection:
            connection._quic.send_stream_data(stream, data, end_stream=end)
            connection.ping()
            with pytest.raises(quic.EndedError) as ended:
                await connection.ended
            assert (ended.value.code, ended.value.reason) == (0, "protocol error")

    run(test())


def test_a_token_with_garbage_right_after_it_ends_the_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, connected(node) as connection:
            connection.write(messages.encode(messages.Ready(node.token)) + b"\xff" * 4)
            with pytest.raises(quic.EndedError) as ended:
                await connection.ended
            assert (ended.value.code, ended.value.reason) == (0, "protocol error")
            assert not node.miners

    run(test())


def test_a_node_takes_so_many_miners_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic_node, "MAX_MINERS", 1)

    async def test() -> None:
        async with playing(tmp_path) as node, connected(node):
            await node.until(lambda: len(node.miners) == 1)
            async with connected(node) as another:
                with pytest.raises(quic.EndedError) as ended:
                    await another.ended
                assert ended.value.reason == "too many miners"

    run(test())


def _more_blocks(node: QuicNode, before: int) -> bool:
    return node.tally.blocks > before


def test_hashes_are_those_that_are_reported_and_what_is_not_is_named(tmp_path: Path) -> None:
    """A result tells the hashes of its own job alone: those of the jobs before it, for the same block, are unknown."""

    async def test() -> None:
        lines: list[str] = []
        async with playing(tmp_path, report=lines.append) as node, connected(node) as connection:
            connection.write(messages.encode(messages.Ready(node.token)))
            await node.until(lambda: any(miner.authenticated for miner in node.miners))
            node.renew_job()
            node.renew_job()
            for number, hashes, elapsed in ((3, 1000, 2.0), (4, 500, 0.5)):
                blocks = node.tally.blocks
                job = LiveJob(str(number), node.chain.proposal.mining_hash(), node.chain.difficulty)
                work = f"{next(solve(job)).nonce:0128x}"
                connection.write(messages.encode(JobResult("completed", job.id, "1", work, hashes, elapsed)))
                await node.until(partial(_more_blocks, node, blocks))
            summary = node.tally.summary(node.chain)
        first, second = [line for line in lines if line.startswith("block ")]
        assert re.search(r" 1,000 hashes +500 H/s  \(and those of 2 replaced jobs\)$", first)
        assert re.search(r" 500 hashes +1\.00 kH/s$", second)
        assert ", 1,500 hashes at 600 H/s reported of 2 of 5 jobs, " in summary

    run(test())


def test_results_are_counted_as_what_they_are(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, connected(node) as connection:
            connection.write(messages.encode(messages.Ready(node.token)))
            job = LiveJob("1", node.chain.proposal.mining_hash(), node.chain.difficulty)
            work = f"{next(solve(job)).nonce:0128x}"
            for result in (
                JobResult("completed", "1", None, None, 0, 0.0),
                JobResult("completed", "1", "0", "0" * 128, 0, 0.0),
                JobResult("completed", "0", "1", work, 0, 0.0),
                JobResult("cancelled", "1", None, None, 0, 0.0),
                JobResult("completed", "1", "1", work, 5, 0.0),
                JobResult("completed", "1", "1", work, 5, 0.0),
            ):
                connection.write(messages.encode(result))
            await node.until(lambda: node.stale == 2)
            assert (node.tally.blocks, node.tally.invalid, node.failed, node.tally.hashes) == (1, 2, 1, 5)

    run(test())


def test_the_node_s_files_are_kept_and_secret(tmp_path: Path) -> None:
    async def test() -> None:
        contents = []
        for _ in range(2):
            async with playing(tmp_path) as node:
                contents.append(
                    [
                        (node.folder / name).read_bytes()
                        for name in (node_files.TOKEN, node_files.IDENTITY, node_files.FINGERPRINT)
                    ]
                )
        assert contents[0] == contents[1]
        assert len(contents[0][0].strip()) == 64
        for name in (node_files.TOKEN, node_files.IDENTITY):
            assert (node.folder / name).stat().st_mode & 0o777 == 0o600

    run(test())


def test_a_proposal_that_nobody_seals_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            node.chain.block_time = 0.01
            async with linked(link_to(node)) as (listener, _):
                node.renew_job()
                headers = {(await listener.jobs.get()).header for _ in range(4)}
                assert len(headers) >= 3

    run(test())


@pytest.mark.parametrize("misbehaviour", [NodeMisbehaviour.DROP, NodeMisbehaviour.GARBAGE, NodeMisbehaviour.SLOW_JOB])
def test_a_node_misbehaves_on_request(tmp_path: Path, misbehaviour: NodeMisbehaviour) -> None:
    async def test() -> None:
        async with playing(tmp_path, misbehaviour=misbehaviour) as node:
            link = link_to(node, kind="pool")  # a node gets one solution, and the stale one would be a second
            node.chain.block_time = 0.2 if misbehaviour is NodeMisbehaviour.SLOW_JOB else 3600.0
            async with linked(link) as (listener, task):
                for _ in range(3):
                    job = await listener.jobs.get()
                    solutions = solve(job)
                    assert link.submit(job, next(solutions), 1, 1.0) is Handover.SENT
                if misbehaviour is NodeMisbehaviour.SLOW_JOB:
                    assert link.submit(job, next(solutions), 1, 1.0) is Handover.SENT
                    await node.until(lambda: node.stale == 1)
                    assert (await listener.jobs.get()).id == "4"
                else:
                    words = "node is restarting" if misbehaviour is NodeMisbehaviour.DROP else "not valid JSON"
                    with pytest.raises(LinkLostError, match=words):
                        await task
            assert node.tally.blocks == 3

    run(test())


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            with pytest.raises(MinerError, match=f"^cannot listen on UDP .*:{node.port}: Address already in use$"):
                await QuicNode(node.chain, tmp_path).start(node.port)

    run(test())


CERTIFICATE, BEGIN, KEY = self_signed().pem.partition(b"-----BEGIN PRIVATE")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (node_files.TOKEN, b"\xff", "is not a token; allowed: "),
        (node_files.TOKEN, b"", "is not a token; allowed: 1 to 512 bytes"),
        (node_files.IDENTITY, b"", "does not hold a certificate and its private key"),
        (node_files.IDENTITY, b"-----BEGIN PRIVATE KEY-----\n", "does not hold"),
        (node_files.IDENTITY, CERTIFICATE, "does not hold"),
        (node_files.IDENTITY, self_signed().pem.partition(BEGIN)[0] + BEGIN + KEY, "does not hold"),
        (node_files.IDENTITY, CERTIFICATE[:40] + b"A" * 20 + CERTIFICATE[60:] + BEGIN + KEY, "does not hold"),
    ],
)
def test_a_file_of_no_use_is_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MinerError, match=f"^--base-path: .*{says}"):
        node_files.prepare(tmp_path, QuicConfiguration(is_client=False))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MinerError, match=r"^--base-path: .*/file/dev: Not a directory$"):
        node_files.prepare(tmp_path / "file" / "dev", QuicConfiguration(is_client=False))


# --- the command ---


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "quantus_miner", "dev-node", "--quic", *args]


def test_the_command_serves_a_miner_of_yours(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--listen=0", f"--base-path={tmp_path}", "--blocks=3", "--difficulty=1", "--block-time=5"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = re.match(r"dev-node: block time 5 s, UDP 127\.0\.0\.1:(\d+), files in (.+)$", process.stdout.readline())
    assert first is not None
    assert first[2] == str(tmp_path / "chains" / "dev")
    folder = tmp_path / "chains" / "dev"

    async def test() -> None:
        pin = parse_fingerprint((folder / node_files.FINGERPRINT).read_text())
        link = NodeLink("127.0.0.1", int(first[1]), (folder / node_files.TOKEN).read_text().strip(), pin)
        async with linked(link) as (listener, task):
            while not task.done():
                next_job = asyncio.create_task(listener.jobs.get())
                await asyncio.wait((next_job, task), return_when=asyncio.FIRST_COMPLETED)
                if next_job.done():
                    job = next_job.result()
                    link.submit(job, next(solve(job)), 1, 0.1)
                next_job.cancel()

    run(test())
    lines = process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait(WAIT_S) == 0
    assert [line.split()[1] for line in lines if line.startswith("block ")][:3] == list("123")
    assert re.fullmatch(r"dev-node: \d blocks in .*, 0 invalid, \d stale", lines[-1])


def test_the_command_ends_on_a_signal(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--listen=0", f"--base-path={tmp_path}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "0 blocks in " in out
    assert err == ""


@pytest.mark.parametrize(
    "args",
    [("--miner", "http://127.0.0.1:1"), ("--pow", "qpow-sha3"), ("--misbehave", "nicely"), ("--listen", "x")],
)
def test_the_command_refuses_what_does_not_go_together(args: tuple[str, ...]) -> None:
    ended = subprocess.run(command(*args), capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_the_command_starts_a_miner_of_its_own() -> None:
    args = ("--blocks=5", "--block-time=0.05", "--difficulty=500")
    ended = subprocess.run(command(*args), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("block ")][:5] == list("12345")
    assert re.search(r"dev-node: \d+ blocks in .*, 0 invalid, \d+ stale$", ended.stdout)
    assert "Stopped: " in ended.stderr


def test_the_command_s_own_miner_refuses_a_wrong_fingerprint() -> None:
    ended = subprocess.run(command("--misbehave=wrong-pin"), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "not the pinned one" in ended.stderr
    assert re.search(r"^quantus-miner: the miner ended with exit code 3", ended.stderr, re.MULTILINE)
