"""The commands beside serve, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from quantus_miner import native, units
from quantus_miner import pow as reference
from quantus_miner.backends import table
from quantus_miner.cli.output import echo_json
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.http_node import MinerClient
from quantus_miner.devices import DevicesReport
from quantus_miner.doctor import FindingEntry
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.model import MAX, Pow, achieved_difficulty, target_from_difficulty

from .conftest import VECTORS, MinerProcess, vectors


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantus_miner", *args], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("pow_", Pow)
def test_bench_json_is_one_object_and_nothing_else(pow_: Pow) -> None:
    ended = run("bench", "--seconds", "0.1", "--workers", "1", "--pow", pow_, "--json")
    assert ended.returncode == 0
    assert ended.stderr == ""
    report = json.loads(ended.stdout)
    assert [result["engine"] for result in report.pop("results")] == ["cpu-baseline", "cpu-fast"]
    assert report == {}


def test_bench_measures_what_it_says() -> None:
    ended = run("bench", "--engine", "cpu-fast", "--kernel", "scalar", "--seconds", "0.2", "--workers", "1", "--json")
    (result,) = json.loads(ended.stdout)["results"]
    assert (result["engine"], result["kernel"], result["pow"]) == ("cpu-fast", "scalar", "qpow-poseidon2")
    assert result["workers"] == 1
    assert result["seconds"] > 0  # a worker may begin late and end in time
    assert result["hash_rate"] == pytest.approx(result["hashes"] / result["seconds"])
    assert result["hashes"] > 0


def test_bench_for_people_has_ratios_and_a_live_line_on_a_terminal() -> None:
    master, slave = pty.openpty()
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", "bench", "--seconds", "0.3", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=slave,
        timeout=60,
        check=True,
    )
    os.close(slave)
    live = os.read(master, 65536).decode()
    os.close(master)
    baseline, fast = ended.stdout.decode().splitlines()
    assert "1.00 x cpu-baseline" in baseline
    assert re.search(r"cpu-fast .* [0-9.]+ [kMG]H/s +[0-9.]+ x cpu-baseline  \(qpow-poseidon2, kernel ", fast)
    assert re.search(r"\r  cpu-fast +[0-9.]+ [kMG]H/s +0\.[0-9] s", live)


def test_devices_lists_every_kernel_and_engine() -> None:
    ended = run("devices")
    assert ended.returncode == 0
    for kernel in native.kernels():
        assert re.search(rf"{kernel.pow} +{kernel.name} ", ended.stdout)
    assert re.search(r"gpu-cuda +not available: ", ended.stdout)
    assert re.search(r"effective CPUs: \d+", ended.stdout)


def test_devices_as_json_is_one_line_of_ascii_in_the_documented_shape() -> None:
    ended = run("devices", "--json")
    assert (ended.returncode, ended.stderr, ended.stdout.count("\n")) == (0, "", 1)
    assert ended.stdout.isascii()
    report = msgspec.json.decode(ended.stdout, type=DevicesReport)
    assert [(kernel.pow, kernel.name) for kernel in report.kernels] == [(k.pow, k.name) for k in native.kernels()]
    assert all((kernel.hashes_per_s or 0) > 0 for kernel in report.kernels if kernel.supported)
    engines = {engine.name: engine for engine in report.engines}
    assert list(engines) == list(table.names())
    assert (engines["cpu-fast"].available, engines["cpu-fast"].reason, engines["cpu-fast"].devices) == (True, "", [])
    assert engines["gpu-cuda"].reason != ""
    assert engines["gpu-cuda"].devices is None


def test_json_carries_any_text_and_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    text = 'a "card" \udcff\x1b\x7f\x9b é 🎉'
    echo_json(FindingEntry("ok", text, "", ""))
    line = capsys.readouterr().out
    assert line.removesuffix("\n").isprintable()
    assert line.isascii()
    assert json.loads(line)["about"] == text.replace("\udcff", "?")


def test_verify_a_block_that_the_network_accepted(tmp_path: Path) -> None:
    block = vectors("real_block")
    ended = run("verify", "--block", str(VECTORS / "real_block.json"))
    assert ended.returncode == 4, ended.stderr
    assert ended.stdout.startswith("hash computed, validity unknown: ")
    for text in (
        block["mining_hash"],
        block["nonce"].lstrip("0"),
        f"achieved difficulty  {block['achieved_difficulty']}",
    ):
        assert text in ended.stdout
    achieved = int(block["achieved_difficulty"])
    assert run("verify", "--block", str(VECTORS / "real_block.json"), "--difficulty", str(achieved)).returncode == 0
    assert run("verify", "--block", str(VECTORS / "real_block.json"), "--difficulty", str(achieved + 2)).returncode == 1
    block["header"]["number"] = 2
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(block))
    ended = run("verify", "--block", str(forged))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "mining_hash is not that of the header" in ended.stderr


def test_verify_a_nonce() -> None:
    case = vectors("qpow_poseidon2_hash")["cases"][1]
    value = int(case["hash_hex"], 16)
    given = ("verify", "--header", case["header_hex"], "--nonce", case["nonce_hex"])
    ended = run(*given, "--difficulty", "1")
    assert ended.returncode == 0
    assert case["hash_hex"] in ended.stdout
    assert f"achieved difficulty  {achieved_difficulty(value)}" in ended.stdout
    ended = run(*given, "--difficulty", str(MAX))
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0] == "not valid"


def test_verify_a_distance() -> None:
    case = next(case for case in vectors("qpow_sha3_distance")["cases"] if int(case["nonce_hex"], 16))
    threshold = int(case["distance_hex"], 16)
    given = ("verify", "--header", case["header_hex"], "--nonce", case["nonce_hex"], "--threshold")
    assert run(*given, str(threshold)).returncode == 0
    assert run(*given, str(threshold - 1)).returncode == 1


def test_the_zero_nonce_is_never_valid() -> None:
    ended = run("verify", "--header", "00" * 32, "--nonce", "0", "--difficulty", "1")
    assert ended.returncode == 1
    assert "the zero nonce never is" in ended.stdout


@pytest.mark.parametrize("pow_", Pow)
def test_the_dev_node_finds_blocks_with_a_miner_of_its_own(pow_: Pow) -> None:
    ended = run(
        "dev-node", "--pow", pow_, "--blocks", "5", "--block-time", "0.05", "--difficulty", "500", "--poll-ms", "5"
    )
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("block ")] == list("12345")
    assert re.search(r"dev-node: 5 blocks in .*, 0 invalid$", ended.stdout)
    assert "miner | " in ended.stderr
    assert "Stopped: " in ended.stderr


def test_the_dev_node_mines_with_a_miner_that_runs(miner: MinerProcess) -> None:
    url = f"http://127.0.0.1:{miner.port}/"
    ended = run(
        "dev-node", "--miner", url, "--blocks", "3", "--block-time", "0.05", "--difficulty", "500", "--poll-ms", "5"
    )
    assert ended.returncode == 0, ended.stderr
    assert "3 blocks in " in ended.stdout
    assert miner.call("GET", "/health")[0] == 200


def test_the_dev_node_replaces_a_proposal_that_nobody_seals(miner: MinerProcess) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "quantus_miner",
            "dev-node",
            "--miner",
            f"http://127.0.0.1:{miner.port}",
            "--difficulty",
            str(2**128),
            "--block-time",
            "0.05",
            "--poll-ms",
            "5",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("new proposal" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(20) == 0
    assert "0 blocks in " in rest
    process.stdout.close()


class Miner(BaseHTTPRequestHandler):
    """A job API with a miner that takes too long for the first job of a block, and tells what it did at the end."""

    server: ThreadingHTTPServer
    jobs: ClassVar[list[dict[str, str]]] = []
    cancelled: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        job = self.jobs[-1]
        ended = {"status": "cancelled", "hash_count": 700, "elapsed_time": 2.0}
        if job["job_id"] not in self.cancelled:
            ended = {"status": "running", "hash_count": 600, "elapsed_time": 1.5}
        if len(self.jobs) == 2:
            nonce = next(n for n in range(1, 1000) if is_valid(job["mining_hash"], n, int(job["difficulty"])))
            ended = {"status": "completed", "hash_count": 300, "elapsed_time": 0.5, "work": f"{nonce:0128x}"}
        self.reply({"nonce": "1", "work": None} | ended)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/mine":
            self.jobs.append(json.loads(body))
            self.reply({"status": "accepted"})
        else:
            self.cancelled.add(self.path.removeprefix("/cancel/"))
            self.reply({"status": "cancelled"})

    def reply(self, answer: dict[str, object]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def is_valid(header: str, nonce: int, difficulty: int) -> bool:
    return reference.is_valid(Pow.POSEIDON2, bytes.fromhex(header), nonce, target_from_difficulty(difficulty))


def test_the_dev_node_counts_the_hashes_of_all_jobs_of_a_block_until_their_end() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Miner) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        ended = run("dev-node", "--miner", url, "--blocks=1", "--block-time=0.05", "--difficulty=2", "--poll-ms=5")
        server.shutdown()
        thread.join()
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^block    1 .* 1,000 hashes +400 H/s$", ended.stdout, re.MULTILINE)
    assert ", 1,000 hashes at 400 H/s reported of 2 of 2 jobs, " in ended.stdout


DEV = {
    "dev-node": ["dev-node", "--difficulty=10", "--poll-ms=5"],
    "dev-node --quic": ["dev-node", "--quic", "--difficulty=10"],
    "dev-pool": ["dev-pool", "--share-time=0.05"],
}


@pytest.mark.parametrize("command", DEV.values(), ids=DEV)
@pytest.mark.parametrize("when", ["at work", "at its start"])
def test_ctrl_c_again_and_again_is_one_clean_end(command: list[str], when: str, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "quantus_miner", *command],
            stdout=subprocess.PIPE,
            stderr=stderr if when == "at work" else subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert process.stdout is not None
        if when == "at work":
            said = next(line for line in process.stdout if re.match("block |miner dev is here", line))
        else:
            assert process.stderr is not None
            said = process.stderr.readline()
        assert said
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = " ".join(task.read_text() for task in tasks).split()
        while process.poll() is None:
            # As a terminal does: to all that run in the foreground.
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        out = process.stdout.read()
        process.stdout.close()
        stderr.seek(0)
        errors = stderr.read()
        if process.stderr is not None:
            errors += process.stderr.read()
            process.stderr.close()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert re.search(r"^dev-(node|pool): .*\d+ blocks in ", out, re.MULTILINE), out
    assert children or when == "at its start"
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_no_temporary_folder_is_one_line(tmp_path: Path) -> None:
    for command in (["dev-node"], ["dev-node", "--quic"], ["dev-pool", "--tls"]):
        code = (
            f"import tempfile, sys; tempfile.tempdir = {str(tmp_path / 'missing')!r};"
            f"sys.argv[1:] = {command!r}; from quantus_miner.cli import main; main()"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert re.match(r"quantus-miner: cannot (make a temporary folder|write a temporary file): .*TMPDIR", line)


def test_the_dev_node_without_a_miner_is_one_line() -> None:
    ended = run("dev-node", "--miner", "http://127.0.0.1:1")
    assert ended.returncode == 1
    assert re.search(r"^quantus-miner: the miner does not answer POST /mine: ", ended.stderr)


@pytest.mark.parametrize("url", ["https://x", "http://", "http://[", "http://a:b", "http://a\x01b", "http://a:99999"])
def test_what_is_no_miner_s_address_is_one_line(url: str) -> None:
    with pytest.raises(SettingError, match=r"^--miner: .* is not allowed; allowed: http://HOST:PORT$"):
        MinerClient(url, None)


@pytest.mark.parametrize("size", [9999, 10**30])
def test_a_miner_s_answer_that_is_nested_too_deeply_or_too_long_is_no_answer(size: int) -> None:
    client = MinerClient("http://127.0.0.1", None)
    client._connection.sock, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"[" * 9999)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(MinerError, match="the miner does not answer GET /result/x"):
            client.call("GET", "/result/x")


def test_version_and_help() -> None:
    assert re.fullmatch(r"quantus-miner, version \d+\.\d+\.\d+\n", run("--version").stdout)
    text = run("--help").stdout
    for command in ("serve", "bench", "verify", "devices", "dev-node"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)


@pytest.mark.parametrize("command", [[], ["serve"], ["doctor"], ["service"], ["service", "print"], ["dev-pool"]])
def test_h_is_help(command: list[str]) -> None:
    short, long = (run(*command, flag) for flag in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith(" ".join(["Usage: quantus-miner", *command, "["]))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    ended = run("completion", shell)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"_QUANTUS_MINER_COMPLETE={shell}_complete" in ended.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=ended.stdout, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["d"], ["dev-fleet", "dev-node", "dev-pool", "devices", "doctor"]),
        (["--po"], ["--port", "--pool"]),
        (["--port", "1", "--metrics-"], ["--metrics-port", "--metrics-bind"]),
        (["devices", "--"], ["--json", "--help"]),
        (["service", ""], ["print"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["dev-pool", "--misbehave", "f"], ["flood", "forget"]),
        (["--config", "/et"], ["file /et"]),
        (["history", "--state-dir", ""], ["dir "]),
        (["--wallet", ""], []),
    ],
)
def test_what_is_completed(words: list[str], found: list[str]) -> None:
    environ = {
        "_QUANTUS_MINER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["quantus-miner", *words]),
        "COMP_CWORD": str(len(words)),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    items = [line.replace(",", " ").removeprefix("plain ") for line in ended.stdout.splitlines()]
    assert [item for item in items if item] == found


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0.00 H/s"),
        (999.4, "999 H/s"),
        (999.6, "1.00 kH/s"),
        (12_345, "12.3 kH/s"),
        (1.5e6, "1.50 MH/s"),
        (1e15, "1.00 PH/s"),
        (1e33, "1000 QH/s"),
    ],
)
def test_hash_rates_have_three_digits(rate: float, text: str) -> None:
    assert units.hash_rate(rate) == text


def test_the_development_chain_aims_at_its_block_time() -> None:
    """Fed with the times that a miner of a steady rate takes, the difficulty settles where a block takes block_time."""
    rng = random.Random(1)
    chain = Chain(Pow.POSEIDON2, 1000, block_time=2.0)
    hash_rate, times = 50_000.0, []
    for _ in range(300):
        seconds = rng.expovariate(hash_rate / chain.difficulty)
        times.append(seconds)
        chain.append("00" * 64, seconds)
    assert sum(times[50:]) / 250 == pytest.approx(2.0, rel=0.25)
    assert chain.height == 300


def test_the_development_chain_takes_only_work_that_seals() -> None:
    chain = Chain(Pow.POSEIDON2, 1, block_time=1.0)
    assert chain.seals(f"{1:0128x}")
    for work in ("", "1", f"{0:0128x}", f"{1:0127x}", "g" * 128, "0x" + f"{1:0126x}"):
        assert not chain.seals(work)
    chain.difficulty = 2**128
    assert not chain.seals(f"{1:0128x}")


def test_the_dev_node_s_own_miner_is_independent_of_the_environment(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    noise = {"MINER_LOG": "off", "MINER_LOG_FORMAT": "json", "MINER_API_TOKEN_FILE": str(token)}
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", "dev-node", "--blocks=1", "--difficulty=10", "--poll-ms=5"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | noise,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 blocks in " in ended.stdout
