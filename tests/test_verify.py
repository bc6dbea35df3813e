"""``verify`` on what nodes and explorers give: files in their forms, and a node's JSON-RPC server over real sockets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest

from quantus_miner import rpc
from quantus_miner.errors import MinerError
from quantus_miner.host.certificate import self_signed
from quantus_miner.host.deadline import within
from quantus_miner.pow.block import SealedBlock

from .conftest import vectors

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

BLOCK = vectors("node_replies")
HEADER = BLOCK["header"]
HEIGHT = int(HEADER["number"], 16)
ACHIEVED = int(BLOCK["achieved_difficulty"])


def verify(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantus_miner", "verify", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environ,
    )


def reply(result: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


BLOCK_OBJECT = {"header": HEADER, "extrinsics": ["0x280502000b20"]}
PLAIN = {
    **{name: text.removeprefix("0x") for name, text in HEADER.items() if name not in ("number", "digest")},
    "number": HEIGHT,
    "digest_logs": [log.removeprefix("0x") for log in HEADER["digest"]["logs"]],
}
FORMS: dict[str, object] = {
    "chain_getHeader": reply(HEADER),
    "chain_getHeader with a null error": reply(HEADER) | {"error": None},
    "chain_getBlock": reply({"block": BLOCK_OBJECT, "justifications": None}),
    "its result": {"block": BLOCK_OBJECT, "justifications": None},
    "its block": BLOCK_OBJECT,
    "hash and header": {"hash": BLOCK["hash"], "header": HEADER},
    "header": HEADER,
    "header without 0x": PLAIN,
    "number in decimal": HEADER | {"number": str(HEIGHT)},
    "number as an integer": HEADER | {"number": HEIGHT},
    "hash in the header": HEADER | {"hash": BLOCK["hash"]},
    "digits in capitals": HEADER | {"parentHash": "0x" + HEADER["parentHash"][2:].upper()},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form_of_a_block_is_the_same_block(form: object) -> None:
    block = SealedBlock.parse(json.dumps(form))
    assert block == SealedBlock.parse(json.dumps(HEADER))
    assert block.header.number == HEIGHT
    assert block.hash.hex() == BLOCK["hash"].removeprefix("0x")
    assert block.mining_hash.hex() == BLOCK["mining_hash"]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (reply(None), "result must be a JSON object; the node knows no such block"),
        (reply({"block": None}), "block must be a JSON object"),
        ({"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid\nparams"}}, r"error: 'Invalid\\nparams'"),
        ({"hash": "0x" + "00" * 32, "header": HEADER}, "hash is not that of the header, which is 1bb1bf45"),
        (HEADER | {"digest": {}}, "the header has no digest.logs; it must have parentHash, .* number and digest.logs"),
        (HEADER | {"digest": ["0x"]}, "the header has no digest.logs"),
        (HEADER | {"digest": {"logs": "0x"}}, "digest.logs must be a list"),
        (HEADER | {"digest": {"logs": ["0x0"]}}, r"digest.logs\[0\] must be a string of hex digits"),
        (HEADER | {"number": "0x"}, "number must be a whole number"),
        (HEADER | {"number": "0x100000000"}, "number must be a whole number from 0 to 4294967295"),
        (HEADER | {"number": "1_0"}, "number must be a whole number"),
        (HEADER | {"number": "9" * 5000}, "number must be a whole number"),
        (HEADER | {"stateRoot": "0x0x" + "00" * 31}, "stateRoot must be a string of hex"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(form: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SealedBlock.parse(json.dumps(form))
    assert str(caught.value).isprintable()


def test_a_digest_longer_than_its_window_is_cut_in_the_hash_of_the_block_alone() -> None:
    document = vectors("real_block")
    document["header"]["digest_logs"].insert(1, "08")
    for stated in ("mining_hash", "nonce"):
        del document[stated]
    longer = SealedBlock.parse(json.dumps(document))
    assert longer.mining_hash.hex() != vectors("real_block")["mining_hash"]
    document["header"]["digest_logs"][2] = document["header"]["digest_logs"][2][:-2] + "00"
    assert SealedBlock.parse(json.dumps(document)).hash == longer.hash


def test_without_a_difficulty_it_says_so_and_no_script_takes_it_for_valid(tmp_path: Path) -> None:
    file = tmp_path / "header.json"
    file.write_text(json.dumps(reply(HEADER)))
    ended = verify("--block", str(file))
    assert (ended.returncode, ended.stderr) == (4, "")
    first, *rest = ended.stdout.splitlines()
    assert first == "hash computed, validity unknown: no difficulty to compare it with (--difficulty N)"
    assert f"block                {HEIGHT}, hash {BLOCK['hash']}" in rest
    assert f"mining hash          {BLOCK['mining_hash']}" in rest
    assert f"achieved difficulty  {ACHIEVED}" in rest
    # The strict rule, at its edge.
    for difficulty, code, word in ((ACHIEVED - 1, 0, "valid"), (ACHIEVED + 1, 1, "not valid")):
        ended = verify("--block", str(file), "--difficulty", str(difficulty))
        assert (ended.returncode, ended.stdout.splitlines()[0]) == (code, word)


def test_a_zero_nonce_is_not_valid_whatever_the_difficulty(tmp_path: Path) -> None:
    file = tmp_path / "header.json"
    file.write_text(
        json.dumps(HEADER | {"digest": {"logs": [HEADER["digest"]["logs"][0], "0x05706f775f0101" + "00" * 64]}})
    )
    ended = verify("--block", str(file))
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (1, "not valid: the zero nonce never is")


def test_a_header_and_a_nonce_may_begin_with_0x() -> None:
    nonce = HEADER["digest"]["logs"][1][16:]
    ended = verify("--header", f"0x{BLOCK['mining_hash']}", "--nonce", f"0x{nonce}", "--difficulty", "1000000")
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "valid")


# --- a node's JSON-RPC server ---


def scale(difficulty: int) -> str:
    return "0x" + difficulty.to_bytes(64, "little").hex()


REPLIES: dict[str, Any] = {
    "chain_getBlockHash": reply(BLOCK["hash"]),
    "chain_getHeader": reply(HEADER),
    "state_call": reply(scale(10_000_000)),
}


class Node(ThreadingHTTPServer):
    """A node's JSON-RPC server that has these replies: what is sent as JSON, or bytes that are sent as they are."""

    daemon_threads = True

    def __init__(self, replies: dict[str, Any], status: int = 200, tls: ssl.SSLContext | None = None) -> None:
        self.replies, self.status = replies, status
        self.calls: list[list[object]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever)

    def handle_error(self, *_: object) -> None:
        """A client that does not trust the certificate is no error."""

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Node

    def do_POST(self) -> None:
        assert self.headers["content-type"] == "application/json"
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.calls.append([request["method"], *request["params"]])
        answer = self.server.replies[request["method"]]
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_a_block_of_a_live_node_against_the_difficulty_it_had_to_meet() -> None:
    with Node(REPLIES) as node:
        ended = verify("--rpc", node.url, "--height", str(HEIGHT))
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0] == "valid"
    assert lines[-1] == f"required difficulty  10000000, by {node.url}"
    assert f"block                {HEIGHT}, hash {BLOCK['hash']}" in lines
    assert node.calls == [
        ["chain_getBlockHash", HEIGHT],
        ["chain_getHeader", BLOCK["hash"]],
        ["state_call", "QPoWApi_get_difficulty", "0x", HEADER["parentHash"]],
    ]


@pytest.mark.parametrize(
    ("answer", "flags", "code", "first", "last"),
    [
        (reply(scale(ACHIEVED + 1)), [], 1, "not valid", f"required difficulty  {ACHIEVED + 1}, by "),
        (reply(scale(ACHIEVED + 1)), ["--difficulty", "9"], 0, "valid", f"achieved difficulty  {ACHIEVED}"),
        (
            {"error": {"code": 4003, "message": "State already discarded"}},
            [],
            4,
            "hash computed, validity unknown",
            "required difficulty  unknown: --rpc: .*: state_call: State already discarded",
        ),
        (reply("0x01"), [], 4, "hash computed", "unknown: .*QPoWApi_get_difficulty: the result is not 64 bytes"),
        (reply(None), [], 4, "hash computed", "unknown: .*QPoWApi_get_difficulty: the result is not 64 bytes"),
        (reply(scale(0)), [], 4, "hash computed", "unknown: .* returned 0"),
    ],
)
def test_the_difficulty_that_a_node_gives(answer: object, flags: list[str], code: int, first: str, last: str) -> None:
    with Node(REPLIES | {"state_call": answer}) as node:
        ended = verify("--rpc", node.url, "--height", str(HEIGHT), *flags)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (code, "")
    assert lines[0].startswith(first)
    assert re.search(last, lines[-1])
    assert ("state_call" in [call[0] for call in node.calls]) is not bool(flags)


BAD_REPLIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no such block": ({"chain_getBlockHash": reply(None)}, 200, "--height: .* has no block 1233521 yet"),
    "no hash": ({"chain_getBlockHash": reply(["0x"])}, 200, "chain_getBlockHash: the result is not a hash"),
    "unknown method": (
        {"chain_getBlockHash": {"error": {"code": -32601, "message": "Method\x1b[31m not found"}}},
        200,
        r"chain_getBlockHash: Method\\x1b\[31m not found",
    ),
    "a pruned block": ({"chain_getHeader": reply(None)}, 200, "block 1233521: header must be a JSON object"),
    "another block": (
        {"chain_getHeader": reply(HEADER | {"number": "0x1"})},
        200,
        "block 1233521: hash is not that of the header",
    ),
    "not JSON": ({"chain_getBlockHash": b"<html>"}, 200, "does not answer chain_getBlockHash: the reply is not JSON"),
    "nested": ({"chain_getBlockHash": b"[" * 60_000}, 200, "the reply is not JSON"),
    "not JSON-RPC": ({"chain_getBlockHash": {"status": "ok"}}, 200, "the reply is not JSON-RPC"),
    "too large": ({"chain_getBlockHash": b" " * 70_000}, 200, "the reply is larger than 65536 bytes"),
    "a redirect": ({"chain_getBlockHash": b""}, 302, "does not answer chain_getBlockHash: HTTP status 302"),
    "an error": ({"chain_getBlockHash": b""}, 403, "HTTP status 403"),
}


@pytest.mark.parametrize(("replies", "status", "message"), BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_what_a_node_does_wrong_is_one_line(replies: dict[str, Any], status: int, message: str) -> None:
    with Node(REPLIES | replies, status) as node:
        ended = verify("--rpc", node.url, "--height", str(HEIGHT))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.search(message, ended.stderr), ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_node_that_sends_the_header_of_another_height() -> None:
    with Node(REPLIES) as node:
        ended = verify("--rpc", node.url, "--height", "7")
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"asked for block 7, got the header of block {HEIGHT}\n")


def test_nobody_listens_and_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ended = verify("--rpc", f"http://127.0.0.1:{closed.getsockname()[1]}", "--height", "1")
        assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
        assert "does not answer chain_getBlockHash: Connection refused" in ended.stderr
    monkeypatch.setattr(rpc, "TIMEOUT_S", 0.1)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        node = rpc.NodeRpc(f"http://127.0.0.1:{silent.getsockname()[1]}/path?key=1")
        with pytest.raises(MinerError, match=r"does not answer chain_getBlockHash: (timed out|no answer within)"):
            node.block_hash(1)


def test_a_call_that_takes_too_long_is_left() -> None:
    end = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        within(0.01, end.wait)
    end.set()
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_over_tls_the_certificate_has_to_be_trusted(tmp_path: Path) -> None:
    certificate = self_signed()
    (tmp_path / "ca.pem").write_bytes(certificate.pem)
    with Node(REPLIES, tls=certificate.server_context()) as node:
        url = f"https://localhost:{node.server_port}"
        ended = verify("--rpc", url, "--height", str(HEIGHT))
        assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
        assert "certificate verify failed" in ended.stderr
        assert verify("--rpc", url, "--height", str(HEIGHT), SSL_CERT_FILE=str(tmp_path / "ca.pem")).returncode == 0


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "127.0.0.1:9944",
            "ws://127.0.0.1:9944",
            "http://",
            "http://[",
            "http://a:b",
            "http://u:p@a",
            "file:///x",
        ),
        *("http://a:99999", "http://a\x01b", "http://a b"),
    ],
)
def test_what_is_no_node_s_address_is_one_line(url: str) -> None:
    ended = verify("--rpc", url, "--height", "1")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "allowed: http://HOST:PORT or https://HOST:PORT" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rpc", "http://a"], "--rpc and --height go together"),
        (["--height", "1"], "--rpc and --height go together"),
        (["--rpc", "http://a", "--height", "1", "--nonce", "1"], "goes with --difficulty alone"),
        (["--rpc", "http://a", "--height", "1", "--block", "x"], "goes with --difficulty alone"),
        (["--rpc", "http://a", "--height", "1", "--threshold", "1"], "goes with --difficulty alone"),
        ([], "verify needs --header and --nonce, or --block, or --rpc and --height"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], message: str) -> None:
    ended = verify(*flags)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert message in ended.stderr


NOT_A_FILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none", "cannot read .*: No such file or directory"),
    "a folder": (lambda folder: folder, "cannot read .*: Is a directory"),
}


@pytest.mark.parametrize(("make", "message"), NOT_A_FILE.values(), ids=NOT_A_FILE)
def test_a_block_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    ended = verify("--block", str(make(tmp_path)))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert re.search(message, ended.stderr)
