"""The link to a node over real UDP sockets, with the development node at the other end."""

from __future__ import annotations

import asyncio
import re
import select
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aioquic.quic import events

from quantus_miner.dev import node_files
from quantus_miner.dev.quic_node import NodeMisbehaviour, _Miner
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.model import LiveJob, Solution
from quantus_miner.sources import node as node_source
from quantus_miner.sources import quic
from quantus_miner.sources.link import Handover
from quantus_miner.wire import messages
from quantus_miner.wire.frames import FrameReader
from quantus_miner.wire.messages import JobResult, NewJob
from quantus_miner.wire.node import NodeState

from .node_link import HARD, WAIT_S, NodeListener, link_to, linked, miner_of, playing, run, solve

if TYPE_CHECKING:
    from pathlib import Path

# --- mining ---


def test_jobs_come_solutions_go_and_blocks_are_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (listener, _):
                for block in range(1, 4):
                    job = await listener.jobs.get()
                    assert job == LiveJob(str(block), node.chain.proposal.mining_hash(), node.chain.difficulty)
                    assert link.submit(job, next(solve(job)), 7, 0.5) is Handover.SENT
                    await node.until(lambda: node.tally.blocks == block)  # noqa: B023 - awaited here
                assert listener.opened == 1
            assert (node.chain.height, node.tally.invalid, node.stale) == (3, 0, 0)
            assert (node.tally.hashes, node.tally.mining_s) == (21, 1.5)
            await node.until(lambda: not node.miners)

    run(test())


def test_a_solution_is_at_the_node_s_socket_when_submit_returns(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node)
            async with linked(link) as (listener, _):
                job = await listener.jobs.get()
                solution = next(solve(job))
                assert node._server is not None
                assert node._server._transport is not None
                udp = node._server._transport.get_extra_info("socket").fileno()
                while select.select([udp], [], [], 0)[0]:  # noqa: ASYNC110 - read by the node
                    await asyncio.sleep(0)
                assert link.submit(job, solution, 1, 1.0) is Handover.SENT
                assert select.select([udp], [], [], WAIT_S)[0]
                await node.until(lambda: node.tally.blocks == 1)

    run(test())


def test_solutions_of_jobs_that_are_over_are_not_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (listener, task):
                first = await listener.jobs.get()
                node.renew_job()
                second = await listener.jobs.get()
                assert (first.id, second.id) == ("1", "2")
                assert link.submit(first, Solution(1, 1), 1, 1.0) is Handover.LATE
                node.drop()
                with pytest.raises(LinkLostError):
                    await task
                assert link.submit(second, Solution(1, 1), 1, 1.0) is Handover.LATE
            async with linked(link) as (listener, _):
                again = await listener.jobs.get()
                assert again == second
                assert link.submit(second, Solution(1, 1), 1, 1.0) is Handover.LATE
                assert link.submit(again, Solution(1, 1), 1, 1.0) is Handover.SENT
                await node.until(lambda: node.tally.invalid == 1)
            assert node.stale == 0

    run(test())


def test_a_link_outlives_its_node(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            port = node.port
            link = link_to(node)
            async with linked(link) as (listener, task):
                await listener.jobs.get()
                node.renew_job()
                assert (await listener.jobs.get()).id == "2"
                await node.stop()
                with pytest.raises(LinkLostError, match=r"^closed: node is restarting \(code 0\)$"):
                    await task
            with pytest.raises(LinkLostError, match=r"^nothing is listening there$"):
                await link.run(NodeListener())
        async with playing(tmp_path, port=port, difficulty=HARD), linked(link) as (listener, _):
            assert (await listener.jobs.get()).id == "1"

    run(test())


def test_an_invalid_job_is_answered_as_failed_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (listener, _):
                job = await listener.jobs.get()
                miner = await miner_of(node)
                for number in range(1, 4):
                    miner.send_job(NewJob(f"bad{number}\n", "ab" * 32, "0"))
                    await node.until(lambda: node.failed == number)  # noqa: B023 - awaited here
                assert link.submit(job, Solution(1, 1), 1, 1.0) is Handover.LATE
                assert listener.withdrawn == 3
                node.renew_job()
                assert (await listener.jobs.get()).id == "2"

    run(test())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    sender, _, reason = warning.partition(" sent an ")
    assert sender.startswith("node 127.0.0.1:")
    assert reason == (
        r"invalid job 'bad1\n', answered as failed: difficulty must be a decimal number from 1 to 2^512 - 1"
    )


def test_a_link_waits_for_the_first_job_and_is_kept_by_pings(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            playing(tmp_path, misbehaviour=NodeMisbehaviour.STALL) as node,
            linked(link_to(node, ping_s=0.05, idle_s=0.3)) as (listener, task),
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
            assert listener.jobs.empty()
            node.misbehaviour = None
            node.renew_job()
            await listener.jobs.get()

    run(test())


# --- refusals ---


def test_data_before_the_certificate_is_checked_ends_the_connection_and_the_token_stays_here(tmp_path: Path) -> None:
    """QUIC does not let a node speak first on our stream; the token must not depend on that."""

    async def test() -> None:
        async with playing(tmp_path) as node:
            session = await link_to(node)._dial(NodeListener())
            await node.until(lambda: bool(node.miners))
            (miner,) = node.miners
            session._receive(messages.encode(NewJob("1", "ab" * 32, "0")))
            with pytest.raises(quic.EndedError, match=r"^protocol error: data before our first message$"):
                await session.connection.ended
            await node.until(lambda: not node.miners)
            assert 0 not in miner._quic._streams

    run(test())


def test_another_certificate_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, misbehaviour=NodeMisbehaviour.WRONG_PIN) as node:
            seen: set[_Miner] = set()

            def look() -> bool:
                seen.update(node.miners)
                return bool(seen)

            watch = asyncio.create_task(node.until(look))
            listener = NodeListener()
            with pytest.raises(LinkRefusedError, match=f"not the pinned one: .*pinned is {'00' * 32}$"):
                await link_to(node).run(listener)
            await watch
            await node.until(lambda: not node.miners)
            (miner,) = seen
            assert miner._core is not None
            assert miner._core.state is NodeState.UNKNOWN
            assert 0 not in miner._quic._streams
            assert listener.opened == 0

    run(test())


def test_a_wrong_token_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            with pytest.raises(LinkRefusedError, match="refuses our token: auth failed"):
                await link_to(node, token="wrong").run(NodeListener())  # noqa: S106 - a wrong one

    run(test())


def test_a_node_of_another_version_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, alpn="quantus-miner") as node:
            with pytest.raises(LinkRefusedError, match="does not speak quantus-miner/2: wrong node version"):
                await link_to(node).run(NodeListener())

    run(test())


def test_the_same_words_from_the_transport_are_no_refusal(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node, linked(link_to(node)) as (listener, task):
            await listener.jobs.get()
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
                async with linked(link) as (listener, _):
                    await listener.jobs.get()

    run(test())
    pin = (tmp_path / "chains" / "dev" / node_files.FINGERPRINT).read_text().strip()
    text = (
        rf"certificate of pool quic://127\.0\.0\.1:\d+ is not checked \(insecure=1\); its SHA-256, for \?pin=, is {pin}"
    )
    assert len(re.findall(text, caplog.text)) == 1


# --- a pool's jobs ---


@pytest.mark.parametrize("change", ["nothing", "id", "difficulty"])
def test_a_job_that_comes_again_after_each_share_costs_none(tmp_path: Path, change: str) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            header = node.chain.proposal.mining_hash().hex()
            link = link_to(node, kind="pool")
            arrived: list[int] = []

            def on_result(result: JobResult) -> None:
                arrived.append(int(result.work or "", 16))
                number = len(arrived)
                job_id = str(number) if change == "id" else "1"
                miner.send_job(NewJob(job_id, header, str(HARD + number if change == "difficulty" else HARD)))
                node.notify()

            node.on_result = on_result  # type: ignore[method-assign]
            async with linked(link) as (listener, _):
                job = await listener.jobs.get()
                miner = await miner_of(node)
                sent = 0
                for number in range(1, 101):
                    while (handover := link.submit(job, Solution(number, 1), 1, 1.0)) is Handover.LATE:
                        before = len(arrived)
                        await node.until(lambda: len(arrived) > before)  # noqa: B023 - awaited here
                    sent += handover is Handover.SENT
                    # As the live source: on to the latest job, while solutions of the one before are under way.
                    job, previous = listener.jobs.get_nowait() if not listener.jobs.empty() else job, job
                    assert previous is job or change == "difficulty", "the search goes on"
                await node.until(lambda: len(arrived) == 100)
                assert arrived == [*range(1, 101)]
                assert [handover for *_, handover in listener.handovers] == [Handover.SENT] * (100 - sent)

    run(test())


def test_what_is_taken_for_sent_has_left_even_if_the_header_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node, kind="pool")
            async with linked(link) as (listener, _):
                job = await listener.jobs.get()
                await miner_of(node)
                solutions = [Solution((1 << 511) + number, 1) for number in range(400)]
                given = Counter(link.submit(job, solution, 1, 1.0) for solution in solutions)
                assert given[Handover.WAITS] == node_source.MAX_WAITING
                node.renew_job()
                second = await listener.jobs.get()
                assert link.submit(job, Solution(1, 1), 1, 1.0) is Handover.LATE
                given[link.submit(second, Solution(1, 1), 1, 1.0)] += 1
                await node.until(lambda: node.tally.invalid == 1)
                later = Counter(handover for *_, handover in listener.handovers)
                assert later[Handover.LATE] > 0
                assert later[Handover.SENT] + later[Handover.LATE] == given[Handover.WAITS]
                assert node.stale + node.tally.invalid == given[Handover.SENT] + later[Handover.SENT]

    run(test())


def test_a_frame_that_was_lost_arrives_whole(tmp_path: Path) -> None:
    """Guards private attributes of aioquic: a node loses its place in a frame that arrives in pieces."""

    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node, kind="pool")
            async with linked(link) as (listener, _):
                job = await listener.jobs.get()
                miner = await miner_of(node)
                pieces: list[bytes] = []
                heard = miner.quic_event_received

                def hear(event: events.QuicEvent) -> None:
                    if isinstance(event, events.StreamDataReceived):
                        pieces.append(event.data)
                    heard(event)

                miner.quic_event_received = hear  # type: ignore[method-assign]
                assert link._session is not None
                transport = link._session.connection._transport
                assert transport is not None
                send = transport.sendto
                transport.sendto = lambda *_: None  # type: ignore[method-assign]
                base = 1 << 511  # as long as nonces are
                given = Counter(link.submit(job, Solution(base + number, 1), 1, 1.0) for number in range(30))
                assert 2 <= given[Handover.SENT] <= quic.MAX_IN_FLIGHT // 300
                transport.sendto = send  # type: ignore[method-assign]
                await node.until(lambda: node.tally.invalid == 30)
                assert len(pieces) > 1
                for piece in pieces:
                    assert [*(reader := FrameReader()).feed(piece)]
                    assert not reader._buffer

    run(test())


def test_a_node_is_not_flooded(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path, difficulty=HARD) as node:
            link = link_to(node)
            async with linked(link) as (listener, _):
                for block in range(1, 4):
                    job = await listener.jobs.get()
                    given = [link.submit(job, Solution(number, 1), 1, 1.0) for number in range(1, 101)]
                    assert given == [Handover.SENT] + [Handover.SURPLUS] * 99
                    await node.until(lambda: node.tally.invalid == block)  # noqa: B023 - awaited here
                    node.renew_job()
                assert listener.handovers == []

    run(test())
