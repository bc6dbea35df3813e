"""The hub's stratum door against miners that lie, flood or do not read, and what it keeps of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from quantus_miner import pow as reference
from quantus_miner.hub.bans import BAN_S, BREACH, MAX_ADDRESSES, MAX_BAD, WINDOW_S, Bans
from quantus_miner.hub.door import worker_name
from quantus_miner.hub.hashing import ShareHasher
from quantus_miner.hub.tallies import MAX_WORKERS, OTHERS, Tallies
from quantus_miner.model import MAX, Pow
from quantus_miner.wire import validator

from .hub import HEADER, client_of, hub_at, run, until
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from pathlib import Path


def test_an_address_that_sends_mostly_bad_shares_is_banned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client, client_of(fixture) as neighbour:
                bad = client.share() | {"result": "00" * 64}
                for _ in range(MAX_BAD - 1):
                    assert await client.submit(bad) == validator.BAD_RESULT
                client.send({"id": 9, "method": "submit", "params": bad})
                assert await client.is_dropped()
                assert await neighbour.is_dropped()
            again = await StratumClient.connect(fixture.port)
            assert await again.is_dropped()
            await again.close()
            assert fixture.door.stats().banned_addresses == 1
            fixture.clock.now += BAN_S
            async with client_of(fixture) as client:
                assert await client.submit(client.share()) == "OK"

    run(test)
    assert "Banned 127.0.0.1 for 600 s: most of its shares are bad, the last one: Invalid result" in caplog.text


@pytest.mark.parametrize("flood", [b"x" * 20_000, b"{}\n", b'{"id":1,"method":"submit","params":{}}\n', b"\xff\n"])
def test_whoever_breaks_the_protocol_is_dropped(tmp_path: Path, flood: bytes) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            client = await StratumClient.connect(fixture.port)
            client.writer.write(flood)
            assert await client.is_dropped()
            await client.close()

    run(test)


def test_a_miner_that_sends_too_much_or_does_not_read_is_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture) as client:
                client.writer.write(b'{"method":"mining.ping"}\n' * 40_000)
                assert await client.is_dropped()
            async with client_of(fixture) as client:
                (session,) = fixture.door.sessions
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await until(lambda: session.is_open)
                number = 0
                while session.is_open:
                    number += 1
                    fixture.give(str(number), number.to_bytes(32))
                    await asyncio.sleep(0)
                    assert session.transport.get_write_buffer_size() < 200_000
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]

    run(test)


def test_a_full_server_gives_up_a_miner_that_has_not_logged_in_and_else_turns_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path, max_sessions=2) as fixture:
            fixture.give()
            idle = await StratumClient.connect(fixture.port)
            await until(lambda: len(fixture.door.sessions) == 1)
            async with client_of(fixture), client_of(fixture) as last:
                assert await idle.is_dropped()
                turned_away = await StratumClient.connect(fixture.port)
                assert await turned_away.is_dropped()
                assert await last.submit(last.share()) == "OK"
                await turned_away.close()
            await idle.close()

    run(test)


def test_bans_are_by_rate_and_bounded() -> None:
    bans = Bans()
    for _ in range(MAX_BAD * 3):
        bans.good("farm", 0.0)
    assert not any(bans.bad("farm", 1.0) for _ in range(MAX_BAD * 3))
    # Spread over windows, and breaches count more.
    assert not any(bans.bad("slow", WINDOW_S * number) for number in range(MAX_BAD * 2))
    assert [bans.bad("rude", 0.0, BREACH) for _ in range(MAX_BAD // BREACH)] == [False] * (MAX_BAD // BREACH - 1) + [
        True
    ]
    assert not bans.bad("rude", 1.0, BREACH)
    assert (bans.is_banned("rude", BAN_S - 1), bans.is_banned("rude", BAN_S), bans.count(1.0)) == (True, False, 1)
    for number in range(MAX_ADDRESSES):
        bans.bad(str(number), 1.0)
    assert len(bans._records) == MAX_ADDRESSES
    assert not bans.is_banned("farm", 1.0)


def test_worker_names_are_bounded_and_clean() -> None:
    assert [worker_name(login) for login in ("w.rig-1", "rig", "w.", "w.a b/é", "w." + "x" * 99)] == [
        *("rig-1", "rig", "miner", "a-b--"),
        "x" * 64,
    ]
    book = Tallies()
    for number in range(MAX_WORKERS):
        book.accept(book.of(f"rig{number}"), 10, 5.0)
    assert book.of("one more") is book.of("another") is book.of(OTHERS)
    assert len(book.stats(7.0)) == MAX_WORKERS + 1
    assert book.stats(7.0)[0].accepted_age_s == 2.0
    book = Tallies()
    for number in range(MAX_WORKERS):
        book.of(f"guest{number}")
    # Names that came to nothing make room.
    assert book.of("rig").name == "rig"
    assert len(book._tallies) == MAX_WORKERS
    book.refuse(book.of("rig"), "whatever a pool says", tallies_known := ("Stale share",))
    book.refuse(book.of("rig"), "Stale share", tallies_known)
    assert (book.of("rig").rejected, book.of("rig").stale, book.refusals) == (1, 1, {"other": 1, "Stale share": 1})


def test_the_fast_check_of_a_hash_agrees_with_the_reference() -> None:
    hasher = ShareHasher()
    for nonce in (1, 2**64, 2**511 + 7, MAX):
        value = reference.evaluate(Pow.POSEIDON2, HEADER, nonce)
        assert [hasher.is_hash(HEADER, nonce, value + delta) for delta in (-1, 0, 1)] == [False, True, False]
        assert not hasher.is_hash(HEADER, nonce, 0)
