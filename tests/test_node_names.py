"""Names and addresses of nodes."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from quantus_miner.dev import node_files
from quantus_miner.errors import LinkLostError, LinkRefusedError
from quantus_miner.sources.node import NodeLink
from quantus_miner.wire.messages import parse_fingerprint

from .node_link import WAIT_S, NodeListener, link_to, linked, playing, run

if TYPE_CHECKING:
    from pathlib import Path


def look_up(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    infos = [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)


def test_every_address_of_a_name_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_port: int, silent_port: int
) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            link = link_to(node, handshake_s=0.5)
            look_up(
                monkeypatch,
                ("255.255.255.255", 1),
                ("127.0.0.1", dead_port),
                ("127.0.0.1", silent_port),
                ("127.0.0.1", node.port),
            )
            async with linked(link) as (listener, _):
                await listener.jobs.get()
            look_up(monkeypatch, ("255.255.255.255", 1))
            with pytest.raises(LinkLostError, match=r"^cannot connect: "):
                await link.run(NodeListener())

    run(test())


def test_an_address_that_refuses_us_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_port: int
) -> None:
    async def test() -> None:
        async with playing(tmp_path, alpn="quantus-miner") as node:
            link = link_to(node)
            look_up(monkeypatch, ("127.0.0.1", node.port), ("127.0.0.1", dead_port))
            with pytest.raises(LinkRefusedError, match="wrong node version"):
                await link.run(NodeListener())

    run(test())


def test_localhost_is_found_in_whatever_family(tmp_path: Path) -> None:
    async def test() -> None:
        async with playing(tmp_path) as node:
            pin = parse_fingerprint((node.folder / node_files.FINGERPRINT).read_text())
            async with linked(NodeLink("localhost", node.port, node.token, pin)) as (listener, _):
                await listener.jobs.get()

    run(test())


def test_a_name_without_address_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def test() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", fails)
        with pytest.raises(LinkLostError, match=r"^nowhere\.invalid: no such host name$"):
            await NodeLink("nowhere.invalid", 1, "x", bytes(32)).run(NodeListener())

    run(test())


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..b", "\udc80"])
def test_a_name_that_is_none_is_a_loss(host: str) -> None:
    async def test() -> None:
        with pytest.raises(LinkLostError, match=r": not a host name$"):
            await NodeLink(host, 1, "x", bytes(32)).run(NodeListener())

    run(test())


def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    async def test() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait() and [])
        with pytest.raises(LinkLostError, match=r"^slow\.invalid: no answer from the name servers within 0\.05 s$"):
            await NodeLink("slow.invalid", 1, "x", bytes(32), handshake_s=0.05).run(NodeListener())

    run(test())
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "resolver")
    release.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_names_are_fit_for_logs() -> None:
    assert NodeLink("127.0.0.1", 9833, "t", None).name == "node 127.0.0.1:9833"
    assert NodeLink("::1", 9833, "t", None).name == "node [::1]:9833"
    assert NodeLink("pool.example", 1, "t", None, kind="pool").name == "pool quic://pool.example:1"
