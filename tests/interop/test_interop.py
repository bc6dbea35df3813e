"""The real miner against a node that is not ours: ``main.rs``, on the network's own message types and QUIC stack."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from quantus_miner import pow as reference
from quantus_miner.model import MAX, Pow

from ..conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BINARY = Path(__file__).parent / "target" / "debug" / "quantus-interop-node"

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="the node in tests/interop is not built: make interop")

ALPN = "quantus-miner/2"
TOKEN_FILE, PIN_FILE = "miner-auth-token", "miner-tls-cert-sha256"
DIFFICULTY = 5000
WALLET, WORKER = "wallet", "rig"


class Node:
    """A running node: commands in, events out as they come. ``directory`` holds its token and keeps its certificate."""

    def __init__(self, directory: Path, port: int = 0, alpn: str = ALPN) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [BINARY, directory, str(port), alpn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        listening_port, self.fingerprint = self.expect("listening").split()
        self.port = int(listening_port)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(line.rstrip("\n"))

    def event(self) -> tuple[str, str]:
        """The next event and what it says."""
        kind, _, text = self._events.get(timeout=30).partition(" ")
        return kind, text

    def expect(self, kind: str) -> str:
        """What the next event says, which is of this kind."""
        found, text = self.event()
        assert found == kind, text
        return text

    def result(self) -> dict[str, Any]:
        """The result that is the next event."""
        result = json.loads(self.expect("result"))
        assert isinstance(result, dict)
        return result

    def command(self, *words: object) -> None:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(20)
        self._reader.join(20)
        self.process.stdout.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / TOKEN_FILE).write_text("deadbeef\n", encoding="ascii")
    return tmp_path


def arguments(node: Node, token_file: Path | None = None, pin_file: Path | None = None) -> Sequence[str]:
    return (
        *("serve", "--port", "0", "--workers", "1", "--node-addr", f"127.0.0.1:{node.port}"),
        *("--auth-token-file", str(token_file or node.directory / TOKEN_FILE)),
        *("--tls-cert-sha256-file", str(pin_file or node.directory / PIN_FILE)),
    )


def as_pool(node: Node) -> Sequence[str]:
    """The node as a pool that speaks its protocol: it gets every solution, where a node gets a few a job."""
    return (
        *("serve", "--port", "0", "--workers", "1", "--wallet", WALLET, "--worker-name", WORKER),
        *("--pool", f"quic://127.0.0.1:{node.port}?pin={node.fingerprint}"),
    )


def check(result: dict[str, Any], header: bytes) -> None:
    """The chain's own rule, and the forms that it wants."""
    assert result["status"] == "completed", result
    assert re.fullmatch("[0-9a-f]{128}", result["work"]), result
    nonce = int(result["work"], 16)
    assert result["nonce"] == f"{nonce:x}"
    assert nonce != 0
    assert reference.evaluate(Pow.POSEIDON2, header, nonce) < MAX // DIFFICULTY
    assert result["hash_count"] >= 1
    assert result["elapsed_time"] >= 0


@contextlib.contextmanager
def mining(node: Node, flags: Callable[[Node], Sequence[str]] = arguments) -> Iterator[MinerProcess]:
    """A miner that the node has let in; its log is shown if the test fails."""
    with MinerProcess(*flags(node)) as miner:
        try:
            node.expect("ready")
            yield miner
        finally:
            print(*miner.log, sep="\n")


def header_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def mine(node: Node, jobs: int, chain: str = "chain") -> list[dict[str, Any]]:
    """All results of so many jobs, each replaced by the next as soon as it was solved; they have been checked."""
    headers = [header_of(f"{chain} {number}") for number in range(1, jobs + 1)]
    results: list[dict[str, Any]] = []
    for number, header in enumerate(headers, start=1):
        node.command("job", number, header.hex(), DIFFICULTY)
        while not results or results[-1]["job_id"] != str(number):
            results.append(node.result())
    for result in results:
        check(result, headers[int(result["job_id"]) - 1])
    return results


def run_refused(*args: str) -> str:
    """The one line with which a miner gives up."""
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", *args, "--exit-on-refusal"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={name: text for name, text in os.environ.items() if not name.startswith("MINER_")},
        check=False,
    )
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = ended.stderr.splitlines()
    assert [line for line in lines if line.startswith("quantus-miner: ")] == lines[-1:], ended.stderr
    return lines[-1]


def test_five_hundred_jobs(directory: Path) -> None:
    with Node(directory) as node, mining(node) as miner:
        results = mine(node, 500)
        numbers = [int(result["job_id"]) for result in results]
        assert numbers == sorted(numbers)  # none of a job after one of the job that replaced it
        assert len({(result["job_id"], result["work"]) for result in results}) == len(results)
        assert miner.stop() == 0
        while (event := node.event()[0]) == "result":
            pass
        assert event == "disconnected"


def test_a_pool_gets_every_solution_of_a_job(directory: Path) -> None:
    header = header_of("a block")
    (directory / TOKEN_FILE).write_text(f"{WALLET}.{WORKER}", encoding="ascii")
    with Node(directory) as node, mining(node, as_pool):
        node.command("job", 1, header.hex(), DIFFICULTY)
        results = [node.result() for _ in range(5)]
    for result in results:
        check(result, header)
    assert len({result["work"] for result in results}) == len(results)


def test_a_job_that_makes_no_sense_is_answered_and_mining_goes_on(directory: Path) -> None:
    with Node(directory) as node, mining(node):
        for job_id, header, difficulty in (
            ("hash", "zz" * 32, "1"),
            ("zero", "00" * 32, "0"),
            ("word", "00" * 32, "x"),
        ):
            node.command("job", job_id, header, difficulty)
            result = node.result()
            assert (result["job_id"], result["status"], result["work"]) == (job_id, "failed", None)
        mine(node, 1)


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_node_restarts(directory: Path, end: str) -> None:
    with Node(directory) as node, mining(node):
        mine(node, 3)
        if end == "killed":
            node.process.kill()  # says nothing: the miner has to notice the silence
        node.__exit__()
        with Node(directory, node.port) as again:
            assert again.fingerprint == node.fingerprint
            again.expect("ready")
            mine(again, 3, "another chain")


def test_a_pool_that_cannot_queue_results_disconnects(directory: Path) -> None:
    header = header_of("a block")
    (directory / TOKEN_FILE).write_text(f"{WALLET}.{WORKER}", encoding="ascii")
    with Node(directory) as node, mining(node, as_pool):
        node.command("job", 1, header.hex(), DIFFICULTY)
        node.command("ignore", 8)
        while (event := node.event())[0] == "result":
            pass
        assert event == ("disconnected", "results flood the queue")
        node.expect("ready")
        check(node.result(), header)


def test_another_certificate_is_refused_before_the_token_is_shown(directory: Path) -> None:
    pin = directory / "pin"
    pin.write_text("ab" * 32, encoding="ascii")
    with Node(directory) as node:
        assert "certificate" in run_refused(*arguments(node, pin_file=pin))
        assert "by peer" in node.expect("refused")  # not by the node, which would have had to read a token


def test_a_wrong_token_is_final(directory: Path) -> None:
    token = directory / "token"
    token.write_text("beefdead", encoding="ascii")
    with Node(directory) as node:
        assert "token" in run_refused(*arguments(node, token_file=token))
        assert "auth failed: Ready" in node.expect("refused")


def test_a_node_of_another_protocol_is_final(directory: Path) -> None:
    with Node(directory, alpn="quantus-miner") as node:
        assert ALPN in run_refused(*arguments(node))
        assert "handshake failed" in node.expect("refused")
