"""The page's files and calls: who may ask for them, what they send, how much, and what is left after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import signal
import socket
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Self, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from quantus_miner import logs
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.events import (
    DeviceChanged,
    Event,
    JobEnded,
    PauseChanged,
    SettingsChanged,
    ShareJudged,
    SolutionSent,
    SolutionUnsent,
    SourceChanged,
)
from quantus_miner.mining.stats import ApiStats, LinkStats, MinerStats, WorkerStats
from quantus_miner.model import LiveJob, Solution
from quantus_miner.monitor import Snapshot
from quantus_miner.parts.findings import examine
from quantus_miner.parts.live_page import STREAM_SHARE
from quantus_miner.settings import load
from quantus_miner.store.rows import StoredPoint
from quantus_miner.unit import Host
from quantus_miner.web import events, page
from quantus_miner.web.doctor import Doctor
from quantus_miner.web.history import SPANS, History, Span, Track
from quantus_miner.wire.events import DoctorReply, EventMessage, FindingMessage, Kind, LogMessage
from quantus_miner.wire.history import MAX_SERIES, HistoryReply, Point, PointMessage
from quantus_miner.wire.status import Status

from .conftest import MinerProcess, with_file_limit
from .test_access import BAD_HOSTS, FOREIGN, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATIC = resources.files("quantus_miner.web").joinpath("static")
CALLS = ["/", "/static/page.js", "/events", "/history", "/doctor"]
WAIT_S = 20.0


class Stream:
    """A client that reads events, on a socket of its own."""

    def __init__(self, port: int, head: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.socket.sendall(f"GET /events HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = {}
        for line in iter(self._file.readline, b"\r\n"):
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def body(self) -> Any:
        return json.loads(self._file.read(int(self.headers["content-length"])))

    def lines(self) -> Iterator[str]:
        """The lines of the body, until the miner ends it in order."""
        rest = b""
        while size := int(self._file.readline(), 16):
            rest += self._file.read(size)
            self._file.readline()
            *whole, rest = rest.split(b"\n")
            yield from (line.decode() for line in whole)
        assert self._file.readline() == b"\r\n"

    def messages(self) -> Iterator[tuple[str, Any]]:
        name = ""
        for line in self.lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()


def next_of(messages: Iterator[tuple[str, Any]], name: str) -> Any:
    return next(data for kind, data in messages if kind == name)


# --- files ---


def test_uplot_is_the_one_that_was_published() -> None:
    lines = [line.split() for line in STATIC.joinpath("uPlot.sha256").read_text().splitlines()]
    sums = {name: expected for expected, name in lines}
    assert set(sums) == {"uPlot.iife.min.js", "uPlot.min.css", "uPlot.LICENSE"}
    for name, expected in sums.items():
        assert hashlib.sha256(STATIC.joinpath(name).read_bytes()).hexdigest() == expected
    assert "MIT" in STATIC.joinpath("uPlot.LICENSE").read_text()


def test_the_page_needs_nothing_but_its_own_files() -> None:
    starts = {name: STATIC.joinpath(name).read_text() for name in (page.INDEX, page.HUB_INDEX)}
    named = {name.removeprefix("/static/") for name in re.findall(r'(?:src|href)="([^"#]+)"', "".join(starts.values()))}
    named = {name for name in named if not name.startswith("data:") and name != "/status"}
    for name in page.FILES:
        text = STATIC.joinpath(name).read_text()
        named |= set(re.findall(r'^import .* from "\./([^"]+)"', text, re.MULTILINE))
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), name
        if name not in starts and "uPlot" not in name:
            assert "http" not in text, name
    assert named | set(starts) == set(page.FILES)
    # The policy of the page would block all of these.
    for name, text in starts.items():
        assert not re.search(r"<style|style=|<script(?![^>]* src=)| on[a-z]+=", text), name


def test_files_are_served_with_a_strict_policy_and_kept_by_browsers(miner: MinerProcess) -> None:
    for path, kind in (("/", "text/html"), ("/static/page.js", "text/javascript"), ("/static/page.css", "text/css")):
        with socket.create_connection(("127.0.0.1", miner.port), timeout=WAIT_S) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert headers["content-type"].split(";")[0] == kind
        assert body == STATIC.joinpath(path.removeprefix("/static/") if path != "/" else page.INDEX).read_bytes()
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert ask(miner.port, f"GET {path} HTTP/1.1\r\nif-none-match: {headers['etag']}") == (304, b"")
        assert ask(miner.port, f'GET {path} HTTP/1.1\r\nif-none-match: "other"')[0] == 200
    for path in ("/static/", "/static/none.js", "/static/..%2fpage.py", "/static/uPlot.LICENSE"):
        assert miner.call("GET", path)[0] == 404


# --- who may ask ---


@pytest.mark.parametrize("path", CALLS)
def test_a_name_that_leads_here_is_not_enough_to_see_the_page(miner: MinerProcess, path: str) -> None:
    for host in BAD_HOSTS:
        status, body = ask(miner.port, f"GET {path} HTTP/1.1\r\nhost: {host}")
        assert (status, json.loads(body)["status"]) == (421, "error")


@pytest.mark.parametrize("path", ["/events", "/history", "/doctor"])
def test_other_pages_are_refused_but_may_link_to_this_one(miner: MinerProcess, path: str) -> None:
    for lines in FOREIGN:
        assert ask(miner.port, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{lines}")[0] == 403
    assert ask(miner.port, "GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nsec-fetch-site: cross-site")[0] == 200


def test_a_token_is_needed_to_steer_and_not_to_look(tmp_path: Path) -> None:
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}", MINER_API_TOKEN="abc") as miner:  # noqa: S106
        assert ask(miner.port, "GET / HTTP/1.1")[0] == 200
        assert miner.call("GET", "/history")[0] == 200
        assert miner.call("GET", "/doctor")[0] == 200
        with Stream(miner.port) as stream:
            shown = next_of(stream.messages(), "log")
        assert not [line for line in shown["lines"] if "abc" in line]
        assert miner.call("POST", "/pause")[0] == 401


def test_without_the_page_there_is_none_of_its_calls_and_a_reload_brings_it_back(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('page = "off"')
    with MinerProcess("--port=0", "--workers=1", f"--config={config}") as miner:
        for path in CALLS:
            assert miner.call("GET", path) == (404, {"status": "error", "job_id": "", "message": "no such call"})
        config.write_text("")
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Reloaded: page")
        assert ask(miner.port, "GET / HTTP/1.1")[0] == 200
        with Stream(miner.port) as stream:
            lines = stream.lines()
            next(lines)
            config.write_text('page = "off"')
            miner.process.send_signal(signal.SIGHUP)
            assert len(list(lines)) < 100  # it ends
        assert miner.call("GET", "/events")[0] == 404
    with MinerProcess("--port=0", "--workers=1", "--no-page") as miner:
        assert ask(miner.port, "GET / HTTP/1.1")[0] == 404


# --- events ---


def test_events_come_as_they_happen(tmp_path: Path) -> None:
    with MinerProcess("--port=0", "--workers=1", f"--state-dir={tmp_path}") as miner, Stream(miner.port) as stream:
        assert (stream.status, stream.headers["cache-control"]) == (200, "no-store")
        assert stream.headers["content-type"].startswith("text/event-stream")
        messages = stream.messages()
        assert msgspec.convert(next_of(messages, "status"), Status).state == "idle"
        assert msgspec.convert(next_of(messages, "log"), LogMessage)
        token = (tmp_path / "control-token").read_text().strip()
        miner.call("POST", "/pause", headers={"authorization": f"Bearer {token}"})
        event = msgspec.convert(next_of(messages, "event"), EventMessage)
        assert (event.kind, event.about, event.what, event.reason) == ("pause", "all devices", "paused", "user")
        assert next_of(messages, "status")["state"] == "paused"
        # Who comes later learns of it, and of the last lines of the log.
        with Stream(miner.port) as late:
            messages = late.messages()
            assert next_of(messages, "event")["what"] == "paused"
            assert [line for line in next_of(messages, "log")["lines"] if "Server starting on" in line]
        assert miner.stop() == 0
        assert len(list(stream.lines())) < 100  # it was ended in order, not cut off


def test_1000_streams_leave_the_api_alone_and_room_for_the_next(miner: MinerProcess) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(miner.port)) for _ in range(1000)]
        assert [stream.status for stream in streams] == events.MAX_STREAMS * [200] + 984 * [503]
        refused = streams[-1].body()
        assert (refused["status"], refused["message"]) == (
            "error",
            "too many clients read events; close a page of this miner",
        )
        assert miner.call("GET", "/health")[0] == 200
        assert next_of(streams[0].messages(), "status")
    for _ in range(events.MAX_STREAMS):
        while True:  # until the miner knows that one has gone
            with Stream(miner.port) as stream:
                if stream.status == 200:
                    break
    assert ask(miner.port, "HEAD /events HTTP/1.1")[0] == 200


def test_streams_leave_most_of_few_connections_to_others() -> None:
    with with_file_limit(64, "--port=0", "--workers=1") as miner, contextlib.ExitStack() as stack:
        statuses = [stack.enter_context(Stream(miner.port)).status for _ in range(10)]
        assert 1 <= statuses.count(200) <= 64 // STREAM_SHARE
        assert statuses[-1] == 503
        assert miner.call("GET", "/health")[0] == 200


def _request(path: str = "/events", query: str = "") -> Request:
    return Request({"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []})


def test_a_client_that_falls_behind_is_disconnected() -> None:
    async def test() -> None:
        streams = events.Streams(lambda: b"")
        reply = await streams.reply(_request())
        sent: list[bytes] = []
        under_way, go_on = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1]:
                under_way.set()
                await go_on.wait()

        async def receive() -> Any:
            return await asyncio.get_running_loop().create_future()

        serving = asyncio.create_task(reply({"type": "http", "asgi": {}}, receive, send))
        await under_way.wait()
        chunk = b"x" * 1_000
        for _ in range(events.MAX_QUEUED // len(chunk) + 1):
            streams.publish("status", chunk)
        go_on.set()
        await serving
        assert sent[-1] == b""
        assert sum(map(len, sent)) < 2 * len(chunk)
        assert not streams

    asyncio.run(test())


JOB = LiveJob("7", b"\0" * 32, 1)
MESSAGES: dict[Event, tuple[Kind, str, str, str]] = {
    SolutionSent("pool a", JOB, Solution(1, 1)): ("solution", "pool a", "sent", "job 7"),
    SolutionUnsent("pool a", JOB, Solution(1, 1)): ("solution", "pool a", "too late", "job 7"),
    ShareJudged("pool a", 1, "accepted", "", 1, 0.031): ("share", "pool a", "accepted", "31 ms"),
    ShareJudged("pool a", 1, "rejected", "low", 1, 0.031): ("share", "pool a", "rejected", "low"),
    SourceChanged("pool a", "lost", "reset"): ("source", "pool a", "lost", "reset"),
    SourceChanged("pool a", "mined"): ("source", "pool a", "in use", ""),
    DeviceChanged("0", "gpu-cuda", up=False, reason="hot"): ("device", "0", "lost", "hot"),
    DeviceChanged("0", "gpu-cuda", up=True): ("device", "0", "back", ""),
    PauseChanged(None, paused=True, reason="user"): ("pause", "all devices", "paused", "user"),
    PauseChanged("cpu", paused=False, reason="busy"): ("pause", "cpu", "resumed", "busy"),
    JobEnded("j", "cpu-fast", "completed", 1, 1.0): ("job", "j", "completed", ""),
    SettingsChanged(("pool", "log")): ("settings", "pool, log", "changed", ""),
}


def test_every_event_has_a_message() -> None:
    assert {type(event) for event in MESSAGES} == set(get_args(Event))
    for event, expected in MESSAGES.items():
        assert events.message_of(event, 1.0) == EventMessage(1.0, *expected)


# --- history ---

PARTS = st.lists(
    st.builds(
        Point,
        time=st.integers(1_000, 9_000),
        seconds=st.integers(0, 3).map(float),
        hashes=st.integers(0, 10**12),
        devices=st.dictionaries(st.sampled_from(["cpu", "0000:01:00.0"]), st.integers(0, 10**9)),
        workers=st.dictionaries(st.integers(0, 3), st.integers(0, 10**9)),
        blocks=st.integers(0, 2),
        accepted=st.integers(0, 2),
        rejected=st.integers(0, 2),
        stale=st.integers(0, 2),
    ),
    max_size=60,
)


def total(points: list[Point]) -> Point:
    sums = Point(0)
    for point in points:
        sums.add(point)
    return sums


@given(PARTS, st.lists(st.integers(0, 60), max_size=3))
def test_downsampling_loses_and_invents_nothing(parts: list[Point], restarts: list[int]) -> None:
    """Whatever the clock does, and wherever the miner restarts."""
    track = Track(Span(10, 10_000))
    stored: dict[int, Point] = {}
    for number, part in enumerate(parts):
        ended = [track.add(part)]
        if number in restarts:
            ended.append(track.close())
        stored |= {point.time: point for point in ended if point is not None}
        if number in restarts:
            track = Track(Span(10, 10_000))
            track.restore(stored.values())
    points = track.points(10_000)
    assert total(points) == total(parts)
    assert [point.time for point in points] == sorted({part.time - part.time % 10 for part in parts})


@given(PARTS)
def test_a_track_is_bounded_and_shows_only_its_span(parts: list[Point]) -> None:
    track = Track(Span(10, 5))
    for part in parts:
        track.add(part)
    assert len(track._ended) <= 5
    now = parts[-1].time if parts else 0
    assert all(now - 50 < point.time <= now for point in track.points(now))


def snapshot(at: float, hashes: int, *workers: int, blocks: int = 0) -> Snapshot:
    """At ``at`` seconds after the start."""
    each = tuple(WorkerStats(index, "cpu-fast", count) for index, count in enumerate(workers))
    miner = MinerStats(each, 1, hashes, 0, 0, {}, frozenset())
    return Snapshot(1_000.0 + at, at, 4, miner, api=ApiStats(ended_jobs={("cpu-fast", "completed"): blocks}))


SHARE = ShareJudged("pool a", 1, "accepted", "", 1, 0.01)


def recorded(*looks: Snapshot) -> tuple[History, list[StoredPoint], list[tuple[str, bytes]]]:
    kept: list[StoredPoint] = []
    shown: list[tuple[str, bytes]] = []
    history = History(kept.append, lambda name, data: shown.append((name, data)))
    for look in looks:
        history.on_snapshot(look)
    return history, kept, shown


def reply(history: History, now: float, span: str = "hour") -> HistoryReply:
    answer = asyncio.run(history.reply(_request("/history", f"span={span}"), now))
    return msgspec.json.decode(answer.body, type=HistoryReply)


def test_the_history_counts_what_the_monitor_sees() -> None:
    history, kept, shown = recorded(snapshot(0, 50, 20, 30))
    history.on_event(SHARE)
    history.on_event(SourceChanged("pool a", "mined"))
    history.on_event(SolutionSent("node a", JOB, Solution(1, 1)))
    history.on_event(SolutionSent("pool a", JOB, Solution(1, 1)))
    history.on_snapshot(snapshot(1, 150, 70, 80, blocks=1))
    history.on_snapshot(Snapshot(1_002.0, 2, 4))  # the miner cannot be read
    history.on_snapshot(snapshot(3, 250, 100, 20, 5))  # worker 1 is another one, worker 2 is new
    assert (kept, shown) == ([], [])
    expected = Point(1_000, 3.0, 250, {"cpu": 185}, {0: 100, 1: 80, 2: 5}, blocks=2, accepted=1)
    assert reply(history, 1_003.0).points == [expected]
    history.on_snapshot(snapshot(10, 250, 100, 20, 5))
    assert [(point.step_s, point.time) for point in kept] == [(10, 1_000)]
    assert msgspec.json.decode(kept[0].body, type=Point) == expected
    assert [(name, msgspec.json.decode(data, type=PointMessage)) for name, data in shown] == [
        ("point", PointMessage("hour", expected))
    ]
    history.close()
    assert [(point.step_s, point.time) for point in kept] == [(10, 1_000), (10, 1_010), (300, 900)]
    later, *_ = recorded()
    later.restore(
        [
            *kept,
            StoredPoint(10, 1_020, b"{"),
            StoredPoint(10, 1_030, b'{"time":7}'),
            StoredPoint(7, 7, b'{"time":7}'),
            StoredPoint(0, 1_000, b'{"time":1000}'),
            StoredPoint(10, 1_000, b'{"time":1000,"hashes":-1}'),
            StoredPoint(10, 1_000, b'{"time":1000,"hashes":1%s}' % (b"0" * 400)),
            StoredPoint(10, 1_000, b'{"time":1000,"seconds":1e308}'),
            StoredPoint(10, 1_000, b'{"time":1000,"devices":{"%s":1}}' % (b"x" * 60_000)),
        ]
    )
    for span, step in (("hour", 10), ("day", 300)):
        shown_later = reply(later, 1_020.0, span)
        assert (shown_later.step_seconds, total(shown_later.points).hashes) == (step, 250)
    assert reply(later, 1_000.0 + 3_600 + 60).points == []
    assert asyncio.run(later.reply(_request("/history", "span=year"), 0.0)).status_code == 400


def test_a_history_of_thousands_of_workers_is_small() -> None:
    looks = [snapshot(second, 10**12 * second, *([10**11 * second] * 5_000)) for second in (0, 1, 10)]
    _, kept, _ = recorded(*looks)
    point = msgspec.json.decode(kept[0].body, type=Point)
    assert len(point.workers) == MAX_SERIES
    assert point.devices["cpu"] == 5_000 * 10**11
    assert len(kept[0].body) < 4_000


def test_the_history_survives_a_restart(tmp_path: Path) -> None:
    flags = ("--port=0", "--workers=1", f"--state-dir={tmp_path}")
    with MinerProcess(*flags) as miner:
        job = {"job_id": "j", "mining_hash": "00" * 32, "difficulty": str(2**500)}
        assert miner.call("POST", "/mine", job)[0] == 200
        while not (before := total(seen(miner, "day"))).hashes:
            pass
        assert miner.stop() == 0
    with MinerProcess(*flags) as miner:
        for span in SPANS:
            after = total(seen(miner, span))
            assert after.hashes >= before.hashes
            assert after.devices.keys() == {"cpu"}


def seen(miner: MinerProcess, span: str) -> list[Point]:
    status, document = miner.call("GET", f"/history?span={span}")
    assert status == 200
    return msgspec.convert(document, HistoryReply, strict=False).points


# --- doctor, log ---


def test_a_source_that_is_down_is_a_finding_unless_another_is_mined(tmp_path: Path) -> None:
    settings = load({"state_dir": str(tmp_path)}, {}, None)

    def verdicts(*sources: LinkStats) -> list[tuple[str, str]]:
        found = examine(Host({}), settings, Snapshot(0.0, 0.0, 1, sources=sources))
        return [(each.verdict, each.found) for each in found if each.about.startswith("pool")]

    down, up = LinkStats("pool a", now=9.0), LinkStats("pool b", connected=True, mined=True)
    lost = ("wrong", "is not connected for 9 s")
    assert verdicts(down) == [lost]
    assert sorted(verdicts(down, up)) == [("ok", "is connected"), lost]
    assert sorted(verdicts(up, down)) == [("ok", "is connected"), ("ok", "is not connected, because it is not needed")]
    assert verdicts(down, replace(down, name="pool c")) == [lost, lost]


def test_the_doctor_s_findings_are_those_of_the_running_miner(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    flags = (f"--state-dir={tmp_path / 'state'}", "--pool=stratum+tcp://127.0.0.1:9", f"--wallet={DEV_WALLET}")
    with MinerProcess("--port=0", "--workers=1", *flags) as miner:
        miner.wait_for_line("pool stratum+tcp://127.0.0.1:9")
        status, document = miner.call("GET", "/doctor")
        assert status == 200
        found = {each.about: each for each in msgspec.convert(document, DoctorReply).findings}
        assert found["state folder"].verdict == "ok"
        assert found["workers"].found.startswith("1 worker on")
        assert "pool stratum+tcp://127.0.0.1:9" in found
        assert miner.call("GET", "/doctor")[1] == document  # within the same minute


def test_an_examination_is_shared_and_one_that_fails_is_made_again() -> None:
    async def test() -> None:
        examined: list[int] = []

        def examine() -> list[FindingMessage]:
            examined.append(1)
            if len(examined) == 1:
                raise RuntimeError("boom")
            return []

        doctor = Doctor(lambda: examine)
        with pytest.raises(RuntimeError):
            await doctor.reply(_request("/doctor"))
        replies = await asyncio.gather(*(doctor.reply(_request("/doctor")) for _ in range(5)))
        assert len(examined) == 2
        assert len({bytes(each.body) for each in replies}) == 1

    asyncio.run(test())


@pytest.mark.usefixtures("own_logging")
def test_the_tail_of_the_log_is_short_and_plain() -> None:
    logs.configure("debug", "json", None)
    log = logging.getLogger("miner.test")
    for number in range(logs.TAIL + 5):
        log.debug("%d \x1b[31m%s", number, "x" * 9_999)
    lines = logs.tail()
    assert [number for number, _ in lines] == list(range(6, logs.TAIL + 6))
    assert all(len(text) == logs.MAX_TAIL_LINE and text.isprintable() for _, text in lines)
    assert "DEBUG miner.test: 204 " in lines[-1][1]
    assert logs.tail(lines[-2][0]) == lines[-1:]
    assert logs.tail(lines[-1][0]) == []
