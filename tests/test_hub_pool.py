"""The hub in a pool: an upstream connection for each miner."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from quantus_miner.dev.chain import Chain
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import DEV_WALLET, DevPool
from quantus_miner.hub import door as door_module
from quantus_miner.model import Pow
from quantus_miner.sources.live import LiveSource
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire import validator
from quantus_miner.wire.pool_url import parse_pool_url

from .hub import HARD, Fixture, client_of, hub_at, run, until
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest


@contextlib.asynccontextmanager
async def pool_behind_hub(
    folder: Path, misbehaviour: PoolMisbehaviour | None = None
) -> AsyncIterator[tuple[DevPool, Fixture]]:
    pool = DevPool(Chain(Pow.POSEIDON2, HARD, 3600.0), 2, 3600.0, misbehaviour=misbehaviour)
    await pool.start()
    try:
        async with hub_at(folder) as fixture:
            link = PoolLink(parse_pool_url(pool.url), f"{DEV_WALLET}.hub")
            source = LiveSource(fixture.hub, [link], priority=0, publish=fixture.hub.outbox.on_event)
            task = asyncio.create_task(source.run())
            try:
                await until(lambda: fixture.hub.work is not None)
                yield pool, fixture
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    finally:
        await pool.close()


def test_in_a_pool_every_miner_has_a_connection_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            async with client_of(fixture, "x.one") as one, client_of(fixture, "x.two") as two:
                assert one.job["extranonce"] != two.job["extranonce"]
                await until(lambda: len(pool.miners) == 3)
                assert {miner.worker for miner in pool.miners} == {"hub", "one", "two"}
                share = one.share()
                assert await one.submit(share) == "OK"
                assert await one.submit(share) == validator.DUPLICATE
                assert await two.submit(two.share()) == "OK"
                assert (pool.accepted, pool.rejected) == (2, {})
                pool.refresh(clean=True)
                old = one.share()
                await one.next_job()
                assert await one.submit(old) == validator.STALE
                assert await one.submit(one.share()) == "OK"
                workers = {worker.name: worker for worker in fixture.door.stats().workers}
                assert (workers["one"].accepted, workers["one"].stale, workers["two"].accepted) == (2, 1, 1)
            # With the miner, its connection to the pool ends.
            await until(lambda: {miner.worker for miner in pool.miners} == {"hub"})

    run(test)


def test_what_a_pool_says_of_a_share_is_passed_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            pool_behind_hub(tmp_path, PoolMisbehaviour.REFUSE_SHARES) as (_, fixture),
            client_of(fixture) as client,
        ):
            assert await client.submit(client.share()) == "Invalid nonce"
            # The pool's refusals are no reason for a ban.
            assert not fixture.door.bans._records

    run(test)


def test_a_miner_whose_pool_goes_away_or_refuses_it_is_sent_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            async with client_of(fixture) as client:
                await until(lambda: len(pool.miners) == 2)
                for miner in list(pool.miners):
                    if miner.worker == "rig":
                        miner.transport.abort()
                assert await client.is_dropped()
            pool.misbehaviour = PoolMisbehaviour.REFUSE_LOGIN
            refused = await StratumClient.connect(fixture.port)
            assert (await refused.login("x.rig"))["error"]["message"] == door_module.NOT_READY
            await refused.close()

    run(test)


def test_a_pool_that_sends_its_first_job_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantus_miner.hub.proxy.FIRST_JOB_S", 0.0)

    async def test() -> None:
        async with pool_behind_hub(tmp_path) as (pool, fixture):
            pool.misbehaviour, pool.share_time = PoolMisbehaviour.SLOW_JOB, 0.3
            async with client_of(fixture) as client:
                assert client.job == {}
                await client.next_job()
                assert await client.submit(client.share()) == "OK"

    run(test)


def test_miners_log_in_again_when_the_hub_changes_between_node_and_pool(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                fixture.give("2", link=NodeLink("127.0.0.1", 9833, "token", None))
                await client.next_job()
                fixture.give("3", link=PoolLink(parse_pool_url("stratum+tcp://127.0.0.1:1"), "w.hub"))
                assert await client.is_dropped()

    run(test)
