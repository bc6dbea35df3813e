"""The service as a process: a job's whole way, habits of real nodes, bad input, signals."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from quantus_miner import pow as reference
from quantus_miner.errors import printable
from quantus_miner.jobs import MAX_ACTIVE, MAX_SHOWN
from quantus_miner.model import MAX, Pow, target_from_difficulty

from .conftest import MinerProcess, vectors, with_file_limit

HEADER = bytes(range(32)).hex()


def request(**changes: str | None) -> dict[str, str]:
    fields = {"job_id": str(uuid.uuid4()), "mining_hash": HEADER, "difficulty": "1000"} | changes
    return {name: value for name, value in fields.items() if value is not None}


def run_cli(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quantus_miner", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: text for name, text in os.environ.items() if not name.startswith("MINER_")} | environ,
        check=False,
    )


def test_a_job_of_today_s_network_is_solved(miner: MinerProcess) -> None:
    job = request()
    assert miner.call("POST", "/mine", job) == (200, {"status": "accepted", "job_id": job["job_id"]})
    result = miner.result(job["job_id"])
    assert result["status"] == "completed"
    assert result["work"] == f"{int(result['nonce'], 16):0128x}"
    assert reference.is_valid(
        Pow.POSEIDON2, bytes.fromhex(HEADER), int(result["work"], 16), target_from_difficulty(1000)
    )
    assert isinstance(result["hash_count"], int)
    assert result["hash_count"] > 0
    # The clock of an ended job stands still.
    assert miner.call("GET", f"/result/{job['job_id']}") == (200, result)


@pytest.mark.parametrize("case", vectors("qpow_sha3_search")["cases"], ids=lambda case: case["label"])
def test_sha3_search_vectors_over_http(miner: MinerProcess, case: dict[str, Any]) -> None:
    job = request(
        mining_hash=case["header_hex"],
        difficulty=None,
        distance_threshold=case["distance_threshold"],
        nonce_start=case["nonce_start"],
        nonce_end=case["nonce_end"],
    )
    check_search(miner, job, case["winning_nonces"], case["winners"], case["length"])


@pytest.mark.parametrize("case", vectors("qpow_poseidon2_search")["cases"], ids=lambda case: case["label"])
def test_poseidon2_search_vectors_over_http(miner: MinerProcess, case: dict[str, Any]) -> None:
    job = request(
        mining_hash=case["header_hex"],
        difficulty=case["difficulty"],
        nonce_start=case["nonce_start"],
        nonce_end=case["nonce_end"],
    )
    check_search(miner, job, case["winning_nonces"], case["chain_winners"], case["length"])


def check_search(miner: MinerProcess, job: dict[str, str], listed: list[str], winners: int, length: int) -> None:
    assert miner.call("POST", "/mine", job)[0] == 200
    result = miner.result(job["job_id"])
    if winners:
        assert result["status"] == "completed"
        assert result["work"] in listed or winners > len(listed)
        assert int(result["work"], 16) != 0
    else:
        assert result["status"] == "failed"
        assert result["hash_count"] == length
        assert result["nonce"] is result["work"] is None


def test_a_conversation_as_old_nodes_hold_it(miner: MinerProcess) -> None:
    """Base URL with a slash at the end, a cancel before every job, the first poll at once, a job never finished."""
    unknown = str(uuid.uuid4())
    assert miner.call("POST", f"//cancel/{unknown}") == (
        404,
        {"status": "not_found", "job_id": unknown, "message": "Job not found"},
    )
    impossible = request(difficulty=None, distance_threshold="0", nonce_start=f"{1:0128x}", nonce_end="f" * 128)
    assert miner.call("POST", "//mine", impossible)[1]["status"] == "accepted"
    status, first = miner.call("GET", f"//result/{impossible['job_id']}")
    assert (status, first["status"], first["nonce"], first["work"]) == (200, "running", None, None)
    while (later := miner.call("GET", f"/result/{impossible['job_id']}")[1])["hash_count"] == 0:
        pass
    assert later["elapsed_time"] > first["elapsed_time"]
    assert miner.call("POST", "//mine", impossible) == (
        409,
        {"status": "error", "job_id": impossible["job_id"], "message": "Job already exists"},
    )
    for _ in range(2):
        assert miner.call("POST", f"/cancel/{impossible['job_id']}") == (
            200,
            {"status": "cancelled", "job_id": impossible["job_id"]},
        )
    assert miner.result(impossible["job_id"])["status"] == "cancelled"


def test_a_difficulty_in_place_of_a_threshold_is_accepted_and_warned_of_once() -> None:
    with MinerProcess("--port", "0", "--workers", "1") as miner:
        for number, threshold in enumerate((0, 2**400, 10**9, 2**400 - 1, 1)):
            job = request(job_id=f"job-{number}", difficulty=None, distance_threshold=str(threshold))
            assert miner.call("POST", "/mine", job)[1]["status"] == "accepted"
        assert miner.stop() == 0
        (warning,) = [line for line in miner.log if "WARN" in line and "distance_threshold" in line]
        assert (
            "Job job-2 has a distance_threshold of 1000000000, which no search will ever reach. It is probably a"
            in warning
        )


def test_a_cancel_after_the_solution_leaves_it_readable(miner: MinerProcess) -> None:
    job = request(difficulty="1")
    miner.call("POST", "/mine", job)
    solved = miner.result(job["job_id"])
    assert miner.call("POST", f"/cancel/{job['job_id']}")[1]["status"] == "cancelled"
    assert miner.call("GET", f"/result/{job['job_id']}") == (200, solved)
    assert solved["status"] == "completed"


HOSTILE_IDS = [
    *("a/b", "..", "%2e%2e", "näh", '"} 1\n# HELP x', "\\", "x" * 128, "\x00", "💎"),
    *(
        "\x1b[2J",
        "\\x1b[2J",
        "\a",
        "\x7f",
        "\x9b31m",
        "\u202eabc",
        "\u2066",
        "\u200f",
        "\u2028",
        "\ufeff",
        "\U000e0001",
        "\n",
        "\\n",
    ),
]


@pytest.mark.parametrize("job_id", HOSTILE_IDS)
def test_hostile_job_ids_are_just_names(miner: MinerProcess, job_id: str) -> None:
    job = request(job_id=job_id, difficulty="1")
    assert miner.call("POST", "/mine", job) == (200, {"status": "accepted", "job_id": job_id})
    path = f"/result/{quote(job_id, safe='')}"
    while (reply := miner.call("GET", path))[1]["status"] == "running":
        pass
    assert (reply[0], reply[1]["status"], reply[1]["job_id"]) == (200, "completed", job_id)
    label = printable(job_id.replace("\\", "\\\\"))
    labels = frozenset({"engine": "cpu-fast", "job_id": label, "status": "completed"}.items())
    assert miner.metrics()["miner_job_status", labels] == 1
    # Nothing that could steer a terminal goes out as it came in.
    assert all(line.isprintable() for line in miner.scrape().split("\n"))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", miner.port, timeout=20)) as connection:
        for method, url in (("GET", path), ("POST", path.replace("result", "cancel")), ("GET", path + "nope")):
            connection.request(method, url)
            text = connection.getresponse().read().decode()
            assert text.isprintable()
            assert json.loads(text)["job_id"].startswith(job_id)
    assert all(line.isprintable() for line in miner.log)


def test_job_ids_that_look_alike_when_escaped_stay_apart_in_the_metrics() -> None:
    with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1") as miner:
        for job_id in HOSTILE_IDS:
            assert miner.call("POST", "/mine", request(job_id=job_id, difficulty="1"))[0] == 200
        seen = {dict(labels).get("job_id") for name, labels in miner.metrics() if name == "miner_job_status"}
        assert len(seen) == len(HOSTILE_IDS)


def test_bad_requests_get_one_clear_reply_and_the_service_goes_on(miner: MinerProcess) -> None:
    error = {"status": "error", "job_id": ""}
    assert miner.call("POST", "/mine", b"{") == (400, error | {"message": "request body must be valid JSON"})
    assert miner.call("POST", "/mine", b" " * 70_000) == (
        413,
        error | {"message": "request body must be at most 65536 bytes"},
    )
    assert miner.call("POST", "/mine", b" " * 5_000_000)[0] == 413
    assert miner.call("POST", "/mine", b"{}", {"content-type": "text/plain"}) == (
        415,
        error | {"message": "content type must be application/json"},
    )
    job = request(difficulty="0")
    assert miner.call("POST", "/mine", job)[1]["job_id"] == job["job_id"]
    for method, path in (
        ("GET", "/nothing"),
        ("GET", "/mine"),
        ("PUT", "/mine"),
        ("DELETE", "/result/x"),
        ("PROPFIND", "/health"),
        ("OPTIONS", "*"),
        ("GET", "/metrics"),
    ):
        assert miner.call(method, path) == (404, error | {"message": "no such call"})
    unknown = miner.call("GET", "/result/unknown")
    assert unknown == (
        404,
        {"status": "not_found", "job_id": "unknown", "nonce": None, "work": None, "hash_count": 0, "elapsed_time": 0.0},
    )
    assert miner.call("GET", "/health") == (200, {"status": "ready"})
    assert miner.call("GET", "/version")[1]["name"] == "quantus-miner"


def test_a_request_that_breaks_off_does_no_harm(miner: MinerProcess) -> None:
    for text in (
        b"POST /mine HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
        b"\xff\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", miner.port)) as connection:
            connection.sendall(text)
    assert miner.call("GET", "/health")[0] == 200
    assert not [line for line in miner.log if "Traceback" in line]


def test_replies_are_as_the_served_openapi_says() -> None:
    # A miner of its own: jobs of these requests go on in it.
    with MinerProcess("--port=0", "--workers=1") as miner:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{miner.port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        # Its reply does not end.
        operations = [operation for operation in operations if operation.path != "/events"]
        assert {operation.path for operation in operations} == {
            "/mine",
            "/result/{job_id}",
            "/cancel/{job_id}",
            "/pause",
            "/resume",
            "/status",
            *("/2/summary", "/1/summary", "/api.json", "/2/backends", "/json_rpc", "/hive-stats"),
            "/",
            "/static/{name}",
            "/history",
            "/doctor",
            "/health",
            "/version",
        }
        for operation in operations:

            @given(case=operation.as_strategy())
            @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
            def check(case: Any) -> None:
                # Whatever is not a call of this API is 404, a known path with another method too; and a schema
                # cannot say that one number has to be below another.
                case.call_and_validate(excluded_checks=[unsupported_method, positive_data_acceptance])

            check()


def test_many_jobs_at_once_are_bounded_and_none_is_lost() -> None:
    with MinerProcess("--port", "0", "--workers", "1") as miner:
        port = miner.port

        def post(ids: range) -> list[tuple[int, str]]:
            replies = []
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for number in ids:
                job = json.dumps(request(job_id=str(number), difficulty=str(MAX)))
                connection.request("POST", "/mine", job, {"content-type": "application/json"})
                response = connection.getresponse()
                replies.append((response.status, json.loads(response.read())["job_id"]))
            connection.close()
            return replies

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            replies = [
                reply for part in pool.map(post, [range(n, 3 * MAX_ACTIVE, 8) for n in range(8)]) for reply in part
            ]
        accepted = [job_id for status, job_id in replies if status == 200]
        assert len(accepted) == MAX_ACTIVE
        assert {status for status, _ in replies} == {200, 503}
        assert all(miner.call("GET", f"/result/{job_id}")[1]["status"] == "running" for job_id in accepted[::100])
        for job_id in accepted:
            assert miner.call("POST", f"/cancel/{job_id}")[0] == 200
        solvable = request()
        assert miner.call("POST", "/mine", solvable)[0] == 200
        assert miner.result(solvable["job_id"])["status"] == "completed"
        assert miner.stop() == 0


def test_a_job_that_nobody_polls_expires() -> None:
    with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1", "--job-expiry-s", "1") as miner:
        orphan = request(difficulty=str(MAX))
        miner.call("POST", "/mine", orphan)
        miner.wait_for_line("expired")
        assert miner.call("GET", f"/result/{orphan['job_id']}")[1]["status"] == "cancelled"
        assert miner.metrics()["miner_jobs_total", frozenset({("status", "expired")})] == 1


def test_more_connections_than_file_descriptors_keep_nobody_out() -> None:
    process = with_file_limit(96, "--port", "0", "--metrics-port", "0")
    with process as miner, contextlib.ExitStack() as held:
        for port in (miner.port, miner.metrics_port):
            for _ in range(200):
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert miner.call("GET", "/health")[0] == 200
            assert miner.metrics()["miner_store_ok", frozenset()] == 1
        assert miner.stop() == 0
        assert not [line for line in miner.log if " INFO " not in line]


def test_series_do_not_grow_with_jobs_and_a_running_one_keeps_its_own() -> None:
    with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1") as miner:
        running = request(difficulty=str(MAX))
        assert miner.call("POST", "/mine", running)[0] == 200
        with concurrent.futures.ThreadPoolExecutor(8) as pool:

            def mine_and_cancel(_: int) -> None:
                job = request(difficulty=str(MAX))
                assert miner.call("POST", "/mine", job)[0] == 200
                assert miner.call("POST", f"/cancel/{job['job_id']}")[0] == 200

            list(pool.map(mine_and_cancel, range(MAX_SHOWN + 50)))
        shown = {labels for name, labels in miner.metrics() if name == "miner_job_status"}
        assert len({dict(labels)["job_id"] for labels in shown}) == MAX_SHOWN
        assert miner.metrics()[
            "miner_job_status",
            frozenset({("engine", "cpu-fast"), ("job_id", running["job_id"]), ("status", "running")}),
        ]


def test_polls_without_the_token_keep_no_job_alive() -> None:
    flags = ("--port", "0", "--workers", "1", "--job-expiry-s", "1", "--api-token", "s3cret")
    with MinerProcess(*flags) as miner:
        job = request(difficulty=str(MAX))
        assert miner.call("POST", "/mine", job, {"authorization": "Bearer s3cret"})[0] == 200
        while not any("cancelled as expired" in line for line in miner.log):
            assert miner.call("GET", f"/result/{job['job_id']}")[0] == 401


def test_a_token_guards_what_changes_state(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with MinerProcess("--port", "0", "--api-token-file", str(token)) as miner:
        job = request(difficulty="1")
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic s3cret"},
            {"authorization": "Bearer é"},
        ):
            assert miner.call("POST", "/mine", job, headers)[0] == 401
            assert miner.call("POST", "/cancel/x", None, headers)[0] == 401
            assert miner.call("GET", "/result/x", None, headers)[0] == 401
        good = {"authorization": "Bearer s3cret"}
        assert miner.call("POST", "/mine", job, good)[0] == 200
        path = f"/result/{job['job_id']}"
        while miner.call("GET", path, None, good)[1]["status"] == "running":
            pass
        assert miner.call("GET", path, None, good)[1]["status"] == "completed"
        assert miner.call("GET", path)[1] == {
            "status": "error",
            "job_id": "",
            "message": "a valid bearer token is required",
        }
        assert miner.call("GET", "/health")[0] == 200
        assert miner.call("POST", f"/cancel/{job['job_id']}", None, good)[0] == 200
        assert "s3cret" not in "\n".join(miner.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_hashing_ends_the_service_in_order(number: signal.Signals) -> None:
    with MinerProcess("--port", "0") as miner:
        job = request(difficulty=str(MAX))
        miner.call("POST", "/mine", job)
        while miner.call("GET", f"/result/{job['job_id']}")[1]["hash_count"] == 0:
            pass
        with socket.create_connection(("127.0.0.1", miner.port)) as idle:  # a client that never says anything
            assert miner.stop(number) == 0
            assert idle.recv(1) == b""
    assert f"Received {number.name}: stopping" in miner.log[-2]
    assert re.search(r"Stopped: \d+ hashes, 0 solutions in ", miner.log[-1])


def test_a_signal_ends_the_service_whatever_clients_are_doing() -> None:
    # The worker sleeps between two batches, for days.
    throttle = ("--engine=cpu-chain-manipulator", "--manip-solved-blocks=999999999")
    upload = b"POST /mine HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with MinerProcess("--port=0", "--metrics-port=0", *throttle) as miner:
        miner.call("POST", "/mine", request(difficulty=str(MAX)))
        ports = (miner.port, miner.metrics_port)
        uploading, scraping = (socket.create_connection(("127.0.0.1", port)) for port in ports)
        with uploading, scraping:
            uploading.sendall(upload)
            scraping.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 50)
            assert miner.call("GET", "/health")[0] == 200
            assert miner.stop() == 0
    assert not [line for line in miner.log if "Traceback" in line or "ERROR" in line]


def test_the_log_has_the_lines_that_operators_grep_for() -> None:
    with MinerProcess(MINER_PORT="0", MINER_WORKERS="99", MINER_METRICS_PORT="", RUST_LOG="info,miner=debug") as miner:
        assert miner.port
        miner.stop()
    text = "\n".join(miner.log)
    cpus = re.search(r"effective logical CPUs available: (\d+)", text)
    assert cpus
    n = cpus[1]
    for line in (
        "Starting external miner service...",
        "Effective config: port=0, ",
        f"Requested 99 workers exceeds available logical CPUs in cpuset ({n}). Clamping to {n}.",
        f"Using {n} worker thread(s) for mining (effective logical CPUs available: {n})",
        "Using engine: cpu-fast",
        "Metrics disabled (no --metrics-port provided)",
        "Server starting on 127.0.0.1:",
    ):
        assert line in text
    assert "Detected cpuset mask: " in text or "No cpuset mask detected; using full logical CPU count" in text


def test_log_levels_and_the_default_number_of_workers() -> None:
    with MinerProcess("--port", "0", "--workers", "0", "--log-format", "json") as miner:
        assert json.loads(miner.wait_for_line("--workers must be at least 1"))["level"] == "warn"
    with MinerProcess("--port", "0", "--log-format", "json") as miner:
        line = json.loads(miner.wait_for_line("Defaulting to"))
        pattern = (
            r"No --workers specified\. Defaulting to \d+ \(leaving ~\d+ for other processes\)"
            r" based on effective \d+ logical CPUs\."
        )
        assert line["level"] == "info"
        assert re.fullmatch(pattern, line["message"])


@pytest.mark.parametrize("engine", ["gpu-cuda", "gpu-opencl"])
def test_an_engine_that_is_not_there_is_one_line_at_start(engine: str) -> None:
    ended = run_cli("--port", "0", MINER_ENGINE=engine)
    assert ended.returncode == 5
    last = ended.stderr.splitlines()[-1]
    assert re.search(rf"engine '{engine}' is not available: .+; use cpu-fast or cpu-baseline$", last)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("args", "environ", "words"),
    [
        (["--port", "x"], {}, "--port: 'x' (command line) is not allowed"),
        ([], {"MINER_WORKERS": "many"}, "environment variable MINER_WORKERS"),
        (["serve", "--nonsense"], {}, "--nonsense"),
        (["--nonsense"], {}, "--nonsense"),
        (["nonsense"], {}, "nonsense"),
        (["--kernel", "avx9"], {}, "--kernel: there is no kernel 'avx9'"),
        (["--engine", "cpu-fast,cpu-baseline", "--workers", "1"], {}, "2 CPU engines need 2 workers"),
        (["verify", "--header", "00", "--nonce", "1", "--difficulty", "1"], {}, "--header"),
        (["bench", "--seconds", "0"], {}, "--seconds"),
        (["dev-node", "--miner", "ftp://x"], {}, "--miner"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(args: list[str], environ: dict[str, str], words: str) -> None:
    ended = run_cli(*args, **environ)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("quantus-miner: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_one_line(miner: MinerProcess) -> None:
    for flag, others in (("--port", []), ("--metrics-port", ["--port", "0"])):
        ended = run_cli(flag, str(miner.port), *others)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(
            f"quantus-miner: {flag}: cannot listen on 127.0.0.1:{miner.port}"
        )


def test_pidof_and_ps_know_the_process_and_no_secret() -> None:
    secret = "s3cret-0123456789"  # noqa: S105 - a test's
    flags = ("--port", "0", "--api-token", secret, f"--auth-token={secret}", "--worker-name", "rig")
    with MinerProcess(*flags) as miner:
        miner.wait_for_line("Server starting on")
        process = Path(f"/proc/{miner.process.pid}")
        shown = [part.decode() for part in (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")]
        expected = ["quantus-miner", *flags[:3], "***", "--auth-token=***", *flags[5:]]
        assert shown == expected
        assert (process / "comm").read_text() == "quantus-miner\n"
        if pidof := shutil.which("pidof"):
            found = subprocess.run([pidof, "quantus-miner"], capture_output=True, text=True, check=True).stdout
            assert str(miner.process.pid) in found.split()
        assert miner.stop() == 0
