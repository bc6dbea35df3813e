"""Certificates of pools, and ports with TLS and without."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import pytest

from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.sources.pool import PoolLink
from quantus_miner.wire.pool_url import parse_pool_url

from .pool_link import LOGIN, PoolListener, dev_pool, failure, linked, lost, run, serving, started


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
            assert [record.levelname for record in caplog.records if record.name.startswith("miner")] == ["WARNING"]
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
