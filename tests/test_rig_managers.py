"""What rig managers are told, read as they read it: with curl, jq, netcat and awk, while a miner mines in a pool."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from quantus_miner import __version__
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.wire import xmrig

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = [tool for tool in ("bash", "curl", "jq", "awk") if shutil.which(tool) is None]
read_by_scripts = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt install curl jq gawk)"
)


def is_openbsd_netcat() -> bool:
    """Whether ``nc`` is the one of rig systems. Others of that name have other flags."""
    if shutil.which("nc") is None:
        return False
    help_ = subprocess.run(["nc", "-h"], capture_output=True, text=True, check=False)  # noqa: S607
    return "OpenBSD" in help_.stdout + help_.stderr


read_by_netcat = pytest.mark.skipif(
    not is_openbsd_netcat(), reason="nc is not OpenBSD's netcat (apt install netcat-openbsd)"
)


@dataclass
class Rig:
    """A miner that mines in a pool, with all ports for rig managers."""

    miner: MinerProcess
    token: str

    def port(self, what: str) -> int:
        return self.miner._port(f"Starting {what} API on ")

    def run(self, script: str) -> str:
        """What a script prints. It gets the ports as HTTP, RIG, CLAYMORE and CGMINER, and the token as TOKEN."""
        ports = {"HTTP": self.miner.port} | {what.upper(): self.port(what) for what in ("rig", "Claymore", "cgminer")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": "/usr/bin:/bin", "TOKEN": self.token} | {name: str(port) for name, port in ports.items()},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(
        self, port: int, path: str, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def ask(self, what: str, request: str) -> Any:
        """The reply of a TCP port to one line."""
        with socket.create_connection(("127.0.0.1", self.port(what)), timeout=20) as client:
            client.sendall(request.encode() + b"\n")
            return json.loads(b"".join(iter(lambda: client.recv(65_536), b"")).rstrip(b"\0"))

    def status(self) -> Any:
        return self.get(self.miner.port, "/status")[1]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("rig")
    flags = ("--share-difficulty=2000", "--difficulty=1000000000000", "--block-time=3600", "--share-time=0.2")
    with subprocess.Popen(
        [sys.executable, "-m", "quantus_miner", "dev-pool", "--listen=0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pool:
        try:
            assert pool.stdout is not None
            url = next(found[0] for line in pool.stdout if (found := re.search(r"stratum\+tcp://\S*[0-9]", line)))
            ports = ("--port=0", "--rig-port=0", "--rig-claymore-port=0", "--rig-cgminer-port=0")
            mine = (f"--pool={url}", f"--wallet={DEV_WALLET}", "--workers=1", f"--state-dir={folder}")
            with MinerProcess(*ports, *mine) as miner:
                started = Rig(miner, (folder / "control-token").read_text().strip() if miner.port else "")
                while started.get(miner.port, "/hive-stats")[1]["ar"][0] < 3:
                    pass
                yield started
                assert miner.stop() == 0
        finally:
            pool.terminate()
            pool.communicate(timeout=20)


def near(kilo: float, rig: Rig) -> bool:
    """Whether a rate in kH/s is that of the miner now, and not in another unit."""
    now: float = rig.status()["hash_rate"]["current"] / 1000
    return now / 4 < kilo < 4 * now


# --- scripts ---


@read_by_scripts
def test_the_script_of_a_hiveos_package_reads_hive_stats(rig: Rig) -> None:
    khs, stats = rig.run("""
        stats=$(curl --connect-timeout 2 --max-time 5 --silent --noproxy '*' http://127.0.0.1:$HTTP/hive-stats)
        khs=$(jq -r '.hs | add // 0' <<< "$stats")
        echo "$khs"; jq -c . <<< "$stats"
    """).splitlines()
    assert near(float(khs), rig)
    found = json.loads(stats)
    assert list(found) == ["hs", "hs_units", "temp", "fan", "uptime", "ar", "algo", "bus_numbers", "ver"]
    assert (found["hs_units"], found["algo"], found["ver"]) == ("khs", "qpow-poseidon2", __version__)
    # The CPU is one device on no bus.
    assert (len(found["hs"]), found["temp"], found["fan"], found["bus_numbers"]) == (1, [None], [None], [None])
    assert found["ar"][0] >= 3
    assert found["ar"][1] == 0
    assert found["uptime"] >= 0


@read_by_scripts
@pytest.mark.parametrize("path", ["api.json", "1/summary", "2/summary"])
def test_scripts_for_xmrig_read_the_summary(rig: Rig, path: str) -> None:
    """As HiveOS reads xmrig and its relatives: nonces a second, good shares, and the others."""
    khs, stats = rig.run(f"""
        raw=$(curl --connect-timeout 2 --max-time 5 --silent --noproxy '*' http://127.0.0.1:$RIG/{path})
        khs=$(jq -r '.hashrate.total[0]' <<< "$raw" | awk '{{print $1/1000}}')
        ac=$(jq '.results.shares_good' <<< "$raw")
        rj=$(( $(jq '.results.shares_total' <<< "$raw") - ac ))
        stats=$(jq -c --arg ac "$ac" --arg rj "$rj" '{{hs: [.hashrate.threads[][0]], hs_units: "hs", algo: .algo,
            uptime: .connection.uptime, ar: [$ac, $rj], ver: .version}}' <<< "$raw")
        echo "$khs"; echo "$stats"
    """).splitlines()
    found = json.loads(stats)
    assert near(float(khs), rig)
    assert [near(rate / 1000, rig) for rate in found["hs"]] == [True]
    assert (int(found["ar"][0]) >= 3, found["ar"][1]) == (True, "0")
    assert (found["algo"], found["ver"]) == ("qpow-poseidon2", __version__)
    assert found["uptime"] == int(found["uptime"])


@read_by_scripts
def test_a_script_of_mmpos_builds_its_report(rig: Rig) -> None:
    report = json.loads(
        rig.run("""
        GPU_COUNT=0
        raw=$(curl -s --max-time 3 http://127.0.0.1:$HTTP/hive-stats)
        jq -n --argjson raw "$raw" '
            [range($raw.hs | length) | {hash: $raw.hs[.], bus: $raw.bus_numbers[.]}] | sort_by(.bus != null) as $all
            | {index: [range($all | length)], busid: [$all[].bus // "cpu"], hash: [$all[].hash], units: $raw.hs_units,
               air: [$raw.ar[0], $raw.ar[2], $raw.ar[1]], miner_name: "quantus-miner", miner_version: $raw.ver}'
    """)
    )
    assert (report["index"], report["busid"], report["units"]) == ([0], ["cpu"], "khs")
    assert near(report["hash"][0], rig)
    accepted, invalid, rejected = report["air"]
    assert (accepted >= 3, invalid >= 0, rejected) == (True, True, 0)


@read_by_scripts
@read_by_netcat
@pytest.mark.parametrize("netcat", ["nc -q 0", "nc -w 2", "nc -N"])
def test_simplemining_reads_the_cgminer_port(rig: Rig, netcat: str) -> None:
    lines = rig.run(f"""
        DATA=$(echo '{{"command":"devs+summary+devs2+summary2"}}' | timeout 5 {netcat} 127.0.0.1 $CGMINER | tr -d '\\0')
        echo "$DATA" | jq -r 'try .summary.SUMMARY[]."KHS 30s" // 0' | awk '{{ printf "%.2f\\n", $1*1000 }}'
        echo "$DATA" | jq -r 'try .summary.SUMMARY[].Accepted // 0'
        echo "$DATA" | jq -r 'try .summary.SUMMARY[].Rejected // 0'
        echo "$DATA" | jq -r 'try .devs.DEVS[]."KHS 30s" // 0'
        echo "$DATA" | jq -r 'try .summary2.SUMMARY // null'
    """).splitlines()
    total, accepted, rejected, device, second_coin = lines
    assert near(float(total) / 1000, rig)
    assert near(float(device), rig)
    assert (int(accepted) >= 3, rejected, second_coin) == (True, "0", "null")


@read_by_scripts
@read_by_netcat
@pytest.mark.parametrize("method", ["miner_getstat1", "miner_getstat2"])
def test_monitors_of_claymore_read_its_port(rig: Rig, method: str) -> None:
    result = rig.run(f"""
        echo '{{"id":0,"jsonrpc":"2.0","method":"{method}","psw":"x"}}' | nc -w 2 localhost $CLAYMORE | jq -c .result
    """)
    fields = json.loads(result)
    assert len(fields) == (9 if method == "miner_getstat1" else 16)
    assert all(isinstance(field, str) for field in fields)
    total, accepted, rejected = map(int, fields[2].split(";"))
    assert near(total, rig)
    assert (fields[0], accepted >= 3, rejected) == (f"quantus-miner {__version__}", True, 0)
    assert fields[3] == str(total)
    assert fields[6] == "0;0"
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", fields[7])
    assert len(fields[8].split(";")) == 4


def test_a_dashboard_for_xmrig_finds_all_that_it_shows(rig: Rig) -> None:
    code, summary = rig.get(rig.port("rig"), "/2/summary")
    assert code == 200
    assert msgspec.convert(summary, xmrig.Summary)
    assert set(summary) == {
        *("id", "worker_id", "uptime", "restricted", "resources", "features", "results", "algo", "connection"),
        *("version", "kind", "ua", "cpu", "donate_level", "paused", "algorithms", "hashrate", "hugepages"),
    }
    assert set(summary["connection"]) >= {
        "pool",
        "ip",
        "ping",
        "failures",
        "tls",
        "tls-fingerprint",
        "diff",
        "accepted",
    }
    assert summary["resources"]["memory"]["total"] > summary["resources"]["memory"]["resident_set_memory"] > 1_000_000
    assert len(summary["resources"]["load_average"]) == len(summary["hashrate"]["total"]) == 3
    assert summary["results"]["diff_current"] == summary["connection"]["diff"] >= 1
    assert summary["results"]["avg_time_ms"] > 0
    assert len(summary["results"]["best"]) == 10
    assert (summary["restricted"], summary["paused"], summary["kind"]) == (True, False, "miner")
    code, backends = rig.get(rig.port("rig"), "/2/backends")
    (cpu,) = backends
    assert (cpu["type"], cpu["enabled"], len(cpu["threads"])) == ("cpu", True, 1)
    assert cpu["threads"][0].keys() == {"hashrate"}


# --- steering ---


def test_json_rpc_pauses_and_resumes_as_xmrig_does(rig: Rig) -> None:
    bearer = {"Authorization": f"Bearer {rig.token}"}
    for port in (rig.miner.port, rig.port("rig")):
        for method, paused in (("pause", True), ("resume", False), ("stop", True), ("start", False)):
            body = json.dumps({"method": method, "id": 1})
            code, reply = rig.get(port, "/json_rpc", "POST", body, **bearer)
            assert (code, reply) == (200, {"id": 1, "jsonrpc": "2.0", "result": {"status": "OK"}})
            summary = rig.get(port, "/2/summary", **bearer)[1]
            assert (summary["paused"], summary["restricted"]) == (paused, False)
            assert rig.status()["pauses"] == ([{"device": None, "reason": "user"}] if paused else [])


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ("{", {"id": None, "error": {"code": -32700, "message": "Parse error"}}),
        ("", {"id": None, "error": {"code": -32700, "message": "Parse error"}}),
        ('{"id": 5}', {"id": None, "error": {"code": -32600, "message": "Invalid Request"}}),
        ('[{"method": "pause"}]', {"id": None, "error": {"code": -32600, "message": "Invalid Request"}}),
        ('{"method": "reboot", "id": "a"}', {"id": "a", "error": {"code": -32601, "message": "Method not found"}}),
    ],
)
def test_what_json_rpc_cannot_do_is_an_error_of_json_rpc(rig: Rig, body: str, reply: dict[str, Any]) -> None:
    found = rig.get(rig.port("rig"), "/json_rpc", "POST", body, Authorization=f"Bearer {rig.token}")
    assert found == (200, {"jsonrpc": "2.0"} | reply)
    assert rig.status()["pauses"] == []


def test_without_the_token_rig_managers_only_read(rig: Rig) -> None:
    body = '{"method": "pause", "id": 1}'
    page = {"Origin": "https://page.example"}
    for port in (rig.miner.port, rig.port("rig")):
        assert rig.get(port, "/json_rpc", "POST", body)[0] == 401
        assert rig.get(port, "/json_rpc", "POST", body, Authorization="Bearer x")[0] == 401
        assert rig.get(port, "/json_rpc", "POST", body, Authorization=f"Bearer {rig.token}", **page)[0] == 403
        assert rig.get(port, "/2/summary", Authorization="Bearer é".encode().decode("latin-1"))[1]["restricted"] is True
        assert rig.get(port, "/hive-stats", Host="page.example")[0] == 421
    assert rig.status()["pauses"] == []


def test_the_port_for_rig_managers_has_no_job_api(rig: Rig) -> None:
    for path in ("/mine", "/result/a", "/status", "/pause", "/"):
        assert rig.get(rig.port("rig"), path)[0] == 404


@pytest.mark.parametrize("method", ["miner_restart", "miner_reboot", "control_gpu", "miner_file", "pause", "getstat1"])
def test_nothing_is_changed_through_the_claymore_port(rig: Rig, method: str) -> None:
    reply = rig.ask("Claymore", json.dumps({"id": "x", "method": method}))
    message = "Method not found" if method in ("pause", "getstat1") else "Method not available"
    assert reply == {"id": "x", "jsonrpc": "2.0", "error": {"code": -32601, "message": message}}


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ('{"command":"addpool","parameter":"a,b,c"}', 45, "Access denied to 'addpool' command"),
        ('{"command":"quit"}', 45, "Access denied to 'quit' command"),
        ('{"command":"privileged"}', 14, "Invalid command"),
        ('{"command":""}', 24, "Missing JSON 'command'"),
        ("summary", 23, "Invalid JSON"),
    ],
)
def test_nothing_is_changed_through_the_cgminer_port(rig: Rig, request_: str, code: int, message: str) -> None:
    reply = rig.ask("cgminer", request_)
    (status,) = reply["STATUS"]
    assert (reply["id"], status["STATUS"], status["Code"], status["Msg"]) == (1, "E", code, message)
