"""A pool as a link, over real sockets: against the development pool, and against peers that are no pools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec
import pytest

from quantus_miner import pow as reference
from quantus_miner.cli import cli
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import DevPool, _until
from quantus_miner.errors import LinkLostError, LinkRefusedError, MinerError
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources import pool as pool_source
from quantus_miner.sources.link import Handover
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire import stratum
from quantus_miner.wire.pool_url import PoolUrl, parse_pool_url
from quantus_miner.wire.stratum_miner import Timing
from quantus_miner.wire.validator import (
    BAD_NONCE,
    BAD_RESULT,
    DUPLICATE,
    LOW,
    MAX_EARLIER,
    STALE,
    UNKNOWN_JOB,
)
from quantus_miner.wire.vardiff import CLOSE_ENOUGH, Vardiff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from quantus_miner.sources.link import Link, Verdict

LOGIN = "qzpFUhjXpZnRCbNr9LW5sAkWmTus52Ffcf31MBpig82u1JArX.rig"
WAIT_S = 20.0
"""For what must come, so that a test that fails ends."""


class PoolListener:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.jobs: asyncio.Queue[LiveJob] = asyncio.Queue()
        self.verdicts: asyncio.Queue[Verdict] = asyncio.Queue()

    def on_open(self) -> None:
        assert not self.opened.is_set()
        self.opened.set()

    def on_job(self, job: LiveJob) -> None:
        assert self.opened.is_set()
        self.jobs.put_nowait(job)

    def on_alive(self) -> None:
        pass

    def on_no_job(self) -> None:
        raise AssertionError("pools withdraw no job")

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        raise AssertionError("to pools shares go at once")

    def on_verdict(self, verdict: Verdict) -> None:
        self.verdicts.put_nowait(verdict)

    async def job(self) -> LiveJob:
        return await asyncio.wait_for(self.jobs.get(), WAIT_S)

    async def verdict(self) -> Verdict:
        return await asyncio.wait_for(self.verdicts.get(), WAIT_S)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it, and looks whether tasks or connections are left over; ResourceWarnings are errors already."""

    async def watched() -> None:
        await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched(), debug=True)


def dev_pool(difficulty: int = 1, **options: Any) -> DevPool:
    # Blocks so hard that none is found by chance, and so slow that no proposal is renewed.
    chain = Chain(Pow.POSEIDON2, 2**100, 3600.0)
    return DevPool(chain, difficulty, options.pop("share_time", 3600.0), **options)


@contextlib.asynccontextmanager
async def started(pool: DevPool) -> AsyncIterator[DevPool]:
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def linked(
    url: str, timing: Timing | None = None
) -> AsyncIterator[tuple[PoolLink, PoolListener, asyncio.Task[None]]]:
    """A link that runs, until the end of the block."""
    link, listener = PoolLink(parse_pool_url(url), LOGIN, timing=timing), PoolListener()
    task: asyncio.Task[None] = asyncio.ensure_future(link.run(listener))
    try:
        yield link, listener, task
    finally:
        task.cancel()
        await asyncio.wait({task})
        # Nothing of the connection is left.
        assert link.submit(LiveJob("x", bytes(32), 1), Solution(1, 1), 1, 1.0) is Handover.LATE


async def lost(task: asyncio.Task[None]) -> str:
    """How the link was lost."""
    return await failure(task, LinkLostError)


async def failure(task: asyncio.Task[None], kind: type[Exception]) -> str:
    """What the link's error of that kind says."""
    with pytest.raises(kind) as error:
        await asyncio.wait_for(task, WAIT_S)
    return str(error.value)


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A peer that does what ``handle`` does, once; its URL."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield f"stratum+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await asyncio.wait_for(ended.wait(), WAIT_S)
        server.close()
        await server.wait_closed()


def solve(job: LiveJob, number: int = 1) -> Solution:
    """The first valid nonce from ``number`` on after the job's extranonce."""
    nonce = int.from_bytes(job.prefix.ljust(64, b"\0")) + number
    while (value := reference.evaluate(Pow.POSEIDON2, job.header, nonce)) > job.target:
        nonce += 1
    return Solution(nonce, value)


# --- a pool that behaves ---


@pytest.mark.parametrize("tls", [False, True])
def test_jobs_come_and_shares_are_accepted(tls: bool) -> None:
    async def test() -> None:
        async with started(dev_pool(20, tls=tls)) as pool, linked(pool.url) as (link, listener, _):
            assert link.name == f"pool {pool.url.partition('?')[0]}"
            for number in range(3):
                job = await listener.job()
                assert (job.difficulty, len(job.prefix)) == (20, 4)
                assert job.header == pool.chain.proposal.mining_hash()
                assert link.submit(job, solve(job), 10, 0.1) is Handover.SENT
                verdict = await listener.verdict()
                assert (verdict.accepted, verdict.stale, verdict.reason) == (True, False, "")
                assert 0 < verdict.latency_s < WAIT_S
                assert pool.accepted == number + 1
                pool.refresh(clean=True)
            assert pool.rejected.total() == 0

    run(test)


def test_a_share_is_written_before_submit_returns_and_without_delay() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool, linked(pool.url) as (link, listener, _):
            job = await listener.job()
            connection = link._connection
            assert connection is not None
            ours = connection.transport.get_extra_info("socket")
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            assert connection.transport.get_write_buffer_size() == 0
            assert (await listener.verdict()).accepted

    run(test)


def test_a_block_is_found_and_the_next_job_is_clean() -> None:
    async def test() -> None:
        # Shares are never harder than blocks, so that each of these is one.
        pool = DevPool(Chain(Pow.POSEIDON2, 4, 3600.0), 1000, 3600.0)
        async with started(pool), linked(pool.url) as (link, listener, _):
            first = await listener.job()
            assert link.submit(first, solve(first), 1, 1.0) is Handover.SENT
            assert (await listener.verdict()).accepted
            second = await listener.job()
            assert pool.chain.height == 1
            assert second.header != first.header
            assert link.submit(first, solve(first, 1000), 1, 1.0) is Handover.LATE
            assert link.submit(second, solve(second), 1, 1.0) is Handover.SENT
            assert (await listener.verdict()).accepted
            assert pool.chain.height == 2

    run(test)


def test_shares_of_the_job_before_count_unless_the_new_one_is_clean() -> None:
    async def test() -> None:
        async with started(dev_pool(4)) as pool, linked(pool.url) as (link, listener, _):
            first = await listener.job()
            pool.refresh(clean=False)
            second = await listener.job()
            for job in (first, second):
                assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
                assert (await listener.verdict()).accepted
            pool.refresh(clean=True)
            third = await listener.job()
            assert link.submit(first, solve(first, 1000), 1, 1.0) is Handover.LATE
            assert link.submit(second, solve(second, 1000), 1, 1.0) is Handover.LATE
            assert link.submit(third, solve(third), 1, 1.0) is Handover.SENT
            assert link.submit(third, solve(third), 1, 1.0) is Handover.LATE, "a nonce goes out once"
            assert (await listener.verdict()).accepted
            assert pool.accepted == 3

    run(test)


def test_two_miners_never_get_the_same_nonces() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool, linked(pool.url) as (_, one, _), linked(pool.url) as (_, other, _):
            assert (await one.job()).prefix != (await other.job()).prefix

    run(test)


def test_the_login_job_may_come_later() -> None:
    async def test() -> None:
        pool = dev_pool(share_time=0.05, misbehaviour=PoolMisbehaviour.SLOW_JOB)
        async with started(pool), linked(pool.url) as (link, listener, _):
            await asyncio.wait_for(listener.opened.wait(), WAIT_S)
            assert listener.jobs.empty()
            job = await listener.job()
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            assert (await listener.verdict()).accepted

    run(test)


def test_the_pool_steers_the_difficulty_of_each_miner() -> None:
    async def test() -> None:
        # Shares come far faster than one an hour: the difficulty has to rise, by the same header, and to hold for us.
        async with started(dev_pool(1)) as pool, linked(pool.url) as (link, listener, _):
            first = job = await listener.job()
            for number in range(1, 9):
                assert link.submit(job, solve(job, number * 1000), 1, 1.0) is Handover.SENT
                assert (await listener.verdict()).accepted
            job = await listener.job()
            assert (job.header, job.difficulty) == (first.header, 4)
            assert job.id != first.id
            # The job before is still good, at its own difficulty.
            assert link.submit(first, solve(first, 50_000), 1, 1.0) is Handover.SENT
            assert link.submit(job, solve(job), 1, 1.0) is Handover.SENT
            verdicts = [await listener.verdict(), await listener.verdict()]
            assert [(verdict.accepted, verdict.difficulty) for verdict in verdicts] == [(True, 1), (True, 4)]
            assert pool.work == 9 + 4

    run(test)


def test_vardiff_aims_at_the_share_time() -> None:
    vardiff, now, rate = Vardiff(1000, 2.0, 0.0), 0.0, 1e6
    for _ in range(200):
        now += vardiff.difficulty / rate
        vardiff.count()
        vardiff.adjust(now)
    assert 2e6 / CLOSE_ENOUGH < vardiff.difficulty < 2e6 * CLOSE_ENOUGH
    # A miner that has become too slow to find any share gets easier ones.
    assert not vardiff.adjust(now + 1.0)
    before = vardiff.difficulty
    assert vardiff.adjust(now + 100.0)
    assert vardiff.difficulty == before // 4


# --- refusals ---


class Raw:
    """A miner that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.session = ""

    async def say(self, **message: object) -> None:
        self._writer.write(stratum.encode(message))

    async def hear(self) -> Any:
        return json.loads(await asyncio.wait_for(self._reader.readline(), WAIT_S))

    async def submit(self, job_id: str, nonce: str, result: str) -> str:
        """What the pool says."""
        await self.say(
            id=5, method="submit", params={"id": self.session, "job_id": job_id, "nonce": nonce, "result": result}
        )
        reply = await self.hear()
        assert reply["id"] == 5
        return str(reply["error"]["message"] if reply["error"] else reply["result"]["status"])


def test_every_refusal_of_the_development_pool() -> None:
    async def test() -> None:
        async with started(dev_pool(50)) as pool:
            reader, writer = await asyncio.open_connection(*pool.url.removeprefix("stratum+tcp://").split(":"))
            raw = Raw(reader, writer)
            await raw.say(id=1, method="login", params={"login": LOGIN, "pass": "x", "agent": "t"})
            result = (await raw.hear())["result"]
            raw.session = result["id"]
            first = stratum.parse_job(msgspec.Raw(stratum.encode(result["job"])))
            good = solve(first)
            nonce, value = f"{good.nonce:0128x}", f"{good.value:0128x}"
            bad = next(
                candidate
                for candidate in range(good.nonce, good.nonce + 1000)
                if reference.evaluate(Pow.POSEIDON2, first.header, candidate) > first.target
            )
            low = f"{bad:0128x}", f"{reference.evaluate(Pow.POSEIDON2, first.header, bad):0128x}"
            foreign = bytes(byte ^ 1 for byte in first.prefix).hex() + nonce[8:]

            assert await raw.submit("nothing", nonce, value) == UNKNOWN_JOB
            assert await raw.submit(first.id, "xyz", value) == BAD_NONCE
            assert await raw.submit(first.id, "0" * 128, value) == BAD_NONCE
            assert await raw.submit(first.id, foreign, value) == BAD_NONCE
            assert await raw.submit(first.id, nonce, "") == BAD_RESULT
            assert await raw.submit(first.id, nonce, f"{good.value ^ 1:0128x}") == BAD_RESULT
            assert await raw.submit(first.id, *low) == LOW
            assert await raw.submit(first.id, nonce, value) == "OK"
            assert await raw.submit(first.id, nonce, value) == DUPLICATE
            for _ in range(MAX_EARLIER + 1):
                pool.refresh(clean=False)
                assert (await raw.hear())["params"]["clean_jobs"] is False
            assert await raw.submit(first.id, nonce, value) == STALE
            pool.refresh(clean=True)
            second = (await raw.hear())["params"]
            assert second["clean_jobs"] is True
            assert await raw.submit(first.id, nonce, value) == STALE
            assert pool.accepted == 1
            assert pool.rejected == {UNKNOWN_JOB: 1, BAD_NONCE: 3, BAD_RESULT: 2, LOW: 1, DUPLICATE: 1, STALE: 2}
            assert pool.invalid == 7
            writer.close()
            await writer.wait_closed()

    run(test)


@pytest.mark.parametrize(
    ("change", "reason", "stale"),
    [
        ({"nonce": 1}, BAD_RESULT, False),
        ({"clean": True}, STALE, True),
        ({"forget": True}, UNKNOWN_JOB, True),
        ({"twice": True}, DUPLICATE, False),
        ({"difficulty": 2**90}, LOW, False),
    ],
)
def test_a_refusal_comes_back_with_its_reason(change: dict[str, int], reason: str, stale: bool) -> None:
    async def test() -> None:
        async with started(dev_pool(2)) as pool, linked(pool.url) as (link, listener, _):
            job = await listener.job()
            solution = solve(job)
            (session,) = pool.miners
            validator = session._validator
            if "nonce" in change:
                solution = Solution(solution.nonce, solution.value ^ 1)
            if "clean" in change:
                # The pool goes on, and the news has not reached the miner.
                validator._stale.append(job.id)
                del validator._given[job.id]
            if "forget" in change:
                validator._given.clear()
            if "twice" in change:
                validator._given[job.id].nonces.add(solution.nonce)
            if "difficulty" in change:
                validator.give(LiveJob(job.id, job.header, change["difficulty"], job.prefix), clean=False)
            assert link.submit(job, solution, 1, 1.0) is Handover.SENT
            verdict = await listener.verdict()
            assert (verdict.accepted, verdict.stale, verdict.reason) == (False, stale, reason)

    run(test)


def test_a_refused_login_is_a_refusal() -> None:
    async def test() -> None:
        async with (
            started(dev_pool(misbehaviour=PoolMisbehaviour.REFUSE_LOGIN)) as pool,
            linked(pool.url) as (_, listener, task),
        ):
            with pytest.raises(LinkRefusedError, match=r"^it refuses the login: Invalid login$"):
                await asyncio.wait_for(task, WAIT_S)
            assert not listener.opened.is_set()

    run(test)


# --- certificates ---


def test_a_wrong_pin_is_noticed_before_the_login() -> None:
    async def test() -> None:
        async with started(dev_pool(tls=True, misbehaviour=PoolMisbehaviour.WRONG_PIN)) as pool:
            said: list[str] = []
            pool.report = said.append
            async with linked(pool.url) as (_, listener, task):
                reason = await failure(task, LinkRefusedError)
            assert "its certificate has SHA-256 " in reason
            assert f"not the pinned {pool.url.rpartition('=')[2]}" in reason
            assert not listener.opened.is_set()
            assert said == []

    run(test)


def test_a_self_signed_certificate_is_not_trusted_and_the_log_says_what_to_write() -> None:
    async def test() -> None:
        async with started(dev_pool(tls=True)) as pool:
            said: list[str] = []
            pool.report = said.append
            async with linked(pool.url.partition("?")[0]) as (_, listener, task):
                reason = await failure(task, LinkRefusedError)
            assert reason.startswith("its certificate is not trusted: self-signed certificate; its SHA-256 is ")
            assert reason.endswith(f": if that is what the pool publishes, write {pool.url}")
            assert not listener.opened.is_set()
            assert said == []
            # What it says to write is right.
            async with linked(reason.rpartition(" ")[2]) as (_, listener, _):
                await listener.job()

    run(test)


def test_a_certificate_that_is_gone_at_the_second_look_is_not_trusted_either() -> None:
    async def test() -> None:
        async with started(dev_pool(tls=True)) as pool:
            link = PoolLink(parse_pool_url(pool.url.partition("?")[0]), LOGIN)
            see = link._see_certificate

            async def gone() -> bytes | None:
                await pool.close()
                return await see()

            link._see_certificate = gone  # type: ignore[method-assign]
            with pytest.raises(
                LinkRefusedError, match=r"not trusted: self-signed certificate; to trust it, add \?pin= and its SHA-256"
            ):
                await link.run(PoolListener())

    run(test)


def test_whoever_asks_for_it_takes_any_certificate_and_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with started(dev_pool(tls=True)) as pool:
            async with linked(pool.url.partition("?")[0] + "?insecure=1") as (link, listener, _):
                await listener.job()
            again = asyncio.ensure_future(link.run(listener := PoolListener()))
            await listener.job()
            again.cancel()
            await asyncio.wait({again})
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "is not checked" in caplog.text

    with caplog.at_level(logging.INFO, "miner"):
        run(test)


def test_tls_to_a_port_without_it_is_said() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool, linked(pool.url.replace("tcp", "ssl", 1)) as (_, _, task):
            reason = await lost(task)
            assert reason.startswith("the TLS handshake failed: ")
            assert reason.endswith(f"; if this port does not speak TLS, write {pool.url}")

    run(test)


def test_no_tls_to_a_port_with_it_is_said() -> None:
    async def test() -> None:
        async with started(dev_pool(tls=True)) as pool:
            plain = pool.url.partition("?")[0].replace("ssl", "tcp", 1)
            link = PoolLink(parse_pool_url(plain), LOGIN)
            for _ in range(2):
                with pytest.raises(LinkLostError) as error:
                    await link.run(PoolListener())
                assert str(error.value) == f"this port speaks TLS: write {pool.url.partition('?')[0]}"

    run(test)


def test_a_port_with_tls_that_resets_the_connection_is_known_too() -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # What is left unread makes it a reset.
            await reader.read(1)
            writer.transport.abort()

        async with started(dev_pool(tls=True)) as pool:
            tls_port = int(pool.url.partition("?")[0].rpartition(":")[2])
            async with serving(handle) as url:
                link = PoolLink(parse_pool_url(url), LOGIN)
                look = link._see_certificate

                async def elsewhere() -> bytes | None:
                    # The port of the one speaks TLS only to those who begin with it: here it is two ports.
                    link._address = (socket.AF_INET, ("127.0.0.1", tls_port))
                    return await look()

                link._see_certificate = elsewhere  # type: ignore[method-assign]
                with pytest.raises(LinkLostError, match=r"^this port speaks TLS: write stratum\+ssl://"):
                    await link.run(PoolListener())

    run(test)


@pytest.mark.parametrize("record", [b"\x15\x03\x01\x00\x02\x02\x46", b"\x16\x03\x01" + bytes(100)])
def test_a_record_of_tls_is_known_as_one(record: bytes) -> None:
    async def test() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(record)
            await reader.read()

        async with serving(handle) as url, linked(url) as (_, _, task):
            assert await lost(task) == f"this port speaks TLS: write {url.replace('tcp', 'ssl', 1)}"

    run(test)


def test_a_pool_that_closes_without_a_word_and_speaks_no_tls_is_asked_for_tls_once() -> None:
    async def test() -> None:
        first_bytes: list[bytes] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first_bytes.append((await reader.read(100))[:1])
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        link = PoolLink(parse_pool_url(f"stratum+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"), LOGIN)
        for _ in range(3):
            with pytest.raises(LinkLostError) as error:
                await link.run(PoolListener())
            assert str(error.value) in ("it closed the connection", "Connection reset by peer")
        assert first_bytes.count(b"\x16") == 1
        assert first_bytes.count(b"{") == 3
        server.close()
        await server.wait_closed()

    run(test)


# --- pools that misbehave, and what is no pool ---


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


# --- the development pool itself ---


def test_a_port_that_is_taken_is_one_line() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool:
            with pytest.raises(MinerError, match="--listen: cannot listen on "):
                await dev_pool().start(int(pool.url.rpartition(":")[2]))

    run(test)


def test_the_development_pool_drops_what_breaks_the_protocol() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool:
            said: list[str] = []
            pool.report = said.append
            login = b'{"method":"login","id":1,"params":{"login":"wallet.rig"}}\n'
            # The pool cannot answer a login, or a share, that something bad has followed already.
            inputs = (
                b"x" * 20_000,
                b"GET / HTTP/1.1\r\n\r\n",
                b'{"method":"submit","id":1}\n',
                login + b"x\n",
                login * 2,
            )
            for data in inputs:
                reader, writer = await asyncio.open_connection(*pool.url.removeprefix("stratum+tcp://").split(":"))
                writer.write(data)
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            reasons = [line.partition(" is dropped: ")[2] for line in said if "is dropped" in line]
            assert len(reasons) == len(inputs)
            assert reasons[3:] == [
                "a line that is not JSON",
                "not allowed in state 'checking the login': the miner logs in",
            ]
            assert not pool.miners

    run(test)


@contextlib.asynccontextmanager
async def ended_at_last(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kills the process if what is done with it fails."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


@pytest.mark.parametrize("tls", [False, True])
def test_the_command_dev_pool(tls: bool) -> None:
    async def test() -> None:
        # No share of so low a difficulty is a block of the default one, but by a chance of one in 60,000.
        options = ["--listen", "0", "--shares", "3", "--share-difficulty", "5", *(["--tls"] if tls else [])]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "quantus_miner", "dev-pool", *options, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        first = (await asyncio.wait_for(process.stdout.readline(), WAIT_S)).decode()
        url = first.split()[-1]
        async with ended_at_last(process), linked(url) as (link, listener, _):
            job = await listener.job()
            for number in range(1, 4):
                assert link.submit(job, solve(job, number * 1000), 1, 1.0) is Handover.SENT
                assert (await listener.verdict()).accepted
        rest = (await asyncio.wait_for(process.stdout.read(), WAIT_S)).decode().splitlines()
        assert await process.wait() == 0
        assert sum(text.startswith("share ") for text in rest) == 3
        assert re.search(r"^dev-pool: 3 shares accepted, 0 rejected, 0 blocks in .* H/s$", rest[-1])

    run(test)


def test_dev_pool_ends_with_the_miner_that_it_started() -> None:
    async def test(process: subprocess.Popen[str]) -> None:
        async with started(dev_pool()) as pool:
            with pytest.raises(MinerError, match=r"^the miner ended with exit code 3$"):
                await _until(pool, asyncio.Event(), None, process)

    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], text=True) as process:
        run(lambda: test(process))


def test_dev_pool_says_what_goes_together() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", "dev-pool", "--misbehave", "wrong-pin"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "quantus-miner: --misbehave wrong-pin goes with --tls\n")


def test_dev_pool_offers_every_misbehaviour() -> None:
    (choice,) = (option.type for option in cli.commands["dev-pool"].params if option.name == "misbehave")
    assert isinstance(choice, click.Choice)
    assert list(choice.choices) == list(PoolMisbehaviour)
