"""The server's own bounds, with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner.web import connection, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/forever":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"x" * 10_000_000 if scope["path"] == "/big" else b"ok"
    if scope["path"] == "/echo":
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        body = b"<%b %b>" % (scope["method"].encode(), body)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(connections: int = server.MAX_CONNECTIONS) -> AsyncIterator[tuple[str, int]]:
    async with started(connections) as (_, address):
        yield address


@contextlib.asynccontextmanager
async def started(connections: int) -> AsyncIterator[tuple[server.Server, tuple[str, int]]]:
    listening = server.listen("127.0.0.1", 0, "--port")
    running = server.Server(app, listening, connections)
    task = asyncio.create_task(running.run_until_stopped())
    try:
        yield running, listening.getsockname()
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


async def until(condition: Callable[[], bool]) -> None:
    """Lets the server's tasks run, until something is so of which it does not tell."""
    while not condition():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0)


BIG = b"GET /big HTTP/1.1\r\nhost: 127.0.0.1\r\n"
HEAD = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n"
CUT_OFF = {
    "noise": b"\r\n",
    "half a line": b"GET / HT",
    "half a head": HEAD,
    "half a body": HEAD + b"content-length: 9\r\n\r\nabc",
    "half a trailer": HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\na: b",
}


@pytest.mark.parametrize("data", CUT_OFF.values(), ids=CUT_OFF)
def test_a_client_that_stalls_is_cut_off(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with serving() as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD + b"\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), 20)).startswith(b"HTTP/1.1 200")
            writer.write(data)  # begins another request
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()

    asyncio.run(run())


def test_a_client_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with serving() as address:
            assert await talk(address, b"") in (b"", b"reset")

    asyncio.run(run())


@pytest.mark.parametrize(
    "endless",
    [
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000,
        b"GET / HTTP/1.1\r\nx: " + b"y" * 600_000,
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 100_000,
        HEAD + b"\r\n" + b"\r\n" * 300_000,
    ],
    ids=["headers", "one header", "trailers", "noise"],
)
def test_what_is_no_body_is_bounded(endless: bytes) -> None:
    async def run() -> None:
        async with serving() as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(endless)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 10)  # REQUEST_TIMEOUT_S is longer
            writer.close()

    asyncio.run(run())


def test_a_body_does_not_count_as_head_and_pipelined_requests_are_answered() -> None:
    async def run() -> None:
        async with serving() as address:
            body = b"z" * 60_000
            post = b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 60000\r\n\r\n" + body
            answer = await talk(address, post + HEAD + b"\r\n" + post + b"GET / HTTP/1.0\r\n\r\n")
            assert answer.count(b"HTTP/1.1 200 OK") == 4

    asyncio.run(run())


OFFERS = {
    "none": b"",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": b"connection: keep-alive\r\nUPGRADE: websocket\r\nconnection: upgrade\r\n",
    "unknown": b"upgrade: x/1, y\r\nupgrade: z\r\nconnection: UPGRADE\r\n",
}
INNER = b"POST /cancel/x HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
BODIES = {
    "length": (b"content-length: %d\r\n\r\n" % len(INNER), INNER),
    "chunks": (b"transfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)),
    "trailers": (
        b"transfer-encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n0\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" % (len(INNER), INNER),
    ),
    "expect": (b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(INNER), INNER),
}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "body later"])
@pytest.mark.parametrize("frame", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_an_offered_upgrade_is_ignored_and_the_body_read(offer: bytes, frame: tuple[bytes, bytes], later: bool) -> None:
    async def run() -> None:
        async with started(10) as (running, address):
            reader, writer = await asyncio.open_connection(*address)
            head, body = b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\n" + offer + frame[0], frame[1]
            behind = (
                b"GET /echo HTTP/1.1\r\nhost: 127.0.0.1\r\n" + offer + b"\r\n" + b"GET / HTTP/1.0\r\n" + offer + b"\r\n"
            )
            if later:
                writer.write(head)
                await until(lambda: bool(running.server_state.tasks))
                writer.write(body + behind)
            else:
                writer.write(head + body + behind)
            replies = await asyncio.wait_for(reader.read(), 20)
            assert replies.count(b"HTTP/1.1 200 OK\r\n") == 3
            assert b" 400 " not in replies
            assert b"<POST " + INNER + b">" in replies
            assert replies.index(b"<POST") < replies.index(b"<GET >") < replies.index(b"ok", replies.index(b"<GET >"))
            writer.close()

    asyncio.run(run())


def test_an_upgrade_of_http_1_0_and_one_that_breaks_the_rules_of_framing() -> None:
    offer = OFFERS["h2c"]
    both = b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"

    async def run() -> None:
        async with serving() as address:
            old = b"POST /echo HTTP/1.0\r\n" + offer + b"content-length: 3\r\n\r\nabc" + INNER
            replies = await talk(address, old)
            assert replies.endswith(b"<POST abc>")
            assert replies.count(b"HTTP/1.1 ") == 1
            for wrong in (
                both,
                b"transfer-encoding: gzip\r\n\r\nabc",
                b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            ):
                replies = await talk(address, b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\n" + offer + wrong)
                assert replies.startswith(b"HTTP/1.1 400 ")

    asyncio.run(run())


def test_connect_is_refused_and_what_follows_it_is_not_read() -> None:
    async def run() -> None:
        async with serving() as address:
            replies = await talk(address, b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n" + INNER)
            assert replies.startswith(b"HTTP/1.1 400 ")
            assert b"CONNECT" in replies
            assert replies.count(b"HTTP/1.1 ") == 1

    asyncio.run(run())


def head_of(size: int, end: bytes = b"connection: close\r\n\r\n") -> bytes:
    start = b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\na: "
    return start + b"x" * (size - len(start) - len(end) - 2) + b"\r\n" + end


@pytest.mark.parametrize("cut", [connection.MAX_HEAD + 10, 1, 8191, 8192, 8193, 32_767])
@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["first", "second"])
def test_a_head_has_just_as_many_bytes_as_documented(cut: int, before: bytes) -> None:
    async def run() -> None:
        async with serving() as address:
            for size, passes in ((connection.MAX_HEAD, True), (connection.MAX_HEAD + 1, False)):
                end = b"connection: close\r\ncontent-length: 20000\r\n\r\n"
                data = head_of(size, end) + b"y" * 20_000
                reader, writer = await asyncio.open_connection(*address)
                if before:
                    writer.write(before)
                    await asyncio.wait_for(reader.readuntil(b"ok"), 20)
                replies = b""
                with contextlib.suppress(ConnectionError):
                    writer.write(data[:cut])
                    await writer.drain()
                    writer.write(data[cut:])
                    replies = await asyncio.wait_for(reader.read(), 20)
                assert (b"<POST " + b"y" * 20_000 + b">" in replies) == passes, size
                assert bool(replies) == passes
                writer.close()

    asyncio.run(run())


def test_a_head_without_a_body_has_no_byte_more() -> None:
    async def run() -> None:
        async with serving() as address:
            assert b"<POST >" in await talk(address, head_of(connection.MAX_HEAD))
            assert await talk(address, head_of(connection.MAX_HEAD + 1)) == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "before", [HEAD + b"\r\n", b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"".join(BODIES["trailers"])]
)
def test_a_head_right_behind_another_request_is_bounded_too(before: bytes) -> None:
    async def run() -> None:
        async with serving() as address:
            replies = await talk(address, before + head_of(connection.MAX_HEAD + 1))
            assert b"<POST >" not in replies
            assert b"<POST >" in await talk(address, before + head_of(connection.MAX_HEAD - connection.PIECE))

    asyncio.run(run())


def test_bytes_that_are_not_http_are_answered_in_json() -> None:
    async def run() -> None:
        async with serving() as address:
            answer = await talk(address, b"\xff\xff\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "error"

    asyncio.run(run())


def test_a_stop_cuts_off_a_client_that_does_not_read() -> None:
    async def run() -> None:
        async with serving() as address:
            with socket.create_connection(address) as greedy:
                greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
                greedy.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        greedy.send(BIG + b"\r\n")
                assert (await talk(address, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"ok")
                # serving() now stops the server, and waits for it.

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize(
    "left", [b"", b"GET / HT", HEAD + b"content-length: 9\r\n\r\nabc"], ids=["idle", "head", "body"]
)
def test_beyond_the_limit_who_waited_the_longest_makes_room(left: bytes) -> None:
    async def run() -> None:
        async with serving(2) as address:
            readers, writers = [], []
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(HEAD + b"\r\n")
                await reader.readuntil(b"ok")
                readers.append(reader)
                writers.append(writer)
            writers[0].write(HEAD + b"\r\n" + left)
            await readers[0].readuntil(b"ok")
            assert (await talk(address, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(readers[1].read(), 5) == b""  # REQUEST_TIMEOUT_S is longer
            writers[0].write(b"TP/1.1\r\n\r\n" if left == b"GET / HT" else b"defghi" if left else HEAD + b"\r\n")
            assert (await asyncio.wait_for(readers[0].readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
            for writer in writers:
                writer.close()

    asyncio.run(run())


def test_where_all_are_waiting_for_us_more_are_told_so() -> None:
    async def run() -> None:
        async with started(2) as (running, address):
            held = []
            for _ in range(2):
                _, writer = await asyncio.open_connection(*address)
                writer.write(b"GET /forever HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                held.append(writer)
            await until(lambda: len(running.server_state.tasks) == 2)
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


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"a: b\r\n" * (connection.MAX_HEADERS - 1) + b"\r\n", 200),
        (HEAD + b"a: b\r\n" * connection.MAX_HEADERS + b"\r\n", 400),
        ((HEAD + b"\r\n") * (connection.MAX_PIPELINED + 2), 400),
    ],
    ids=["most headers", "too many headers", "too many requests"],
)
def test_what_takes_memory_is_counted(request_: bytes, status: int) -> None:
    async def run() -> None:
        async with serving() as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(request_)
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 %d " % status)
            writer.close()

    asyncio.run(run())


def test_the_last_bytes_of_a_reply_have_to_be_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fewer than asyncio, left alone, would tell us of."""
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.5)

    async def run() -> None:
        async with started(1) as (running, address):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, address)
                replies = 0
                state = running.server_state

                def stuck() -> bool:
                    return any(connection.transport.get_write_buffer_size() for connection in state.connections)

                while not stuck():
                    await loop.sock_sendall(client, HEAD + b"\r\n")
                    replies += 1
                    await until(lambda sent=replies: stuck() or state.total_requests == sent)  # type: ignore[misc]
                await until(lambda: not state.connections)
                assert replies > 100

    asyncio.run(asyncio.wait_for(run(), 20))
