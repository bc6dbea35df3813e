"""Clients of the TCP ports for rig managers that are slow, large, silent or many. They keep nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from quantus_miner.web import line_server, server

from .conftest import MinerProcess, with_file_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

GETSTAT = b'{"id":0,"jsonrpc":"2.0","method":"miner_getstat1"}'
PORTS = ("--port=0", "--rig-port=0", "--rig-claymore-port=0", "--rig-cgminer-port=0")


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with MinerProcess(*PORTS, "--workers=1") as miner:
        yield {what: miner._port(f"Starting {what} API on ") for what in ("Claymore", "cgminer")}
        assert miner.stop() == 0
    assert not [line for line in miner.log if "Traceback" in line or "has failed" in line]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def ask(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """All that comes back until the server closes. ``end``: send the end of the stream after the pieces."""
    with connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        if end:
            client.shutdown(socket.SHUT_WR)
        reply = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65_536):
                reply += part
        return reply


def answers(ports: dict[str, int]) -> bool:
    claymore = json.loads(ask(ports["Claymore"], GETSTAT + b"\n"))
    cgminer = json.loads(ask(ports["cgminer"], b'{"command":"summary"}').rstrip(b"\0"))
    return len(claymore["result"]) == 9 and cgminer["STATUS"][0]["STATUS"] == "S"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\0", b" \n"])
def test_a_request_may_end_as_it_likes_and_come_in_pieces(ports: dict[str, int], end: bytes) -> None:
    whole = GETSTAT + end
    replies = {ask(ports["Claymore"], whole), ask(ports["Claymore"], *(bytes([byte]) for byte in whole))}
    assert all(len(json.loads(reply)["result"]) == 9 for reply in replies)


def test_the_end_of_the_stream_ends_a_request_that_is_no_json(ports: dict[str, int]) -> None:
    assert json.loads(ask(ports["Claymore"], b"summary", end=True))["error"]["code"] == -32700
    assert ask(ports["Claymore"], end=True) == b""
    assert ask(ports["Claymore"], b"GET / HTTP/1.1\r\nHost: page.example\r\n\r\n").count(b"\n") <= 1


@pytest.mark.parametrize(
    "flood", [b"x" * 1_000_000, b"{" * 1_000_000, b'{"a":' * 800 + b"1" + b"}" * 800, b"\n" * 9_999]
)
def test_large_and_deep_requests_are_cut_off(ports: dict[str, int], flood: bytes) -> None:
    for port in ports.values():
        with contextlib.suppress(OSError):
            assert len(ask(port, flood, end=True)) < 1_000
    assert answers(ports)


def test_idle_clients_keep_nobody_out(ports: dict[str, int]) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(50):
            for port in ports.values():
                held.enter_context(connect(port)).sendall(b'{"id":0,')
        assert answers(ports)


def test_clients_that_come_and_go_disturb_nobody(ports: dict[str, int]) -> None:
    for _ in range(200):
        for port in ports.values():
            with connect(port) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
                client.sendall(GETSTAT)
    assert answers(ports)


def test_clients_that_stay_do_not_delay_the_end() -> None:
    with MinerProcess(*PORTS, "--workers=1") as miner, contextlib.ExitStack() as held:
        assert miner.port
        for what in ("rig", "Claymore", "cgminer"):
            for _ in range(5):
                held.enter_context(connect(miner._port(f"Starting {what} API on "))).sendall(b"{")
        began = time.monotonic()
        assert miner.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 5
    assert not [line for line in miner.log if "has failed" in line]


def test_all_ports_share_few_file_descriptors() -> None:
    with with_file_limit(34, *PORTS, "--metrics-port=0", "--workers=1") as miner, contextlib.ExitStack() as held:
        ports = {what: miner._port(f"Starting {what} API on ") for what in ("Claymore", "cgminer")}
        every = [miner.port, miner.metrics_port, miner._port("Starting rig API on "), *ports.values()]
        for _ in range(20):
            for port in every:
                held.enter_context(connect(port))
        assert answers(ports)
        assert miner.call("GET", "/health")[0] == 200
        assert miner.metrics()
        assert miner.stop() == 0


def test_a_port_that_is_taken_ends_the_start_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with MinerProcess("--port=0", "--workers=1", f"--rig-cgminer-port={port}") as miner:
            assert miner.process.wait(20) == 1
            miner._reader.join(20)
    assert miner.log[-1] == (
        f"quantus-miner: --rig-cgminer-port: cannot listen on 127.0.0.1:{port}: Address already in use"
    )


# --- the server alone ---


@contextlib.asynccontextmanager
async def serving(
    answer: Callable[[bytes], bytes], most: int = 2
) -> AsyncIterator[tuple[line_server.LineServer, tuple[str, int]]]:
    sock = server.listen("127.0.0.1", 0, "--rig-claymore-port")
    tested = line_server.LineServer(sock, most, answer)
    running = asyncio.create_task(tested.run())
    try:
        yield tested, sock.getsockname()
    finally:
        running.cancel()
        await asyncio.wait((running,))
        tested.close()


def test_a_client_has_seconds_to_ask_and_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_server, "CLIENT_S", 0.05)

    async def run() -> None:
        async with serving(lambda _: b"x" * 10_000_000) as (tested, address):
            silent, writer = await asyncio.open_connection(*address)
            assert await silent.read() == b""
            writer.close()
            # This one does not read before it is too late, so most of the reply is never sent.
            with connect(address[1]) as client:
                client.sendall(b"\n")
                while not tested._open:  # noqa: ASYNC110 - there is no event for that
                    await asyncio.sleep(0)
                while tested._open:  # noqa: ASYNC110 - the same
                    await asyncio.sleep(0)
                reply = b"".join(iter(lambda: client.recv(65_536), b""))
                assert 0 < len(reply) < 10_000_000

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_reply_that_fails_ends_only_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: bytes) -> bytes:
        if request == b"bad":
            raise RuntimeError("boom")
        return request

    async def once(address: tuple[str, int], request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        reply = await reader.read()
        writer.close()
        return reply

    async def run() -> None:
        async with serving(answer) as (_, address):
            assert await once(address, b"bad\n") == b""
            assert await once(address, b" good\n") == b"good"

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(run(), 20))
    assert [record.message for record in caplog.records] == ["A rig manager's request has failed"]
