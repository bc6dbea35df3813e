"""The server's own bounds, with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import server
from quantus_miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    listening = server.listen("127.0.0.1", 0, "--port")
    running = server.Server(app, listening)
    task = asyncio.create_task(running.run_until_stopped())
    try:
        yield listening.getsockname()
    finally:
        running.stop(0.0)
        await task


async def talk(address: tuple[str, int], data: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


def test_a_client_that_says_nothing_or_too_little_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with serving() as address:
            for data in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"):
                assert await talk(address, data) in (b"", b"reset")
            # A second request on a connection that was fine.
            answer = await talk(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTT")
            assert answer.startswith(b"HTTP/1.1 200") or answer == b"reset"

    asyncio.run(run())


def test_a_head_without_end_is_cut_off() -> None:
    async def run() -> None:
        async with serving() as address:
            endless = b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200_000
            assert await talk(address, endless) in (b"", b"reset")

    asyncio.run(run())


def test_connections_beyond_the_limit_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)

    async def run() -> None:
        async with serving() as address:
            ask = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
            held = []
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(ask)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                held.append(writer)
            refused = await talk(address, b"")
            head, _, body = refused.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert f"content-length: {len(body)}".encode() in head
            assert b"too many connections" in body
            for writer in held:
                writer.close()
                await writer.wait_closed()
            while not (await talk(address, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                pass

    asyncio.run(run())


def test_a_socket_that_cannot_be_had_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MinerError, match=rf"^--port: cannot listen on 127\.0\.0\.1:{port}: "):
            server.listen("127.0.0.1", port, "--port")


def test_ipv6_endpoints_have_brackets() -> None:
    with server.listen("::1", 0, "--port") as sock:
        assert server.endpoint(sock) == f"[::1]:{sock.getsockname()[1]}"
