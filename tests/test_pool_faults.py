"""Pools that misbehave, and what is no pool."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.errors import LinkLostError
from quantus_miner.model import LiveJob, Solution
from quantus_miner.sources import pool as pool_source
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire import stratum
from quantus_miner.wire.pool_url import PoolUrl, parse_pool_url
from quantus_miner.wire.stratum_miner import Timing

from .pool_link import LOGIN, WAIT_S, PoolListener, dev_pool, linked, lost, run, serving, solve, started

if TYPE_CHECKING:
    from quantus_miner.sources.link import Link


def test_a_dropped_connection_is_lost_and_its_shares_with_it() -> None:
    async def test() -> None:
        async with (
            started(dev_pool(misbehaviour=PoolMisbehaviour.NO_REPLY)) as pool,
            linked(pool.url) as (link, listener, task),
        ):
            job = await listener.job()
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            await asyncio.wait_for(pool.changed.wait(), WAIT_S)
            pool.drop()
            await lost(task)
            verdict = await listener.verdict()
            assert (verdict.accepted, verdict.stale, verdict.reason) == (False, False, "no reply")
            assert verdict.unanswered
            assert link.submit(job, solve(job, 1000), 1, 1.0) is Handover.LATE

    run(test)


def test_a_link_can_be_run_again() -> None:
    async def test() -> None:
        async with started(dev_pool(misbehaviour=PoolMisbehaviour.DROP)) as pool:
            link, old = PoolLink(parse_pool_url(pool.url), LOGIN), None
            for _ in range(2):
                listener = PoolListener()
                task: asyncio.Task[None] = asyncio.ensure_future(link.run(listener))
                job = await listener.job()
                assert old is None or link.submit(old, solve(old, 5000), 1, 1.0) is Handover.LATE, (
                    "jobs end with their connection"
                )
                for number in range(1, 4):
                    assert link.submit(job, solve(job, number * 1000), 1, 1.0) is Handover.SENT
                assert "it closed the connection" in (reason := await lost(task)) or "reset" in reason
                old = job

    run(test)


@pytest.mark.parametrize(
    ("misbehaviour", "reason"),
    [
        (PoolMisbehaviour.GARBAGE, "a line that is not JSON"),
        (PoolMisbehaviour.FLOOD, "a line of more than 16,384 bytes"),
        (PoolMisbehaviour.STALL, "no reply to the login within 0.1 s"),
    ],
)
def test_misbehaviour_ends_the_connection(misbehaviour: PoolMisbehaviour, reason: str) -> None:
    async def test() -> None:
        async with (
            started(dev_pool(misbehaviour=misbehaviour)) as pool,
            linked(pool.url, Timing(login_s=0.1)) as (_, _, task),
        ):
            assert await lost(task) == reason

    run(test)


def test_jobs_with_a_wrong_target_are_not_mined(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with (
            started(dev_pool(misbehaviour=PoolMisbehaviour.WRONG_TARGET)) as pool,
            linked(pool.url) as (link, listener, task),
        ):
            job = await listener.job()
            pool.refresh(clean=False)
            pool.refresh(clean=False)
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT, "the job before stays in force"
            assert (await listener.verdict()).accepted
            pool.refresh(clean=True)
            assert "3 jobs in a row that cannot be mined" in await lost(task)
            assert listener.jobs.empty()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "target is that of difficulty 1, but it states difficulty 4; still mining the one before" in caplog.text

    with caplog.at_level(logging.INFO, "miner"):
        run(test)


def test_a_first_job_that_is_refused_is_not_said_to_have_one_before(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            body = stratum.job_body(LiveJob("1", bytes(32), 1, b"abcd"))
            bad = {"id": "s", "status": "OK", "job": body | {"difficulty": 0}}
            writer.write(stratum.encode({"id": 1, "result": bad}))
            writer.write(stratum.encode({"method": "job", "params": body}))
            assert b'"method":"submit"' in await reader.readline()
            writer.write(stratum.encode({"id": 2, "result": True}))
            await reader.read()

        async with serving(handle) as url, linked(url) as (link, listener, _):
            job = await listener.job()
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            assert (await listener.verdict()).accepted
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert re.fullmatch(
            r"Ignored a job of pool \S+: its difficulty is 0, not a number from 1 to 2\^512 - 1; "
            r"waiting for the next one",
            record.getMessage(),
        )

    with caplog.at_level(logging.INFO, "miner"):
        run(test)


def test_a_share_without_a_reply_is_given_up() -> None:
    async def test() -> None:
        async with (
            started(dev_pool(misbehaviour=PoolMisbehaviour.NO_REPLY)) as pool,
            linked(pool.url, Timing(keepalive_s=0.02, verdict_s=0.1)) as (link, listener, _),
        ):
            job = await listener.job()
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            verdict = await listener.verdict()
            assert (verdict.accepted, verdict.reason, verdict.unanswered) == (False, "no reply", False)
            assert verdict.latency_s >= 0.1

    run(test)


def test_keepalives_keep_a_quiet_connection_and_its_answers_count_as_life() -> None:
    async def test() -> None:
        asked = asyncio.Semaphore(0)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(stratum.encode({"id": 1, "result": {"id": "s", "status": "OK", "job": None}}))
            await reader.readline()
            # As some pools do it: without an id.
            for _ in range(10):
                assert b'"method":"keepalived","params":{"id":"s"}' in await reader.readline()
                writer.write(stratum.encode({"result": {"status": "KEEPALIVED"}}))
                asked.release()
            await reader.read()

        timing = Timing(keepalive_s=0.05, silence_s=0.4)
        async with serving(handle) as url, linked(url, timing) as (_, _, task):
            for _ in range(10):
                await asyncio.wait_for(asked.acquire(), WAIT_S)
            assert not task.done()
            assert await lost(task) == "no byte for 0.4 s"

    run(test)


def test_a_pool_that_never_stops_talking_does_not_stop_time() -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            body = stratum.job_body(LiveJob("1", bytes(32), 1, b"abcd"))
            writer.write(stratum.encode({"id": 1, "result": {"id": "s", "status": "OK", "job": body}}))
            asked = asyncio.ensure_future(reader.readline())
            while not asked.done():
                writer.write(b"{}\n" * 1000)
                await writer.drain()
            assert b'"keepalived"' in asked.result()

        async with serving(handle) as url, linked(url, Timing(keepalive_s=0.1)) as (_, _, task):
            await lost(task)

    run(test)


def test_a_time_out_of_the_system_ends_the_connection() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool, linked(pool.url) as (link, listener, task):
            await listener.job()
            connection = link._connection
            assert connection is not None
            # What asyncio does when a read fails; no way is known to make the kernel do that in a test.
            connection.transport.get_protocol()._stream_reader.set_exception(  # type: ignore[attr-defined]
                TimeoutError(110, "Connection timed out")
            )
            assert "Connection timed out" in await lost(task)

    run(test)


def test_a_peer_that_does_not_read_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        job = LiveJob("1", bytes(32), 1, b"abcd")
        done = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await reader.readline()
            body = stratum.job_body(job)
            writer.write(stratum.encode({"id": 1, "result": {"id": "s", "status": "OK", "job": body}}))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await done.wait()

        monkeypatch.setattr(pool_source, "MAX_UNSENT", 1000)
        async with serving(handle) as url:
            async with linked(url) as (link, listener, task):
                mined = await listener.job()
                connection = link._connection
                assert connection is not None
                connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                base = int.from_bytes(b"abcd".ljust(64, b"\0"))
                sent = 0
                while link.submit(mined, Solution(base + sent + 1, 1), 1, 1.0) is Handover.SENT:
                    sent += 1
                assert 0 < sent < 256
                assert await lost(task) == "it does not read what we send"
                # Each of them gets a verdict, for the last has choked the connection.
                assert listener.verdicts.qsize() == sent
            done.set()

    run(test)


def test_jobs_that_come_together_are_worth_one_start() -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            jobs = [stratum.job_body(LiveJob(str(number), bytes(32), 1, b"abcd")) for number in range(50)]
            flood: list[dict[str, Any]] = [
                {"method": "job", "params": {"clean_jobs": True, "job": body}} for body in jobs
            ]
            login: dict[str, Any] = {"id": 1, "result": {"id": "s", "status": "OK", "job": jobs[0]}}
            writer.write(b"".join(stratum.encode(message) for message in [login, *flood]))
            await reader.read()

        async with serving(handle) as url, linked(url) as (_, listener, task):
            while (await listener.job()).id != "49":
                pass
            assert not task.done()
            task.cancel()

    run(test)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no.such.host.invalid", "a" * 64, ".."])
def test_where_nobody_is(host: str) -> None:
    async def test() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = PoolUrl("stratum+tcp", host, free.getsockname()[1])
            with pytest.raises(LinkLostError, match=rf"^(no connection: Connection refused|{re.escape(host)}: )"):
                await PoolLink(url, LOGIN).run(PoolListener())

    run(test)


def test_a_handshake_that_never_ends_is_given_up() -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with serving(handle) as url:
            link = PoolLink(parse_pool_url(url.replace("tcp", "ssl", 1)), LOGIN, connect_timeout_s=0.1)
            with pytest.raises(
                LinkLostError, match=r"handshake within 0\.1 s; .* write stratum\+tcp://127\.0\.0\.1:\d+$"
            ):
                await link.run(PoolListener())

    run(test)


def test_a_name_with_several_addresses_is_tried_at_all_of_them() -> None:
    async def test() -> None:
        # On most machines localhost is ::1 too, where nobody listens.
        async with started(dev_pool()) as pool, linked(pool.url.replace("127.0.0.1", "localhost")) as (_, listener, _):
            await listener.job()

    run(test)


def test_a_url_of_another_protocol_is_no_link() -> None:
    with pytest.raises(ValueError, match="is not a stratum URL"):
        PoolLink(PoolUrl("quic", "h", 1), LOGIN)


def test_the_link_is_what_the_live_source_asks_for() -> None:
    link: Link = PoolLink(PoolUrl("stratum+tcp", "h", 1), LOGIN)
    assert link.name == "pool stratum+tcp://h:1"
