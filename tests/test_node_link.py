"""The link to a node over real UDP sockets, with the development node at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest
from aioquic.quic.connection import QuicConnectionState

from quantus_miner import pow as reference
from quantus_miner.dev_node import Chain
from quantus_miner.dev_node_quic import FINGERPRINT_FILE, IDENTITY_FILE, TOKEN_FILE, Misbehaviour, QuicNode, _Miner
from quantus_miner.errors import LinkLostError, LinkRefusedError, MinerError
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.proto import messages
from quantus_miner.proto.messages import JobResult, NewJob, parse_fingerprint
from quantus_miner.proto.node import ALPN, NodeState
from quantus_miner.settings import BY_NAME
from quantus_miner.sources import quic
from quantus_miner.sources.node import NodeLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from quantus_miner.sources.link import Verdict

WAIT_S: Final = 20.0
HARD: Final = 2**128


class Ear:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.opened = 0
        self.jobs: asyncio.Queue[LiveJob] = asyncio.Queue()

    def on_open(self) -> None:
        self.opened += 1

    def on_job(self, job: LiveJob) -> None:
        self.jobs.put_nowait(job)

    def on_verdict(self, verdict: Verdict) -> None:
        raise AssertionError("nodes give no verdict")


def run(test: Coroutine[None, None, None]) -> None:
    """An asynchronous test, after which no task, no socket and no timer of a connection is left."""

    async def checked() -> None:
        before = _sockets()
        async with asyncio.timeout(WAIT_S):
            await test
        await asyncio.sleep(0)  # a socket is closed in the turn after
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert _sockets() == before
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert not [timer for timer in timers if not timer.cancelled() and "sources/quic.py" in repr(timer)]

    asyncio.run(checked())


def _sockets() -> set[str]:
    links = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            links.add(str(fd.readlink()))
    return {link for link in links if link.startswith("socket:")}


@asynccontextmanager
async def playing(folder: Path, *, port: int = 0, difficulty: int = 1, **options: Any) -> AsyncIterator[QuicNode]:
    """A node that retargets to blocks of an hour, so that nothing happens by itself."""
    node = QuicNode(Chain(Pow.POSEIDON2, difficulty, 3600.0), folder, **options)
    await node.start(port)
    try:
        yield node
    finally:
        await node.stop()


def link_to(node: QuicNode, **options: Any) -> NodeLink:
    token = options.pop("token", node.token)
    pin = options.pop("pin", parse_fingerprint((node.folder / FINGERPRINT_FILE).read_text()))
    return NodeLink("127.0.0.1", node.port, token, pin, **options)


@asynccontextmanager
async def linked(link: NodeLink) -> AsyncIterator[tuple[Ear, asyncio.Task[NoReturn]]]:
    """A link that runs; whoever wants to see its end awaits the task."""
    ear = Ear()
    task = asyncio.create_task(link.run(ear))
    try:
        yield ear, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def miner_of(node: QuicNode) -> _Miner:
    """The node's end of the one connection, once the node has taken the token."""
    await node.until(lambda: any(miner.authenticated for miner in node.miners))
    (miner,) = node.miners
    return miner


def solve(job: LiveJob) -> Iterator[Solution]:
    """Solutions of an easy job."""
    for nonce in itertools.count(1):
        value = reference.evaluate(Pow.POSEIDON2, job.header, nonce)
        if value <= job.limit:
            yield Solution(nonce, value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes datagrams and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield udp.getsockname()[1]


@pytest.fixture
def dead_port() -> int:
    """A port where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
    return port


# --- mining ---


def test_jobs_come_solutions_go_and_blocks_are_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (ear, _):
                for block in range(1, 4):
                    job = await ear.jobs.get()
                    assert job == LiveJob(str(block), node.chain.proposal.mining_hash(), node.chain.difficulty)
                    assert link.submit(job, next(solve(job)), 7, 0.5)
                    await node.until(lambda: node.tally.blocks == block)  # noqa: B023 - awaited here
                assert ear.opened == 1
            assert (node.chain.height, node.tally.invalid, node.stale) == (3, 0, 0)
            assert (node.tally.hashes, node.tally.mining_s) == (21, 1.5)
            await node.until(lambda: not node.miners)

    run(test())


def test_a_solution_is_at_the_node_s_socket_when_submit_returns(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (ear, _):
                job = await ear.jobs.get()
                solution = next(solve(job))
                assert node._server is not None
                assert node._server._transport is not None
                udp = node._server._transport.get_extra_info("socket").fileno()
                while select.select([udp], [], [], 0)[0]:  # noqa: ASYNC110 - read by the node
                    await asyncio.sleep(0)
                assert link.submit(job, solution, 1, 1.0)
                assert select.select([udp], [], [], WAIT_S)[0]
                await node.until(lambda: node.tally.blocks == 1)

    run(test())


def test_solutions_of_jobs_that_are_over_are_not_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (ear, task):
                first = await ear.jobs.get()
                node.renew_job()
                second = await ear.jobs.get()
                assert (first.id, second.id) == ("1", "2")
                assert not link.submit(first, Solution(1, 1), 1, 1.0)
                node.drop()
                with pytest.raises(LinkLostError):
                    await task
                assert not link.submit(second, Solution(1, 1), 1, 1.0)
            async with linked(link) as (ear, _):
                again = await ear.jobs.get()
                assert again == second
                assert not link.submit(second, Solution(1, 1), 1, 1.0)
                assert link.submit(again, Solution(1, 1), 1, 1.0)
                await node.until(lambda: node.tally.invalid == 1)
            assert node.stale == 0

    run(test())


def test_a_link_outlives_its_node(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            port = node.port
            link = link_to(node)
            async with linked(link) as (ear, task):
                await ear.jobs.get()
                node.renew_job()
                assert (await ear.jobs.get()).id == "2"
                await node.stop()
                with pytest.raises(LinkLostError, match=r"^closed: node is restarting \(code 0\)$"):
                    await task
            with pytest.raises(LinkLostError, match=r"^nobody listens there$"):
                await link.run(Ear())
        async with playing(tmp_path, port=port, difficulty=HARD), linked(link) as (ear, _):
            assert (await ear.jobs.get()).id == "1"

    run(test())


def test_an_invalid_job_is_answered_as_failed_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (ear, _):
                job = await ear.jobs.get()
                miner = await miner_of(node)
                for number in range(1, 4):
                    miner.send_job(NewJob(f"bad{number}\n", "ab" * 32, "0"))
                    await node.until(lambda: node.failed == number)  # noqa: B023 - awaited here
                assert not link.submit(job, Solution(1, 1), 1, 1.0)
                node.renew_job()
                assert (await ear.jobs.get()).id == "2"

    run(test())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        r"invalid job 'bad1\n', answered as failed: difficulty must be a decimal number from 1 to 2^512 - 1"
    ]


def test_a_link_waits_for_the_first_job_and_is_kept_by_pings(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            playing(tmp_path, misbehaviour=Misbehaviour.STALL) as node,
            linked(link_to(node, ping_s=0.05, idle_s=0.3)) as (ear, task),
        ):
            miner = await miner_of(node)
            pings = asyncio.Semaphore(0)
            receive = miner.datagram_received

            def counted(data: bytes | str, addr: Any) -> None:
                pings.release()
                receive(data, addr)

            miner.datagram_received = counted  # type: ignore[method-assign]
            for _ in range(12):  # twice the idle time
                await pings.acquire()
            assert not task.done()
            assert ear.jobs.empty()
            node.misbehaviour = None
            node.renew_job()
            await ear.jobs.get()

    run(test())


# --- refusals, which are permanent ---


def test_another_certificate_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, misbehaviour=Misbehaviour.WRONG_PIN) as node:
            seen: set[_Miner] = set()

            def look() -> bool:
                seen.update(node.miners)
                return bool(seen)

            watch = asyncio.create_task(node.until(look))
            ear = Ear()
            with pytest.raises(LinkRefusedError, match=f"not the pinned one: .*pinned is {'00' * 32}$"):
                await link_to(node).run(ear)
            await watch
            await node.until(lambda: not node.miners)
            (miner,) = seen
            assert miner._core.state is NodeState.UNKNOWN
            assert 0 not in miner._quic._streams
            assert ear.opened == 0

    run(test())


def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            with pytest.raises(LinkRefusedError, match="does not take our token: auth failed"):
                await link_to(node, token="wrong").run(Ear())  # noqa: S106 - a wrong one

    run(test())


def test_a_node_of_another_version_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, alpn="quantus-miner") as node:
            with pytest.raises(LinkRefusedError, match="does not speak quantus-miner/2: wrong node version"):
                await link_to(node).run(Ear())

    run(test())


def test_the_same_words_from_the_transport_are_no_refusal(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, linked(link_to(node)) as (ear, task):
            await ear.jobs.get()
            miner = await miner_of(node)
            miner._quic.close(error_code=1, frame_type=0, reason_phrase="auth failed")
            miner.transmit()
            with pytest.raises(LinkLostError, match=r"closed: auth failed \(code 1\)"):
                await task

    run(test())


def test_without_a_pin_any_certificate_is_taken_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node, pin=None, kind="pool")
            for _ in range(2):
                async with linked(link) as (ear, _):
                    await ear.jobs.get()

    run(test())
    assert len(re.findall(r"certificate of pool quic://127\.0\.0\.1:\d+ is not checked", caplog.text)) == 1


# --- losses, which are not ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\4junk", "a frame that is not valid JSON"),
        (b"\xff\xff\xff\xff", "a frame of 4,294,967,295 bytes; 1,024 are allowed"),
        (messages.encode(messages.Ready("x")), "a Ready, which only miners send"),
    ],
)
def test_garbage_ends_the_connection(tmp_path: Path, data: bytes, reason: str) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            async with linked(link_to(node)) as (ear, task):
                await ear.jobs.get()
                node.send(data)
                with pytest.raises(LinkLostError, match=f"^protocol error: {reason}$"):
                    await task
            await node.until(lambda: not node.miners)

    run(test())


def test_the_stream_must_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)

            async def lost(reason: str, *, stream: int = 0, end: bool = False, reset: bool = False) -> None:
                async with linked(link) as (ear, task):
                    await ear.jobs.get()
                    miner = await miner_of(node)
                    if reset:
                        miner._quic.reset_stream(stream, 7)
                    else:
                        miner._quic.send_stream_data(stream, b"" if end else b"x", end_stream=end)
                    miner.transmit()
                    with pytest.raises(LinkLostError, match=reason):
                        await task
                await node.until(lambda: not node.miners)

            await lost("the peer finished the stream", end=True)
            await lost(r"the peer reset the stream \(code 7\)", reset=True)
            await lost("only one stream", stream=1)
            await lost("only one stream", stream=3)

    run(test())


def test_a_close_is_known_at_once_and_in_the_peer_s_words(tmp_path: Path) -> None:
    """Guards a private attribute of aioquic, whose event comes only after a draining period."""

    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (ear, task):
                job = await ear.jobs.get()
                assert link._session is not None
                connection = link._session.connection
                (await miner_of(node)).close(error_code=7, reason_phrase="a\nb\x1b" + "c" * 200)
                with pytest.raises(quic.EndedError):
                    await connection.ended
                assert connection._quic._state is QuicConnectionState.DRAINING
                assert not link.submit(job, Solution(1, 1), 1, 1.0)
                with pytest.raises(LinkLostError, match=rf"^closed: a\?b\?{'c' * 96} \(code 7\)$"):
                    await task

    run(test())


def test_a_silent_node_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, linked(link_to(node, ping_s=0.05, idle_s=0.2)) as (ear, task):
            await ear.jobs.get()
            miner = await miner_of(node)
            miner.datagram_received = lambda *_: None  # type: ignore[method-assign]
            with pytest.raises(LinkLostError, match=r"closed: Idle timeout"):
                await task

    run(test())


def test_a_node_that_acknowledges_nothing_is_given_up(tmp_path: Path) -> None:
    """Guards a private attribute of aioquic: what waits for the peer is bounded."""

    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (ear, task):
                job = await ear.jobs.get()
                miner = await miner_of(node)
                miner.datagram_received = lambda *_: None  # type: ignore[method-assign]
                sent = 0
                while link.submit(job, Solution(1, 1), 1, 1.0):
                    sent += len(messages.encode(JobResult("completed", job.id, "1", f"{1:0128x}", 1, 1.0)))
                assert quic.MAX_UNACKNOWLEDGED - 2000 < sent <= quic.MAX_UNACKNOWLEDGED
                with pytest.raises(LinkLostError, match="the peer does not take what it is sent"):
                    await task

    run(test())


def test_what_aioquic_cannot_cope_with_is_a_loss(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (ear, task):
                await ear.jobs.get()
                assert link._session is not None

                def fails(*_: object, **__: object) -> None:
                    raise AssertionError("inside")

                link._session.connection._quic.receive_datagram = fails  # type: ignore[method-assign]
                node.renew_job()
                with pytest.raises(LinkLostError, match=r"cannot be read \(AssertionError\)"):
                    await task

    run(test())


def test_a_dead_port_is_known_at_once(dead_port: int) -> None:
    async def test() -> None:
        with pytest.raises(LinkLostError, match=r"^nobody listens there$"):
            await NodeLink("127.0.0.1", dead_port, "x", bytes(32), handshake_s=2 * WAIT_S).run(Ear())

    run(test())


def test_a_port_that_never_answers_is_a_time_out(silent_port: int) -> None:
    async def test() -> None:
        link = NodeLink("127.0.0.1", silent_port, "x", bytes(32), handshake_s=0.05)
        with pytest.raises(LinkLostError, match=r"^no answer in 0\.05 s$"):
            await link.run(Ear())
        assert not link.submit(LiveJob("1", bytes(32), 1), Solution(1, 1), 1, 1.0)

    run(test())


def test_a_link_that_is_cancelled_while_it_dials_leaves_nothing(silent_port: int) -> None:
    async def test() -> None:
        async with linked(NodeLink("127.0.0.1", silent_port, "x", bytes(32))) as (_, task):
            sockets = _sockets()
            while _sockets() == sockets:  # noqa: ASYNC110 - a socket has no event
                await asyncio.sleep(0)
            assert not task.done()

    run(test())


def test_noise_on_the_socket_is_ignored(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node, linked(link_to(node)) as (ear, task):
            await ear.jobs.get()
            miner = await miner_of(node)
            address = miner._quic.get_peer_address()
            assert miner._transport is not None
            for noise in (b"", b"x", bytes(1200), b"\xc0" + bytes(1199), os.urandom(1200)):
                miner._transport.sendto(noise, address)
            node.renew_job()
            await ear.jobs.get()
            assert not task.done()

    run(test())


# --- names and addresses ---


def look_up(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    infos = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)


def test_every_address_of_a_name_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_port: int, silent_port: int
) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node, handshake_s=0.5)
            look_up(
                monkeypatch,
                ("255.255.255.255", 1),
                ("127.0.0.1", dead_port),
                ("127.0.0.1", silent_port),
                ("127.0.0.1", node.port),
            )
            async with linked(link) as (ear, _):
                await ear.jobs.get()
            look_up(monkeypatch, ("255.255.255.255", 1))
            with pytest.raises(LinkLostError, match=r"^cannot connect: "):
                await link.run(Ear())

    run(test())


def test_an_address_that_refuses_us_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_port: int
) -> None:
    async def test() -> None:
        async with playing(tmp_path, alpn="quantus-miner") as node:
            link = link_to(node)
            look_up(monkeypatch, ("127.0.0.1", node.port), ("127.0.0.1", dead_port))
            with pytest.raises(LinkRefusedError, match="wrong node version"):
                await link.run(Ear())

    run(test())


def test_localhost_is_found_in_whatever_family(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            pin = parse_fingerprint((node.folder / FINGERPRINT_FILE).read_text())
            async with linked(NodeLink("localhost", node.port, node.token, pin)) as (ear, _):
                await ear.jobs.get()

    run(test())


def test_a_name_without_address_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def test() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", fails)
        with pytest.raises(LinkLostError, match=r"^cannot resolve nowhere\.invalid: Name or service not known$"):
            await NodeLink("nowhere.invalid", 1, "x", bytes(32)).run(Ear())

    run(test())


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..b", "\udc80"])
def test_a_name_that_is_none_is_a_loss(host: str) -> None:
    async def test() -> None:
        with pytest.raises(LinkLostError, match=r"^cannot resolve "):
            await NodeLink(host, 1, "x", bytes(32)).run(Ear())

    run(test())


def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    async def test() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait() and [])
        with pytest.raises(LinkLostError, match=r"^no answer in 0\.05 s$"):
            await NodeLink("slow.invalid", 1, "x", bytes(32), handshake_s=0.05).run(Ear())

    run(test())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "resolver")
    release.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_names_are_fit_for_logs() -> None:
    assert NodeLink("127.0.0.1", 9833, "t", None).name == "node 127.0.0.1:9833"
    assert NodeLink("::1", 9833, "t", None).name == "node [::1]:9833"
    assert NodeLink("pool.example", 1, "t", None, kind="pool").name == "pool quic://pool.example:1"


# --- the development node is as strict as real ones ---


@asynccontextmanager
async def connected(node: QuicNode) -> AsyncIterator[quic.Connection]:
    """A bare connection."""
    connection = quic.Connection(alpn=ALPN, server_name="localhost", idle_s=15.0, receive=lambda _: None)
    await connection.open(socket.AF_INET, ("127.0.0.1", node.port))
    try:
        yield connection
    finally:
        connection.close()


def test_the_fingerprint_is_that_of_the_node_s_certificate(tmp_path: Path) -> None:
    """Guards a private attribute of aioquic."""

    async def test() -> None:
        async with playing(tmp_path) as node, connected(node) as connection:
            assert connection.fingerprint.hex() == (node.folder / FINGERPRINT_FILE).read_text().strip()

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
                    [(node.folder / name).read_bytes() for name in (TOKEN_FILE, IDENTITY_FILE, FINGERPRINT_FILE)]
                )
        assert contents[0] == contents[1]
        assert len(contents[0][0].strip()) == 64
        for name in (TOKEN_FILE, IDENTITY_FILE):
            assert (node.folder / name).stat().st_mode & 0o777 == 0o600

    run(test())


def test_a_proposal_that_nobody_seals_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            node.chain.block_time = 0.01
            async with linked(link_to(node)) as (ear, _):
                node.renew_job()
                headers = {(await ear.jobs.get()).header for _ in range(4)}
                assert len(headers) >= 3

    run(test())


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.DROP, Misbehaviour.GARBAGE, Misbehaviour.SLOW_JOB])
def test_a_node_misbehaves_on_request(tmp_path: Path, misbehaviour: Misbehaviour) -> None:
    async def test() -> None:
        async with playing(tmp_path, misbehaviour=misbehaviour) as node:
            link = link_to(node)
            node.chain.block_time = 0.2 if misbehaviour is Misbehaviour.SLOW_JOB else 3600.0
            async with linked(link) as (ear, task):
                for _ in range(3):
                    job = await ear.jobs.get()
                    solutions = solve(job)
                    assert link.submit(job, next(solutions), 1, 1.0)
                if misbehaviour is Misbehaviour.SLOW_JOB:
                    assert link.submit(job, next(solutions), 1, 1.0)
                    await node.until(lambda: node.stale == 1)
                    assert (await ear.jobs.get()).id == "4"
                else:
                    words = "node is restarting" if misbehaviour is Misbehaviour.DROP else "not valid JSON"
                    with pytest.raises(LinkLostError, match=words):
                        await task
            assert node.tally.blocks == 3

    run(test())


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, silent_port: int) -> None:
    async def test() -> None:
        with pytest.raises(MinerError, match=f"^cannot listen on UDP 127.0.0.1:{silent_port}: Address already in use$"):
            async with playing(tmp_path, port=silent_port):
                raise AssertionError

    run(test())


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
        pin = parse_fingerprint((folder / FINGERPRINT_FILE).read_text())
        link = NodeLink("127.0.0.1", int(first[1]), (folder / TOKEN_FILE).read_text().strip(), pin)
        async with linked(link) as (ear, task):
            while not task.done():
                next_job = asyncio.create_task(ear.jobs.get())
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


@pytest.mark.skipif("node_addr" not in BY_NAME, reason="the service has no live source yet")
def test_the_command_starts_a_miner_of_its_own() -> None:
    args = ("--blocks=5", "--block-time=0.05", "--difficulty=500")
    ended = subprocess.run(command(*args), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("block ")][:5] == list("12345")
    assert re.search(r"dev-node: \d+ blocks in .*, 0 invalid, \d+ stale$", ended.stdout)
    assert "Stopped: " in ended.stderr


@pytest.mark.skipif("node_addr" not in BY_NAME, reason="the service has no live source yet")
def test_the_command_s_own_miner_refuses_a_wrong_fingerprint() -> None:
    ended = subprocess.run(command("--misbehave=wrong-pin"), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "not the pinned one" in ended.stderr
    assert re.search(r"^quantus-miner: the miner ended with exit code 3", ended.stderr, re.MULTILINE)
