"""The server and the file descriptors that are left."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantus_miner.errors import MinerError
from quantus_miner.web import server

from .conftest import with_file_limit
from .no_ipv6 import without_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def file_limit(files: int) -> Iterator[None]:
    """That many file descriptors for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_share_the_file_descriptors_that_are_left() -> None:
    used = len(list(Path("/proc/self/fd").iterdir())) - 1
    api = {"port": server.MAX_CONNECTIONS}
    exporter = api | {"metrics_port": server.MAX_SCRAPERS}
    everything = exporter | {"rig_port": server.MAX_SCRAPERS, "rig_claymore_port": 8, "rig_cgminer_port": 8}
    with file_limit(used + 100):
        assert server.share_connections(0, api) == {"port": 96}
        assert server.share_connections(10, api) == {"port": 76}
        assert server.share_connections(0, exporter) == {"port": 83, "metrics_port": 11}
        shares = server.share_connections(0, everything)
        assert shares == {"port": 50, "metrics_port": 11, "rig_port": 11, "rig_claymore_port": 8, "rig_cgminer_port": 8}
    with file_limit(used + 5_000):
        assert server.share_connections(3, everything) == everything
    for ports, needed in ((api, 6), (exporter, 9), (everything, 18)):
        with file_limit(used + needed):
            shares = server.share_connections(0, ports)
            assert shares == dict.fromkeys(ports, 1) | {"port": server.MIN_CONNECTIONS}
        with (
            file_limit(used + needed - 1),
            pytest.raises(MinerError, match=rf"is {used + needed - 1}, but at least {used + needed} are needed; raise"),
        ):
            server.share_connections(0, ports)


@pytest.mark.parametrize(("files", "exporter"), [(18, False), (24, True), (32, True), (64, False), (64, True)])
def test_with_few_file_descriptors_idle_connections_keep_nobody_out(files: int, exporter: bool) -> None:
    flags = ["--metrics-port", "0"] if exporter else []
    process = with_file_limit(files, "--port", "0", "--workers", "1", *flags)
    with process as miner, contextlib.ExitStack() as held:
        ports = [miner.port, *([miner.metrics_port] if exporter else [])]
        for _ in range(40):
            for port in ports:
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(3):
            assert miner.call("GET", "/health") == (200, {"status": "ready"})
            if exporter:
                assert miner.metrics()["miner_store_ok", frozenset()] == 1
        job = {"job_id": "j", "mining_hash": "00" * 32, "difficulty": "1"}
        assert miner.call("POST", "/mine", job)[0] == 200
        assert miner.result("j")["status"] == "completed"
        assert miner.stop() == 0
        assert not [line for line in miner.log if " INFO " not in line]


@pytest.mark.parametrize("files", [10, server.MIN_FILES - 1])
def test_too_few_file_descriptors_are_one_line_that_says_how_many_are_needed(files: int) -> None:
    with with_file_limit(files, "--port", "0", "--workers", "1") as miner:
        line = miner.wait_for_line("the limit of file descriptors is")
        assert f" is {files}, but at least {server.MIN_FILES} are needed; raise it " in line
        assert miner.process.wait(20) == 5
        assert miner.log[-1] == line


def test_a_socket_that_cannot_be_had_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MinerError, match=rf"^--port: cannot listen on 127\.0\.0\.1:{port}: "):
            server.listen("127.0.0.1", port, "--port")


def test_a_system_without_ipv6_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ipv6(monkeypatch)
    with pytest.raises(
        MinerError, match=r"^--port: cannot listen on \[::1\]:0: Address family not supported by protocol; "
    ):
        server.listen("::1", 0, "--port")


def test_ipv6_endpoints_have_brackets() -> None:
    with server.listen("::1", 0, "--port") as sock:
        assert server.endpoint(sock) == f"[::1]:{sock.getsockname()[1]}"


def test_idle_connections_leave_file_descriptors_to_a_pool() -> None:
    with socket.create_server(("127.0.0.1", 0)) as pool, contextlib.ExitStack() as held:
        pool.settimeout(20)
        where = f"--pool=stratum+tcp://localhost:{pool.getsockname()[1]}"
        with with_file_limit(20, "--port=0", "--workers=1", "--wallet=someone", where) as miner:
            first, _ = pool.accept()
            for _ in range(40):
                held.enter_context(socket.create_connection(("127.0.0.1", miner.port)))
            assert miner.call("GET", "/health")[0] == 200
            first.close()
            # The name is looked up again.
            second, _ = pool.accept()
            second.close()
            assert miner.stop() == 0
            assert not [line for line in miner.log if "open files" in line]
