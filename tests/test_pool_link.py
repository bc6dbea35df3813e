"""A pool as a link, over real sockets: against the development pool, and against peers that are no pools."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import msgspec
import pytest

from quantus_miner import pow as reference
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import DevPool
from quantus_miner.errors import LinkRefusedError
from quantus_miner.model import LiveJob, Pow, Solution
from quantus_miner.sources.link import Handover
from quantus_miner.wire import stratum
from quantus_miner.wire.validator import BAD_NONCE, BAD_RESULT, DUPLICATE, LOW, MAX_EARLIER, STALE, UNKNOWN_JOB
from quantus_miner.wire.vardiff import CLOSE_ENOUGH, Vardiff

from .pool_link import LOGIN, WAIT_S, dev_pool, linked, run, solve, started

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
