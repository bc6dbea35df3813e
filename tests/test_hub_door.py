"""The hub's stratum door for a node: a client that is written from the specification, over real sockets."""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from typing import TYPE_CHECKING

from quantus_miner import pow as reference
from quantus_miner.host.certificate import self_signed
from quantus_miner.hub import door as door_module
from quantus_miner.hub.door import AWAY_S
from quantus_miner.model import MAX, Pow
from quantus_miner.wire import validator

from .hub import HEADER, OTHER_HEADER, client_of, hub_at, run
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from pathlib import Path


def test_a_share_is_accepted_and_one_that_meets_the_network_s_target_goes_up_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            network = fixture.give(difficulty=40)
            async with client_of(fixture) as client:
                assert (client.job["mining_hash"], client.job["difficulty"]) == (HEADER.hex(), 2)
                assert await client.submit(client.share(at_least=network.target + 1)) == "OK"
                block = client.share(below=network.target + 1)
                assert await client.submit(block) == "OK"
                solution = await fixture.next_sent()
                assert f"{solution.nonce:0128x}" == block["nonce"]
                assert solution.value == reference.evaluate(Pow.POSEIDON2, HEADER, solution.nonce) <= network.target
                assert await client.submit(block) == validator.DUPLICATE
            assert fixture.sent.empty()
            (worker,) = fixture.door.stats().workers
            assert (worker.name, worker.accepted, worker.rejected, worker.blocks, worker.work) == ("rig", 2, 1, 1, 4)
            assert fixture.hub.work is not None
            assert fixture.hub.work.hashes == 4

    run(test)


def test_what_a_share_can_get_wrong_is_said_in_the_usual_words(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                good = client.share()
                wrong = {
                    validator.UNKNOWN_JOB: good | {"job_id": "x"},
                    validator.BAD_NONCE: good | {"nonce": "00" * 64},
                    validator.BAD_RESULT: good | {"result": "00" * 64},
                    validator.LOW: client.share(below=MAX, at_least=int(client.job["target"], 16)),
                    "Invalid session": good | {"id": "x"},
                }
                for reason, share in wrong.items():
                    assert await client.submit(share) == reason
                assert await client.submit(good | {"nonce": good["nonce"][:-1]}) == validator.BAD_NONCE
                assert await client.submit(good | {"result": "x"}) == validator.BAD_RESULT
                fixture.give("2", OTHER_HEADER)
                assert await client.submit(good) == validator.STALE
                assert client.job["mining_hash"] == OTHER_HEADER.hex()
                assert await client.submit(client.share()) == "OK"
            counted = Counter(fixture.refusals())
            assert counted == {reason: 1 for reason in wrong if reason != "Invalid session"} | {
                validator.BAD_NONCE: 2,
                validator.BAD_RESULT: 2,
                validator.STALE: 1,
            }

    run(test)


def test_every_connection_has_an_extranonce_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture, contextlib.AsyncExitStack() as stack:
            fixture.give()
            clients = [await stack.enter_async_context(client_of(fixture)) for _ in range(20)]
            first = {client.job["extranonce"] for client in clients}
            await clients[0].close()
            async with client_of(fixture) as late:
                assert len({*first, late.job["extranonce"]}) == 21
            # The nonce of one is not valid for another.
            assert await clients[2].submit(clients[1].share() | {"id": clients[2].session}) == validator.BAD_NONCE

    run(test)


def test_a_share_is_never_harder_than_a_block_and_a_job_of_the_same_header_keeps_earlier_shares(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path, difficulty=1000) as fixture:
            fixture.give(difficulty=4)
            async with client_of(fixture) as client:
                assert client.job["difficulty"] == 4
                before = client.share()
                fixture.give("2", difficulty=3)
                assert (await client.next_job())["difficulty"] == 3
                assert await client.submit(before) == "OK"
                assert (await fixture.next_sent()).nonce == int(before["nonce"], 16)

    run(test)


def test_the_difficulty_follows_the_miner_s_speed_and_is_kept_for_its_return(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                for _ in range(4 * 8):
                    fixture.clock.now += int(client.job["difficulty"]) / 4.0  # 4 hashes a second
                    assert await client.submit(client.share()) == "OK"
                await client.call("keepalived", {"id": client.session})
                assert 20 / 2 < client.job["difficulty"] < 20 * 2  # 5 s times 4 hashes a second
                aim = client.job["difficulty"]
                # A miner that has become too slow gets easier shares, though none comes.
                fixture.clock.now += 60.0
                fixture.door.tick()
                assert (await client.next_job())["difficulty"] == aim // 4
            async with client_of(fixture) as client:
                assert client.job["difficulty"] == aim // 4

    run(test)


def test_without_work_a_login_is_refused_and_after_a_while_miners_are_sent_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            client = await StratumClient.connect(fixture.port)
            assert (await client.login("w.r"))["error"]["message"] == door_module.NOT_READY
            assert await client.is_dropped()
            await client.close()
            fixture.give()
            async with client_of(fixture) as client:
                assert fixture.hub.work is not None
                fixture.hub.work.cancel()
                fixture.clock.now += AWAY_S - 1
                fixture.door.tick()
                # The node may come back with the same job.
                assert await client.submit(client.share()) == "OK"
                fixture.clock.now += 1
                fixture.door.tick()
                assert await client.is_dropped()

    run(test)


def test_over_tls(tmp_path: Path) -> None:
    certificate = self_signed()
    (tmp_path / "own.pem").write_bytes(certificate.pem)

    async def test() -> None:
        trusting = ssl.create_default_context(cadata=certificate.pem.decode().split("-----BEGIN PRIVATE")[0])
        async with hub_at(tmp_path, context=certificate.server_context()) as fixture:
            fixture.give()
            async with client_of(fixture, context=trusting) as client:
                assert await client.submit(client.share()) == "OK"
            plain = await StratumClient.connect(fixture.port)
            plain.send({"id": 1, "method": "login", "params": {"login": "a.b"}})
            assert await plain.is_dropped()
            await plain.close()

    run(test)
