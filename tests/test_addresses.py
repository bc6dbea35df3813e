"""The addresses of names: which is tried when, what is said of names that have none, and resolvers that hang."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from quantus_miner.dev import node_files
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.pool import DevPool
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.model import Pow
from quantus_miner.sources import addresses
from quantus_miner.sources.addresses import Addresses, LookUpError, connect_tcp
from quantus_miner.sources.node import NodeLink
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.messages import parse_fingerprint
from quantus_miner.wire.pool_url import PoolUrl

from .no_ipv6 import without_ipv6
from .node_link import NodeListener, linked, playing, run
from .pool_link import LOGIN, PoolListener, dev_pool, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_S = 20.0


def resolving(monkeypatch: pytest.MonkeyPatch, *found: tuple[Any, ...]) -> None:
    """Lets every name have these addresses; a port of the host's own stands in each."""
    infos = [
        (socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
        for address in found
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers when the event is set, with no address."""
    release = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        release.wait(WAIT_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield release
    release.set()
    for thread in resolvers():
        thread.join(WAIT_S)


def resolvers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resolver"]


# --- the order ---


def test_the_next_attempt_begins_after_the_address_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        names = Addresses("many.example", 1, socket.SOCK_STREAM)
        first, second, third = found = await names.look_up(WAIT_S)
        names.ended(first, addresses.FAILED_S - 1)
        assert await names.look_up(WAIT_S) == [second, third, first]
        names.ended(third, 0.0)
        assert await names.look_up(WAIT_S) == found
        # One that held for long is tried again before others.
        names.ended(second, addresses.FAILED_S)
        assert await names.look_up(WAIT_S) == [second, third, first]
        # A name server may turn the order, or take an address away.
        names.ended(first, 0.0)
        resolving(monkeypatch, ("127.0.0.3", 1), ("127.0.0.1", 1), ("127.0.0.2", 1))
        assert [address for _, (address, _) in await names.look_up(WAIT_S)] == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
        resolving(monkeypatch, ("127.0.0.3", 1), ("127.0.0.2", 1))
        assert [address for _, (address, _) in await names.look_up(WAIT_S)] == ["127.0.0.3", "127.0.0.2"]

    resolving(monkeypatch, ("127.0.0.1", 1), ("127.0.0.2", 1), ("127.0.0.3", 1))
    run(test())


def test_addresses_are_bounded_and_without_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        found = await Addresses("many.example", 1, socket.SOCK_STREAM).look_up(WAIT_S)
        assert found == [(socket.AF_INET6, ("fe80::1", 1, 0, 7))] * addresses.MAX_ADDRESSES

    resolving(monkeypatch, *[("fe80::1%eth0", 1, 0, 7)] * 100)
    run(test())


def test_a_pool_s_address_that_closes_at_once_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        connections = 0

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        dead = await asyncio.start_server(close, "127.0.0.1", 0)
        async with started(dev_pool()) as pool:
            port = int(pool.url.rpartition(":")[2])
            resolving(monkeypatch, dead.sockets[0].getsockname()[:2], ("127.0.0.1", port))
            link, listener = PoolLink(PoolUrl("stratum+tcp", "two.example", 1), LOGIN), PoolListener()
            with pytest.raises(LinkLostError):
                await link.run(listener)
            before = connections
            task: asyncio.Task[None] = asyncio.ensure_future(link.run(listener))
            await listener.job()
            task.cancel()
            await asyncio.wait({task})
            assert connections == before
        dead.close()
        await dead.wait_closed()

    asyncio.run(test())


def test_a_node_s_address_that_refuses_us_is_followed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with playing(tmp_path / "other") as other, playing(tmp_path) as node:
            resolving(monkeypatch, ("127.0.0.1", other.port), ("127.0.0.1", node.port))
            pin = parse_fingerprint((node.folder / node_files.FINGERPRINT).read_text())
            link = NodeLink("two.example", 1, node.token, pin)
            with pytest.raises(LinkRefusedError, match="not the pinned one"):
                await link.run(NodeListener())
            async with linked(link) as (listener, _):
                await listener.jobs.get()
            await other.until(lambda: not other.miners)

    run(test())


# --- connections over TCP ---


def test_an_address_that_is_silent_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as full:
            # Nobody accepts there, and no more than one connection may wait.
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            silent, good = full.getsockname(), server.getsockname()
            with contextlib.ExitStack() as stack:
                for _ in range(2):
                    waiting = stack.enter_context(socket.socket())
                    waiting.setblocking(False)
                    waiting.connect_ex(silent)
                monkeypatch.setattr(addresses, "NEXT_ADDRESS_S", 0.01)
                sock, address = await connect_tcp([(socket.AF_INET, silent), (socket.AF_INET, good)])
                sock.close()
                assert address == (socket.AF_INET, good)

    run(test())


def test_of_addresses_that_all_fail_the_last_says_why() -> None:
    async def test() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await connect_tcp([(socket.AF_INET, ("255.255.255.255", 1)), (socket.AF_INET, free.getsockname())])
        with pytest.raises(OSError, match="no address"):
            await connect_tcp([])

    run(test())


# --- a system without IPv6 ---


def test_without_ipv6_a_pool_s_other_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        pool = DevPool(Chain(Pow.POSEIDON2, 2**100, 3600.0), 1, 3600.0)
        async with started(pool):
            port = int(pool.url.rpartition(":")[2])
            resolving(monkeypatch, ("::1", port, 0, 0), ("127.0.0.1", port))
            without_ipv6(monkeypatch)
            link, listener = PoolLink(PoolUrl("stratum+tcp", "both.example", port), LOGIN), PoolListener()
            task: asyncio.Task[None] = asyncio.ensure_future(link.run(listener))
            await listener.job()
            task.cancel()
            await asyncio.wait({task})
            resolving(monkeypatch, ("::1", port, 0, 0))
            with pytest.raises(LinkLostError, match=r"^no connection: Address family not supported by protocol$"):
                await link.run(listener)

    asyncio.run(test())


def test_without_ipv6_a_node_s_other_address_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            resolving(monkeypatch, ("::1", node.port, 0, 0), ("127.0.0.1", node.port))
            without_ipv6(monkeypatch)
            pin = parse_fingerprint((node.folder / node_files.FINGERPRINT).read_text())
            link = NodeLink("both.example", node.port, node.token, pin)
            async with linked(link) as (listener, _):
                await listener.jobs.get()
            resolving(monkeypatch, ("::1", node.port, 0, 0))
            with pytest.raises(LinkLostError, match=r"^cannot connect: Address family not supported by protocol$"):
                await link.run(NodeListener())

    run(test())


# --- what is said of a name ---


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no such host name"),
        (socket.gaierror(socket.EAI_NODATA, "No address"), "the host name has no address"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "no name server answered"),
        (socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure"), "the name server failed"),
        (socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"), "Memory allocation failure"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files"),
        (UnicodeError("label too long"), "not a host name"),
    ],
)
def test_a_name_without_address_is_said_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    async def test() -> None:
        for link in (
            PoolLink(PoolUrl("stratum+tcp", "nosuch.pool.example", 1), LOGIN),
            PoolLink(PoolUrl("stratum+ssl", "nosuch.pool.example", 1), LOGIN),
            NodeLink("nosuch.pool.example", 1, "x", bytes(32)),
        ):
            with pytest.raises(LinkLostError) as lost:
                await link.run(NodeListener())
            assert str(lost.value) == f"nosuch.pool.example: {words}"

    failing(monkeypatch, error)
    run(test())


def test_a_thread_that_cannot_be_started_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    async def test() -> None:
        monkeypatch.setattr(threading, "Thread", Thread)
        for _ in range(2):
            with pytest.raises(LinkLostError, match=r"^x\.example: cannot be looked up: can't start new thread$"):
                await PoolLink(PoolUrl("stratum+tcp", "x.example", 1), LOGIN).run(NodeListener())

    run(test())


# --- resolvers that hang ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoolLink(PoolUrl("stratum+tcp", "slow.example", 1), LOGIN, connect_timeout_s=0.05),
        lambda: NodeLink("slow.example", 1, "x", bytes(32), handshake_s=0.05),
    ],
)
def test_a_resolver_that_hangs_has_one_thread_of_its_own(
    hanging: threading.Event, make: Callable[[], PoolLink | NodeLink]
) -> None:
    async def test() -> None:
        links = [make() for _ in range(40)]
        for _ in range(3):
            ends = await asyncio.gather(*(link.run(NodeListener()) for link in links), return_exceptions=True)
            assert {str(end) for end in ends} == {"slow.example: no answer from the name servers within 0.05 s"}
            # asyncio's own threads, of which there are few, are free: scrapes are served by them.
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), WAIT_S) == 7
        assert len(resolvers()) == len(links)

    # The loop ends while they hang: so does the process.
    run(test())
    assert not hanging.is_set()
    assert len(resolvers()) == 40
    assert all(thread.daemon for thread in resolvers())


def test_a_slow_answer_is_taken_by_the_next_attempt(hanging: threading.Event) -> None:
    async def test() -> None:
        names = Addresses("slow.example", 1, socket.SOCK_STREAM)
        with pytest.raises(LookUpError, match="no answer"):
            await names.look_up(0.01)
        (thread,) = resolvers()
        hanging.set()
        with pytest.raises(LookUpError, match=r"^slow\.example: the host name has no address$"):
            await names.look_up(WAIT_S)
        thread.join(WAIT_S)
        assert not resolvers()

    run(test())
