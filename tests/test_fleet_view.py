"""What a hub shows of its miners: its status, what the page is told, and real rigs that do what they are asked to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from quantus_miner.client import Client
from quantus_miner.dev.chain import Chain
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.dev.quic_node import QuicNode
from quantus_miner.errors import MinerError
from quantus_miner.hub.roster import Roster
from quantus_miner.hub.tags import Tags
from quantus_miner.mining.stats import HubStats, HubWorkerStats, LinkStats, RigStats
from quantus_miner.model import Pow
from quantus_miner.monitor import Snapshot
from quantus_miner.parts.hub_page import MAX_CHANGES, Changes
from quantus_miner.parts.ports import HUB_PORTS
from quantus_miner.parts.rig import FILE, REFUSES
from quantus_miner.web.history import History
from quantus_miner.web.hub_status import hub_status
from quantus_miner.wire.commands import CommandRequest
from quantus_miner.wire.fleet import DeviceMessage, StatusMessage
from quantus_miner.wire.hub_openapi import DOCUMENT
from quantus_miner.wire.hub_status import MAX_MINERS, HubStatus, MinerStatus

from .conftest import MinerProcess
from .hub import HubProcess, until
from .pages import PAGES, code, codes, fenced, table, tables
from .rigs import url_for
from .test_access import FOREIGN, ask
from .test_docs import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORT = StatusMessage("1.0", 90.0, 5e6, 50, 1, 4, 60.0, 200.0, 4e6, 3e6)


def rig(name: str, **fields: Any) -> RigStats:
    made: dict[str, Any] = {
        "tags": ("farm1",), "online": True, "aside": False, "contact_age_s": 1.5, "status": REPORT, "waits": False,
        "kept": 3, "stale": 2, "invalid": 1, "accepted": 0, "rejected": 0, "work": 500, "hashes": 250,
        "proven_rate": 7e6,
    }  # fmt: skip
    return RigStats(name, **made | fields)


def hub(*rigs: RigStats, workers: tuple[HubWorkerStats, ...] = ()) -> HubStats:
    return HubStats(2, 1, 3, 4, 500, {}, workers, rigs)


WORKERS = (
    HubWorkerStats("w", 2, 100, 6, 5, 7, 1, 500, 2.5, 1e6),
    HubWorkerStats("gone", 0, 0, 0, 0, 0, 0, 0, None, 9e9),
)
SNAPSHOT = Snapshot(time=1000.0, uptime_s=70.0, effective_cpus=4, sources=(LinkStats("node a", mined=True),))


# --- the status ---


def test_sums_leave_out_what_is_offline() -> None:
    devices = [DeviceMessage("0", 2e6, 60.0, 90.0), DeviceMessage("1", 3e6)]
    stats = hub(
        rig("a"),
        rig("b", status=msgspec.structs.replace(REPORT, temperature=70.0, rate_15m=None, devices=devices)),
        rig("c", online=False),
        rig("d", aside=True),
        rig(
            "e",
            status=msgspec.structs.replace(REPORT, hash_rate=0.0, power=None, pauses=["hub"], paused=True),
            waits=True,
        ),
        rig("f", status=None),
        workers=WORKERS,
    )
    status = hub_status(SNAPSHOT, stats)
    assert [(miner.name, miner.state) for miner in status.miners] == [
        ("a", "mining"), ("b", "mining"), ("c", "offline"), ("d", "ignored"), ("e", "paused"), ("f", "idle"),
        ("w", "mining"), ("gone", "offline"),
    ]  # fmt: skip
    totals = status.totals
    assert (totals.rigs, totals.online, totals.offline, totals.paused, totals.waiting) == (6, 5, 1, 1, 1)
    assert (totals.hash_rate.current, totals.hash_rate.average_60s) == (3 * 5e6 + 1e6, 4 * 4e6 + 1e6)
    assert totals.hash_rate.average_15m is None  # not known of b
    assert (totals.power_watts, totals.hottest_celsius) == (600.0, 70.0)
    assert (totals.accepted, totals.rejected, totals.stale) == (6 * 3 + 6, 6 * 1 + 7, 6 * 2 + 5)
    by_name = {miner.name: miner for miner in status.miners}
    assert (by_name["c"].rate_10s, by_name["c"].version, by_name["c"].contact) == (None, "1.0", 998.5)
    assert (by_name["e"].orders, by_name["b"].devices, by_name["a"].luck) == ("waiting", devices, 2.0)
    assert (status.state, status.reason, status.miners_left_out) == ("mining", "", 0)
    idle = hub_status(replace(SNAPSHOT, sources=(LinkStats("node a", refusal="no"),)), stats, miners=False)
    assert (idle.state, idle.reason, idle.miners, idle.miners_left_out) == ("idle", "node a refuses us: no", [], 8)
    refusing = hub(rig("a", status=msgspec.structs.replace(REPORT, refused=REFUSES)))
    assert hub_status(SNAPSHOT, refusing).miners[0].orders == REFUSES


def test_the_page_is_told_of_changes_and_of_so_many_at_a_time() -> None:
    changes = Changes()
    rigs = {f"r{number}": rig(f"r{number}") for number in range(MAX_CHANGES + 100)}

    def told() -> tuple[int, list[str]]:
        message = changes.since_last(hub(*rigs.values(), workers=WORKERS), 1000.0)
        return (0, []) if message is None else (len(message.miners), message.gone)

    assert [told() for _ in range(3)] == [(MAX_CHANGES, []), (102, []), (0, [])]
    for name in rigs:
        rigs[name] = replace(rigs[name], contact_age_s=6.5)  # time passes, nothing is heard
    assert told() == (0, [])
    rigs["r7"] = replace(rigs["r7"], status=msgspec.structs.replace(REPORT, uptime_s=95.0))
    del rigs["r8"]
    assert told() == (1, ["rig/r8"])
    # All change, and all are told in turn.
    seen: list[str] = []
    for _ in range(2):
        for number, name in enumerate(rigs):
            status = msgspec.structs.replace(REPORT, uptime_s=1000.0 + len(seen) + number)
            rigs[name] = replace(rigs[name], status=status)
        message = changes.since_last(hub(*rigs.values()), 1000.0)
        assert message is not None
        seen += [miner.name for miner in message.miners]
    assert set(seen) == set(rigs)


def test_the_plot_has_what_rigs_report_and_stratum_miners_prove() -> None:
    history = History(lambda _: None, lambda *_: None)
    for second in range(3):
        grown = hub(rig("a", hashes=1_000 * second), workers=(replace(WORKERS[0], work=10 * second),))
        history.on_snapshot(replace(SNAPSHOT, time=1000.0 + second, uptime_s=70.0 + second, hub=grown))
    (point,) = history._tracks["hour"].points(1003.0)
    assert (point.hashes, point.devices) == (2_020, {"rigs": 2_000, "stratum miners": 20})


def test_a_status_lists_a_bounded_number() -> None:
    status = hub_status(SNAPSHOT, hub(*(rig(str(number)) for number in range(MAX_MINERS + 5)), workers=WORKERS))
    assert (len(status.miners), status.miners_left_out, status.totals.rigs) == (MAX_MINERS, 7, MAX_MINERS + 5)


# --- docs/hub-api.md ---


def test_the_api_is_documented_as_it_is() -> None:
    described = {
        (f"{method.upper()} {path}", status)
        for path, calls in DOCUMENT["paths"].items()
        for method, operation in calls.items()
        if method in METHODS
        for status in operation["responses"]
    }
    rows = table("docs/hub-api.md", "call", "code", "when")
    assert {(code(row[0]), row[1]) for row in rows} == described
    fields = [
        [name for row in rows for name in codes(row[0])] for rows in tables("docs/hub-api.md", "field", "meaning")
    ]
    assert fields[0] == list(HubStatus.__struct_fields__)
    assert set(fields[1]) == set(MinerStatus.__struct_fields__)
    page = PAGES["docs/hub-api.md"]
    assert f"up to {HUB_PORTS['port']} connections" in page
    assert f"up to {MAX_MINERS:,}" in page
    assert f"changed, up to {MAX_CHANGES}," in page
    for text in fenced("docs/hub-api.md", "json"):
        msgspec.json.decode(text, type=CommandRequest)


# --- real processes ---


def status_of(client: Client) -> dict[str, MinerStatus]:
    status = client.status()
    assert isinstance(status, HubStatus)
    return {miner.name: miner for miner in status.miners}


def test_rigs_do_what_the_hub_asks(tmp_path: Path) -> None:
    async def test() -> None:
        node = QuicNode(Chain(Pow.POSEIDON2, 2_000, 0.5), tmp_path, report=lambda _: None)
        await node.start()
        try:
            await asyncio.to_thread(steer, node, tmp_path)
        finally:
            await node.stop()

    asyncio.run(test())


def steer(node: QuicNode, tmp_path: Path) -> None:
    state = tmp_path / "hub"

    def eventually(condition: Callable[[], object]) -> None:
        asyncio.run(until(lambda: bool(condition())))

    with (
        HubProcess(node.port, node.folder, state, "--nats-port=0", "--metrics-port=0") as hub_process,
        contextlib.ExitStack() as stack,
    ):
        line = hub_process.wait_for_line("Rigs can connect to port ")
        port = int(line.split("Rigs can connect to port ")[1].split()[0])
        urls = {name: url_for(Roster(state), name, port).secret for name in ("a", "b")}
        Tags(Roster(state).folder).set("a", ["farm1"])
        hub_process.wait_for_line("2 rigs are invited")
        url = f"http://127.0.0.1:{hub_process.port}"
        token = (state / "control-token").read_text().strip()
        client = Client(url, token)

        def give(action: Any, *targets: str, **more: Any) -> Any:
            return client.command(CommandRequest(action, list(targets), "test", **more))

        # Who may: only with the token, and no page of another site.
        body = json.dumps({"action": "pause", "targets": ["all"], "by": "x"})
        assert hub_process.call("POST", "/command", json.loads(body))[0] == 401
        assert hub_process.call("POST", "/command", b"[", {"authorization": f"Bearer {token}"})[0] == 400
        for head in FOREIGN:
            for request in ("GET /commands", "POST /command"):
                assert ask(hub_process.port, f"{request} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}")[0] == 403

        a_state = tmp_path / "a"
        a = stack.enter_context(MinerProcess("--port=0", "--workers=1", f"--hub={urls['a']}", f"--state-dir={a_state}"))
        rig_a = Client(f"http://127.0.0.1:{a.port}", None)
        eventually(
            lambda: (miner := status_of(client).get("a")) and miner.state == "mining" and miner.tags == ["farm1"]
        )

        # By the command line, to a tag.
        words = ("hub", "pause", "tag:farm1", f"--url={url}", f"--state-dir={state}")
        done = subprocess.run(
            [sys.executable, "-m", "quantus_miner", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "pause: 1 rigs\n", "")
        eventually(lambda: rig_a.status().state == "paused")
        assert a.call("GET", "/status")[1]["pauses"] == [{"device": None, "reason": "hub"}]
        eventually(lambda: (miner := status_of(client)["a"]).state == "paused" and miner.orders == "")

        # A rig that is offline hears of it later, and may refuse.
        assert give("pause", "b").offline == 1
        b = stack.enter_context(MinerProcess("--port=0", "--workers=1", f"--hub={urls['b']}", "--no-hub-control"))
        eventually(lambda: (miner := status_of(client).get("b")) and miner.orders == REFUSES)
        assert b.call("GET", "/status")[1]["pauses"] == []

        # What is said for a rig counts before what is said for its tag. Only the newest orders count.
        assert give("resume", "a").exceptions == []
        assert give("set-pools", "tag:farm1", pools=["stratum+tcp://127.0.0.1:9"], wallet=DEV_WALLET).rigs == 1
        assert give("reload", "all").rigs == 2
        assert give("restart", "a").rigs == 1
        a.wait_for_line("Refused what the hub asks for: it is not a service of systemd")
        a.wait_for_line("Reloaded: no setting has changed")
        eventually(lambda: rig_a.status().state == "mining")
        names = [source["name"] for source in a.call("GET", "/status")[1]["sources"]]
        assert names == [f"hub tls://127.0.0.1:{port}", "pool stratum+tcp://127.0.0.1:9"]
        assert (a_state / FILE).stat().st_mode & 0o077 == 0
        eventually(lambda: status_of(client)["a"].orders.startswith("it is not a service of systemd"))
        assert give("pause", "tag:farm1").exceptions == ["a"]

        # A rig that starts again uses these pools at once, and has nothing else to do.
        assert a.stop() == 0
        a = stack.enter_context(MinerProcess("--port=0", "--workers=1", f"--hub={urls['a']}", f"--state-dir={a_state}"))
        assert len(a.call("GET", "/status")[1]["sources"]) == 2
        eventually(lambda: (miner := status_of(client)["a"]).state == "mining" and miner.orders == "")
        assert give("set-pools", "tag:farm1").rigs == 1
        eventually(lambda: len(a.call("GET", "/status")[1]["sources"]) == 1)
        eventually(lambda: not (a_state / FILE).exists())

        # What it shows elsewhere.
        assert [entry.what for entry in client.commands()][:3] == ["pause", "pause", "resume"]
        metrics = hub_process.metrics()
        assert metrics["miner_hub_rig_paused", frozenset({("rig", "a")})] == 0
        assert metrics["miner_hub_rig_hashes_total", frozenset({("rig", "a")})] > 0
        once = subprocess.run(
            [sys.executable, "-m", "quantus_miner", "top", url, "--once"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert re.search(r"^mining .* \| proven ", once.stdout, re.MULTILINE)
        assert re.search(r"^a  +mining ", once.stdout, re.MULTILINE)
        assert f"! rig b refuses what it was asked to: {REFUSES}\n" in once.stdout
        with pytest.raises(MinerError, match="there is no rig x; rigs: a, b"):
            give("pause", "x")
        for process in (a, b, hub_process):
            assert process.stop() == 0
