"""Who may ask what: Host, Origin and the addresses of the two ports, with a real miner."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from quantus_miner.web import server
from quantus_miner.wire.hosts import from_other_page, misdirected, parse_names

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = {"job_id": "j", "mining_hash": "00" * 32, "difficulty": "1"}
OWN = socket.gethostname()


def ask(port: int, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status code and body of one request, with just these header lines."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"{head}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        reply = b"".join(iter(lambda: connection.recv(65_536), b""))
    start, _, content = reply.partition(b"\r\n\r\n")
    return int(start.split()[1]), content


@pytest.fixture(scope="module")
def open_miner() -> Iterator[MinerProcess]:
    """A miner that listens on every address."""
    everywhere = ("--bind=0.0.0.0", "--metrics-bind=0.0.0.0", "--allowed-hosts=Rig1.lan,miner")
    with MinerProcess("--port=0", "--metrics-port=0", "--workers=1", *everywhere) as process:
        yield process


GOOD_HOSTS = ["127.0.0.1", "127.0.0.1:1", "localhost", "LocalHost:9833", "localhost.", "[::1]:9833", "10.0.0.7", ""]
NAMED_HOSTS = [OWN, OWN.upper() + ":80", "rig1.lan", "RIG1.LAN:9833", "miner"]
BAD_HOSTS = [
    "evil.example",
    "evil.example:9833",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "a b",
    "::1",
    "[x]",
]


@pytest.mark.parametrize("host", [*GOOD_HOSTS, *BAD_HOSTS, *NAMED_HOSTS])
def test_a_miner_on_loopback_is_asked_for_by_address_or_as_localhost(miner: MinerProcess, host: str) -> None:
    right = host in GOOD_HOSTS or host.lower() == "localhost"
    assert ask(miner.port, f"GET /health HTTP/1.1\r\nhost: {host}")[0] == (200 if right else 421)
    assert ask(miner.metrics_port, f"GET /metrics HTTP/1.1\r\nhost: {host}")[0] == (200 if right else 421)
    status, body = ask(miner.port, f"POST /cancel/nope HTTP/1.1\r\nhost: {host}")
    assert status == (404 if right else 421)
    if not right:
        message = json.loads(body)["message"]
        assert message.startswith(f"host {host!r} is not a name of this miner; allowed: IP addresses, localhost")
        assert "--allowed-hosts" in message


@pytest.mark.parametrize("host", [*GOOD_HOSTS, *BAD_HOSTS, *NAMED_HOSTS])
def test_a_miner_on_every_address_has_the_names_of_the_machine_and_those_allowed(
    open_miner: MinerProcess, host: str
) -> None:
    expected = 421 if host in BAD_HOSTS else 200
    assert ask(open_miner.port, f"GET /health HTTP/1.1\r\nhost: {host}")[0] == expected
    assert ask(open_miner.metrics_port, f"GET /metrics HTTP/1.1\r\nhost: {host}")[0] == expected


def test_every_host_header_has_to_be_right_and_none_is_needed(miner: MinerProcess) -> None:
    for version in ("1.0", "1.1"):
        assert ask(miner.port, f"GET /health HTTP/{version}")[0] == 200
    assert ask(miner.port, "GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example")[0] == 421
    assert ask(miner.port, "GET /health HTTP/1.1\r\nhost: evil.example\r\nhost: localhost")[0] == 421


FOREIGN = [
    "origin: https://evil.example",
    "origin: null",
    "origin:",
    "origin: http://127.0.0.1:1",
    "origin: http://localhost",
    "origin: http://127.0.0.1\r\norigin: https://evil.example",
    "sec-fetch-site: cross-site",
    "sec-fetch-site: same-site",
    "origin: http://127.0.0.1\r\nsec-fetch-site: cross-site",
]


@pytest.mark.parametrize("lines", FOREIGN)
def test_requests_of_other_web_pages_are_refused(miner: MinerProcess, lines: str) -> None:
    assert miner.call("POST", "/mine", JOB | {"job_id": lines})[0] == 200
    body = json.dumps(JOB).encode()
    for head in (
        "POST /mine HTTP/1.1\r\ncontent-type: application/json",
        "POST /mine HTTP/1.1\r\ncontent-type: text/plain",
        "POST /cancel/j HTTP/1.1",
        "GET /result/j HTTP/1.1",
    ):
        status, reply = ask(miner.port, f"{head}\r\nhost: 127.0.0.1\r\n{lines}", body)
        assert status == 403
        assert json.loads(reply)["status"] == "error"
        assert "web pages are refused" in json.loads(reply)["message"]
    assert miner.call("GET", "/result/j")[0] == 404
    # What changes nothing may be followed as a link.
    assert ask(miner.port, f"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}")[0] == 200
    assert ask(miner.metrics_port, f"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}")[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        "host: 127.0.0.1:9833\r\norigin: http://127.0.0.1:9833\r\nsec-fetch-site: same-origin",
        "host: LOCALHOST\r\norigin: https://localhost",
        "host: [::1]:9\r\nOrigin: http://[::1]:9\r\nsec-fetch-site: none",
    ],
)
def test_requests_of_a_page_at_the_miner_s_own_address_are_served(miner: MinerProcess, lines: str) -> None:
    assert ask(miner.port, f"POST /cancel/nope HTTP/1.1\r\n{lines}")[0] == 404


def test_the_exporter_has_an_address_of_its_own() -> None:
    with MinerProcess("--port=0", "--bind=127.0.0.2", "--metrics-port=0", "--workers=1") as miner:
        assert miner.wait_for_line("Server starting on 127.0.0.2:")
        assert miner.wait_for_line("Starting metrics endpoint on 127.0.0.1:")
        assert miner.metrics()["miner_workers", frozenset()] == 1
    with MinerProcess("--port=0", "--metrics-port=0", "--metrics-bind=127.0.0.3", "--workers=1") as miner:
        assert miner.wait_for_line("Server starting on 127.0.0.1:")
        assert miner.wait_for_line("Starting metrics endpoint on 127.0.0.3:")


def test_curl_that_offers_http_2_can_give_a_job(miner: MinerProcess) -> None:
    curl = ["curl", "-s", "-m", "20", "--http2", "-H", "content-type: application/json"]
    job = json.dumps(JOB | {"job_id": "curl"})
    reply = subprocess.run(
        [*curl, "-d", job, f"http://localhost:{miner.port}/mine"], capture_output=True, text=True, check=True
    )
    assert json.loads(reply.stdout) == {"status": "accepted", "job_id": "curl"}
    reply = subprocess.run(
        [*curl, f"http://127.0.0.1:{miner.metrics_port}/metrics"], capture_output=True, text=True, check=True
    )
    assert "miner_workers 1.0" in reply.stdout


def test_names_of_a_loopback_address_are_local_and_others_have_the_machine_s() -> None:
    assert server.host_names("127.0.0.9") == server.host_names("::1") == {"localhost"}
    assert server.host_names("0.0.0.0") == server.host_names("::") >= {"localhost", OWN.lower()}  # noqa: S104 - not bound


@pytest.mark.parametrize("text", ["", "a,", "a b", "a:1", "[::1]", "ä", "-" * 254, "a/b", ".a", "a..", "a..b"])
def test_names_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^host names without ports, such as rig1\.lan"):
        parse_names(text)


def test_the_log_says_what_was_refused() -> None:
    with MinerProcess("--port=0", "--workers=1") as miner:
        assert ask(miner.port, "GET /health HTTP/1.1\r\nhost: a\u202eb")[0] == 421
        assert ask(miner.port, "POST /cancel/j HTTP/1.1\r\nhost: localhost\r\norigin: null")[0] == 403
        assert miner.wait_for_line("Refused a request: host 'a").isprintable()
        assert miner.wait_for_line("Refused a request: requests of web pages are refused (Origin: 'null')")


def test_what_is_shown_of_headers_is_short() -> None:
    assert len(misdirected(["x" * 9_999], frozenset()) or "") < 200
    assert len(from_other_page("", ["x" * 9_999], []) or "") < 200
