"""Connections to a node that are lost, and those that only seem to be."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aioquic.quic.connection import QuicConnectionState

from quantus_miner.errors import LinkLostError
from quantus_miner.model import LiveJob, Solution
from quantus_miner.sources import node as node_source
from quantus_miner.sources import quic
from quantus_miner.sources.link import Handover
from quantus_miner.sources.node import NodeLink
from quantus_miner.wire import messages
from quantus_miner.wire.messages import NewJob

from .node_link import HARD, WAIT_S, NodeListener, link_to, linked, miner_of, playing, run, sockets

if TYPE_CHECKING:
    from pathlib import Path


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
            async with linked(link_to(node)) as (listener, task):
                await listener.jobs.get()
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
                async with linked(link) as (listener, task):
                    await listener.jobs.get()
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
            async with linked(link) as (listener, task):
                job = await listener.jobs.get()
                assert link._session is not None
                connection = link._session.connection
                (await miner_of(node)).close(error_code=7, reason_phrase="a\nb\x1b" + "c" * 200)
                with pytest.raises(quic.EndedError):
                    await connection.ended
                assert connection._quic._state is QuicConnectionState.DRAINING
                assert link.submit(job, Solution(1, 1), 1, 1.0) is Handover.LATE
                with pytest.raises(LinkLostError, match=rf"^closed: a\\nb\\x1b{'c' * 92} \(code 7\)$"):
                    await task

    run(test())


def test_a_silent_node_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, linked(link_to(node, ping_s=0.05, idle_s=0.2)) as (listener, task):
            await listener.jobs.get()
            miner = await miner_of(node)
            miner.datagram_received = lambda *_: None  # type: ignore[method-assign]
            with pytest.raises(LinkLostError, match=r"closed: Idle timeout"):
                await task

    run(test())


def test_what_waits_for_a_pool_that_acknowledges_nothing_is_bounded_and_late(tmp_path: Path) -> None:
    """Guards a private attribute of aioquic: what was sent and not acknowledged."""

    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node, idle_s=1.0, kind="pool")
            async with linked(link) as (listener, task):
                job = await listener.jobs.get()
                miner = await miner_of(node)
                miner.datagram_received = lambda *_: None  # type: ignore[method-assign]
                given = Counter(link.submit(job, Solution(number, 1), 1, 1.0) for number in range(1, 401))
                assert 1 <= given[Handover.SENT] <= quic.MAX_IN_FLIGHT // 200
                assert given[Handover.WAITS] == node_source.MAX_WAITING
                assert given[Handover.LATE] == 400 - node_source.MAX_WAITING - given[Handover.SENT]
                assert listener.handovers == []
                with pytest.raises(LinkLostError, match="Idle timeout"):
                    await task
            # What never went out is not taken for sent.
            assert [handover for *_, handover in listener.handovers] == [Handover.LATE] * node_source.MAX_WAITING

    run(test())


def test_what_aioquic_cannot_cope_with_is_a_loss(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (listener, task):
                await listener.jobs.get()
                assert link._session is not None

                def fails(*_: object, **__: object) -> None:
                    raise AssertionError("inside")

                link._session.connection._quic.receive_datagram = fails  # type: ignore[method-assign]
                node.renew_job()
                with pytest.raises(LinkLostError, match=r"cannot be handled \(AssertionError\)"):
                    await task

    run(test())


def test_a_peer_that_wants_no_answer_gets_none(tmp_path: Path) -> None:
    """A job to be answered and the wish for no more data, in one datagram: aioquic refuses to write then."""

    async def test() -> None:
        async with playing(tmp_path) as node, linked(link_to(node)) as (listener, task):
            await listener.jobs.get()
            miner = await miner_of(node)
            miner._quic.send_stream_data(0, messages.encode(NewJob("bad", "", "")))
            miner._quic.stop_stream(0, 7)
            miner.transmit()
            with pytest.raises(LinkLostError, match=r"cannot be handled|stopped the stream \(code 7\)"):
                await task

    run(test())


def test_a_dead_port_is_known_at_once(dead_port: int) -> None:
    async def test() -> None:
        with pytest.raises(LinkLostError, match=r"^nothing is listening there$"):
            await NodeLink("127.0.0.1", dead_port, "x", bytes(32), handshake_s=2 * WAIT_S).run(NodeListener())

    run(test())


def test_a_port_that_never_answers_is_a_time_out(silent_port: int) -> None:
    async def test() -> None:
        link = NodeLink("127.0.0.1", silent_port, "x", bytes(32), handshake_s=0.05)
        with pytest.raises(LinkLostError, match=r"^no answer in 0\.05 s$"):
            await link.run(NodeListener())
        assert link.submit(LiveJob("1", bytes(32), 1), Solution(1, 1), 1, 1.0) is Handover.LATE

    run(test())


def test_a_link_that_is_cancelled_while_it_dials_leaves_nothing(silent_port: int) -> None:
    async def test() -> None:
        async with linked(NodeLink("127.0.0.1", silent_port, "x", bytes(32))) as (_, task):
            before = sockets()
            while sockets() == before:  # noqa: ASYNC110 - a socket has no event
                await asyncio.sleep(0)
            assert not task.done()

    run(test())


def test_noise_on_the_socket_is_ignored(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node, linked(link_to(node)) as (listener, task):
            await listener.jobs.get()
            miner = await miner_of(node)
            address = miner._quic.get_peer_address()
            assert miner._transport is not None
            for noise in (b"", b"x", bytes(1200), b"\xc0" + bytes(1199), os.urandom(1200)):
                miner._transport.sendto(noise, address)
            node.renew_job()
            await listener.jobs.get()
            assert not task.done()

    run(test())
