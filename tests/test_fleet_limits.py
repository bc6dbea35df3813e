"""What a hub does about miners and rigs that come and go, send too much, or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

from quantus_miner.hub import door as door_module
from quantus_miner.hub import nats_server
from quantus_miner.hub import rigs as rigs_module
from quantus_miner.hub.allowance import Allowance
from quantus_miner.hub.bans import BAN_S, CHURN, MAX_BAD, WINDOW_S, Bans
from quantus_miner.sources import nats
from quantus_miner.wire import fleet

from .hub import WAIT_S, client_of, hub_at, until
from .hub import run as run_watched
from .rigs import STATUS, fleet_and_rig, known, rig_of, run
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from .rigs import Fleet


ESTABLISHED = 1
"""The first byte of TCP_INFO while a connection is open at both ends."""


def test_an_allowance_refills_up_to_its_maximum() -> None:
    allowance = Allowance(10, 2, 100.0)
    assert [allowance.take(5, 100.0) for _ in range(3)] == [True, True, False]
    assert not allowance.take(3, 101.0)
    assert allowance.take(3, 101.5)
    assert [allowance.take(amount, 1000.0) for amount in (11, 10, 1)] == [False, True, False]


def test_connections_that_leave_at_once_add_up_to_a_ban() -> None:
    bans, most = Bans(), round(MAX_BAD / CHURN)
    assert not any(bans.bad("a", 0.0, CHURN) for _ in range(most - 1))
    assert bans.bad("a", 0.0, CHURN)
    assert bans.is_banned("a", BAN_S - 1)
    # Not those of an address that looks for the port now and then, nor of one from which shares come.
    assert not any(bans.bad("b", number * WINDOW_S / (most - 1), CHURN) for number in range(10 * most))
    for _ in range(MAX_BAD):
        bans.good("c", 0.0)
    assert not any(bans.bad("c", 0.0, CHURN) for _ in range(most))


# --- stratum ---


def test_an_address_whose_miners_come_and_go_is_banned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "CHURN", MAX_BAD / 4)

    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            # One that has found a share may leave, and so may one that is sent away.
            async with client_of(fixture) as client:
                assert await client.submit(client.share()) == "OK"
            assert fixture.hub.work is not None
            fixture.hub.withdraw(fixture.hub.work)
            for _ in range(4):
                client = await StratumClient.connect(fixture.port)
                assert (await client.login("wallet.rig"))["error"]["message"] == door_module.NOT_READY
                assert await client.is_dropped()
                await client.close()
            assert fixture.door.bans.count(fixture.clock.now) == 0
            fixture.give()
            for number in range(4):
                async with client_of(fixture):
                    pass
                await until(lambda: not fixture.door.sessions)
                assert fixture.door.bans.count(fixture.clock.now) == (number == 3)
            client = await StratumClient.connect(fixture.port)
            assert await client.is_dropped()
            await client.close()

    run_watched(test)


def test_a_miner_without_a_share_gives_way_when_the_hub_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with hub_at(tmp_path, max_sessions=2) as fixture, contextlib.AsyncExitStack() as stack:
            fixture.give()
            idle = await stack.enter_async_context(client_of(fixture, "wallet.idle"))
            busy = await stack.enter_async_context(client_of(fixture, "wallet.busy"))
            third = await StratumClient.connect(fixture.port)
            assert await third.is_dropped()
            await third.close()
            monkeypatch.setattr(door_module, "IDLE_S", 0.0)
            assert await busy.submit(busy.share()) == "OK"
            proved = {session.worker: session for session in fixture.door.sessions}
            proved["busy"]._proved_at += WAIT_S
            await stack.enter_async_context(client_of(fixture, "wallet.new"))
            assert await idle.is_dropped()
            assert await busy.submit(busy.share()) == "OK"

    run_watched(test)


def test_a_miner_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with hub_at(tmp_path) as fixture:
            fixture.give()
            async with client_of(fixture, "wallet.good") as good:
                slow = socket.create_connection(("127.0.0.1", fixture.port))
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                with slow:
                    login = {"id": 1, "method": "login", "params": {"login": "w.slow", "pass": "x", "agent": "x"}}
                    slow.sendall(json.dumps(login).encode() + b"\n")
                    await until(lambda: len(fixture.door.sessions) == 2)
                    keepalive = json.dumps({"id": 2, "method": "keepalived", "params": {"id": "x"}}).encode() + b"\n"
                    slow.setblocking(False)
                    data = keepalive * (door_module.BURST_BYTES // len(keepalive) - 10)
                    loop = asyncio.get_running_loop()
                    with contextlib.suppress(ConnectionError):
                        await loop.sock_sendall(slow, data)
                    await until(lambda: [session.worker for session in fixture.door.sessions] == ["good"])
                assert await good.submit(good.share()) == "OK"

    run_watched(test)


# --- NATS ---


@contextlib.asynccontextmanager
async def bare_client(each: Fleet, url: fleet.HubUrl) -> AsyncIterator[tuple[Any, asyncio.Event]]:
    """A client with a rig's key that says what the test wants, and the end of its connection."""
    ended = asyncio.Event()

    async def on_error(_: Exception) -> None:
        pass

    async def on_end() -> None:
        ended.set()

    pem = each.roster.certificate().read_text().partition("-----BEGIN PRIVATE")[0]
    client = await nats.connect(
        ("127.0.0.1", each.server.port),
        nats.trusting(pem),
        seed=url.seed,
        inbox=f"{fleet.INBOX}.{url.name}",
        on_error=on_error,
        on_end=on_end,
    )
    try:
        yield client, ended
    finally:
        await client.close()


def test_a_rig_that_sends_too_much_is_locked_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rigs_module, "MAX_MESSAGES", 200)

    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, _, url):
            flood = each.invite("flood")
            await known(each, flood, tmp_path / "flood")
            async with rig_of(url, tmp_path / "rig") as (_, listener, _), bare_client(each, flood) as (client, ended):
                await listener.job()
                for _ in range(1_000):
                    await client.publish(f"{fleet.STATUS}.flood", fleet.encode(STATUS))
                await until(lambda: each.rigs.locked_out() == {"flood"})
                admitted = {name: key for name, key in each.roster.load().items() if name not in each.rigs.locked_out()}
                each.server.reload(admitted)
                await asyncio.wait_for(ended.wait(), WAIT_S)
                each.give("2", bytes(32))
                assert (await listener.job()).header == bytes(32)
            each.clock.now += rigs_module.LOCKED_OUT_S
            assert each.rigs.locked_out() == frozenset()

    run(test)
    assert caplog.text.count("Rig flood sends too many messages; locked out for 600 s") == 1


def test_a_rig_that_says_hello_again_and_again_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, _, url):
            each.rigs._rigs["rig"].hellos = Allowance(3, rigs_module.HELLOS_PER_S, each.clock.now)
            async with bare_client(each, url) as (client, _):
                replies: list[bytes] = []

                async def on_reply(message: Any) -> None:
                    replies.append(message.data)

                await client.subscribe(f"{fleet.INBOX}.rig.*", cb=on_reply)
                for _ in range(10):
                    await client.publish(f"{fleet.HELLO}.rig", b"", reply=f"{fleet.INBOX}.rig.h")
                # A solution is answered, so all hellos before it were handled.
                await client.publish(
                    f"{fleet.SOLUTION}.rig",
                    fleet.encode(fleet.SolutionMessage("00" * 32, "00" * 64)),
                    reply=f"{fleet.INBOX}.rig.s",
                )
                await until(lambda: any(b"state" in reply for reply in replies))
                assert sum(b"job" in reply for reply in replies) == 3
                each.clock.now += 2 / rigs_module.HELLOS_PER_S
                await client.request(f"{fleet.HELLO}.rig", b"", timeout=WAIT_S)

    run(test)


def test_a_rig_that_does_not_read_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = nats_server.LIMITS.replace('"10s"', '"500ms"').replace("ping_max: 3", "ping_max: 1")
    assert limits != nats_server.LIMITS
    monkeypatch.setattr(nats_server, "LIMITS", limits)

    async def test() -> None:
        async with fleet_and_rig(tmp_path) as (each, _, url):
            slow = each.invite("slow")
            await known(each, slow, tmp_path / "slow")
            async with rig_of(url, tmp_path / "rig") as (_, listener, _), bare_client(each, slow) as (client, _):
                await listener.job()
                transport = client._transport._io_writer.transport
                transport.pause_reading()
                each.give("2", bytes(32))
                assert (await listener.job()).header == bytes(32)
                # The server pings it, and closes the connection if it does not answer.
                sock = transport.get_extra_info("socket")
                await until(lambda: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED)
                transport.abort()

    run(test)
