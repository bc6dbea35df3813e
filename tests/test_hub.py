"""The hub: its settings, and as a process between a node, our own miner and a client from the specification."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from quantus_miner.dev.chain import Chain
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import SettingError
from quantus_miner.host.certificate import self_signed
from quantus_miner.model import Pow
from quantus_miner.parts.door import tls_context
from quantus_miner.settings import load
from quantus_miner.wire import validator

from .conftest import MinerProcess
from .hub import HubProcess, until
from .stratum_client import StratumClient

if TYPE_CHECKING:
    from pathlib import Path


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.pem"
    flags = {"node_addr": "a", "auth_token": "t", "tls_cert_sha256": "00" * 32, "stratum_port": "0"}
    settings = load(flags | {"stratum_cert": str(path)}, {"HOME": "/"}, None, command="hub")
    with pytest.raises(SettingError, match=r"^--stratum-cert: cannot use .*own.pem: No such file or directory$"):
        tls_context(settings)
    path.write_text("x")
    with pytest.raises(SettingError, match=r"own.pem: it must hold a certificate and its private key, without a pass"):
        tls_context(settings)
    path.write_bytes(self_signed().pem)
    assert tls_context(settings) is not None


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("node_addr", "the hub needs --node-addr or --pool"),
        ("stratum_port", "the hub needs --stratum-port, --nats-port or --nats"),
        ("stratum_cert", "--stratum-key needs --stratum-cert"),
    ],
)
def test_what_a_hub_cannot_do_without(missing: str, reason: str) -> None:
    flags = {
        "node_addr": "a",
        "auth_token": "t",
        "tls_cert_sha256": "00" * 32,
        "stratum_port": "0",
        "stratum_cert": "c",
        "stratum_key": "k",
    }
    assert load(flags, {"HOME": "/"}, None, command="hub").stratum_port == 0
    with pytest.raises(SettingError, match=f"^{reason}$"):
        load({name: text for name, text in flags.items() if name != missing}, {"HOME": "/"}, None, command="hub")


def test_settings_of_the_other_command_have_their_defaults() -> None:
    environ = {"HOME": "/", "MINER_STRATUM_PORT": "nonsense", "MINER_WORKERS": "3", "MINER_STRATUM_BIND": "::1"}
    assert (load({}, environ, None).stratum_bind, load({}, environ, None).workers) == ("127.0.0.1", 3)
    flags = {"pool": "stratum+tcp://a:1", "wallet": "w", "stratum_port": "1"}
    settings = load(flags, environ | {"MINER_WORKERS": "nonsense"}, None, command="hub")
    assert (settings.stratum_bind, settings.workers) == ("::1", None)


def test_our_own_miner_and_a_client_from_the_specification_seal_blocks_through_a_hub(tmp_path: Path) -> None:
    """All as processes but the node. The hub is killed and started again in between: nothing is lost or sent twice."""

    async def test() -> None:
        lines: list[str] = []
        node = QuicNode(Chain(Pow.POSEIDON2, 60, 0.2), tmp_path, report=lines.append)
        await node.start()
        state, flags = tmp_path / "hub", ("--stratum-difficulty=20", "--metrics-port=0")
        try:
            with HubProcess(node.port, node.folder, state, "--stratum-port=0", *flags) as hub:
                port = await asyncio.to_thread(lambda: hub.stratum_port)
                await asyncio.to_thread(hub.wait_for_line, "Connected to node")
                await until(lambda: bool(node.miners))
                client = await StratumClient.logged_in(port, "anything.spec")
                while node.chain.height < 2:
                    assert await client.submit(client.share()) in ("OK", validator.STALE)
                await client.close()
                metrics = await asyncio.to_thread(hub.metrics)
                worker = frozenset({("worker", "spec")})
                assert metrics["miner_hub_worker_solutions_total", worker] >= 2
                source = ("source", f"node 127.0.0.1:{node.port}")
                assert metrics["miner_source_solutions_total", frozenset({source, ("result", "sent")})] >= 2
                height = node.chain.height
                hub.process.kill()
                with (
                    MinerProcess(
                        "--port=0",
                        "--workers=1",
                        f"--pool=stratum+tcp://127.0.0.1:{port}",
                        "--wallet=w",
                        "--worker-name=own",
                    ) as miner,
                    HubProcess(node.port, node.folder, state, f"--stratum-port={port}", *flags) as again,
                ):
                    await until(lambda: node.chain.height >= height + 5)
                    await asyncio.to_thread(miner.wait_for_line, "accepted (")
                    metrics = await asyncio.to_thread(again.metrics)
                    assert metrics["miner_hub_worker_solutions_total", frozenset({("worker", "own")})] >= 1
                    assert await asyncio.to_thread(miner.stop) == 0
                    assert await asyncio.to_thread(again.stop) == 0
        finally:
            await node.stop()
        assert (node.tally.invalid, node.failed) == (0, 0), lines

    asyncio.run(test())
