"""``quantus-miner top``: a miner in the terminal."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.binding import Binding

from quantus_miner.client import Client
from quantus_miner.errors import MAX_REASON, MinerError
from quantus_miner.top import fleet, text
from quantus_miner.top import watch as watches
from quantus_miner.top.app import MIN_HEIGHT, MIN_WIDTH, Top
from quantus_miner.top.faces import MINER
from quantus_miner.top.watch import Watch
from quantus_miner.wire.status import Status

from . import pages
from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from textual.pilot import Pilot


HOSTILE = "\x1b]0;steered\x07[red]job[/red]"
SHOWN = r"\x1b]0;steered\x07[red]job[/red]"
"""What it looks like: nothing of it is a command to the terminal or markup."""
TEXTS = st.one_of(
    st.text(max_size=300),
    st.sampled_from([HOSTILE, "[link=http://x]a", "\x9b2J", "\r\n", "‮", "[", "]", "\\", "node ", "漢" * 200]),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.one_of(st.integers(), st.integers(-(10**400), 10**400))
TABLES = (text.devices, text.workers, text.shares, text.connections, text.jobs)


@pytest.fixture(scope="module")
def miner() -> Iterator[MinerProcess]:
    """A miner of its own, which is idle: the one that other tests share may still have jobs of theirs."""
    with MinerProcess("--port=0", "--workers=1") as own:
        assert own.port
        yield own


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever a miner may send in place of a field of that type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{each.name: anything(each.type) for each in msgspec.structs.fields(kind)})
    if get_origin(kind) is list:
        return st.lists(anything(get_args(kind)[0]), max_size=3)
    if type(None) in get_args(kind):
        return st.one_of(st.none(), *(anything(part) for part in get_args(kind) if part is not type(None)))
    if get_args(kind):
        return st.sampled_from(get_args(kind))
    simple: dict[Any, st.SearchStrategy[Any]] = {str: TEXTS, float: FLOATS, int: INTEGERS, bool: st.booleans()}
    return simple[kind]


def status(**fields: Any) -> Status:
    """The status of a miner with one worker that mines, with other ``fields``."""
    rates = {"current": 1234.5, "average_10s": 1234.5, "average_60s": 1200, "average_15m": None, "highest": 1300}
    device = {
        "id": "cpu", "name": "CPU", "engine": "cpu-fast", "workers": 1, "busy_workers": 1, "up": True, "paused": False,
        "hash_rate": rates, "hashes": 10, "temperature_celsius": None, "power_watts": None, "fan_ratio": None,
        "sm_clock_hertz": None, "hashes_per_joule": None, "false_positives": 0,
    }  # fmt: skip
    worker = {
        "index": 0, "engine": "cpu-fast", "device": "cpu", "busy": True, "failed": False, "stalled": False,
        "paused": False, "hash_rate": rates, "hashes": 10,
    }  # fmt: skip
    made = {
        "version": "0.1.0", "host": "rig1", "time": 1.7e9, "uptime_seconds": 90.0, "state": "mining", "reason": "",
        "pauses": [], "effective_cpus": 2, "active_jobs": 1, "hash_rate": rates, "hashes": 10, "solutions": 3,
        "solutions_rejected": 0, "solutions_stale": 0,
        "shares": {"accepted": 10, "rejected": 1, "stale": 1}, "blocks": 0, "devices": [device], "workers": [worker],
        "sources": [], "jobs": [], "jobs_left_out": 0, "store_ok": True,
    }  # fmt: skip
    for name, changes in fields.items():
        old = made[name]
        made[name] = [old[0] | each for each in changes] if name in ("devices", "workers") else changes  # type: ignore[index]
    return msgspec.convert(made, Status)


def source(name: str, **fields: Any) -> dict[str, Any]:
    rates = {"current": 0, "average_10s": None, "average_60s": None, "average_15m": None, "highest": None}
    return {
        "name": name, "connected": True, "mined": False, "failing": "", "refusal": "", "difficulty": None,
        "latency_seconds": None, "job_age_seconds": None, "accepted_age_seconds": None, "connects": 1, "jobs": 1,
        "sent": 0, "late": 0, "accepted": 0, "rejected": 0, "stale": 0, "accepted_work": 0, "hashes": 0, "luck": None,
        "hash_rate": rates, **fields,
    }  # fmt: skip


# --- text ---


def column(table: text.Table, title: str) -> list[str]:
    return [row[table.titles.index(title)] for row in table.rows]


@settings(max_examples=40)
@given(anything(Status))
def test_nothing_that_a_miner_sends_steers_the_terminal(sent: Status) -> None:
    received = msgspec.json.decode(msgspec.json.encode(sent), type=Status)
    lines = [text.head(received), text.speed(received), text.totals(received), *text.faults(received)]
    for table in (make(received) for make in TABLES):
        assert {len(row) for row in table.rows} == {len(table.titles)}
        assert len(table.rows) <= text.MAX_ROWS + 2
        assert max(len(cell) for row in table.rows for cell in row) <= text.MAX_CHARACTERS
        lines += [cell for row in table.rows for cell in row]
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 10 * text.MAX_CHARACTERS
    assert len(text.faults(received)) <= text.MAX_FAULTS
    assert all(line.isprintable() for line in text.plain(received).splitlines())


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    job = {"job_id": "a", "engine": "", "status": "running", "hashes": 0, "hash_rate": 0}
    table = text.jobs(status(jobs=[job] * 400, jobs_left_out=1000))
    assert (len(table.rows), table.rows[-1][0]) == (text.MAX_ROWS + 1, "and 1,100 more")
    assert text.jobs(status()).rows[0][0] == "none"


def test_the_state_of_devices_workers_and_sources_is_one_word() -> None:
    devices = [{}, {"busy_workers": 0}, {"up": False}, {"up": False, "paused": True}, {"id": "x", "paused": True}]
    paused = status(devices=devices, pauses=[{"device": None, "reason": "user"}, {"device": "cpu", "reason": "busy"}])
    assert column(text.devices(paused), text.STATE) == [
        "mining", "mining", "idle", "lost", "paused (busy, user)", "paused (user)",
    ]  # fmt: skip
    workers = [{}, {"busy": False}, {"paused": True}, {"stalled": True}, {"failed": True, "stalled": True}]
    assert column(text.workers(status(workers=workers)), text.STATE) == [
        "mining", "idle", "paused", "stalled", "failed",
    ]  # fmt: skip
    sources = [
        source("node 10.0.0.1:9833", connected=False, refusal="wrong token"),
        source("pool stratum+ssl://a.example:3333?pin=00", connected=False, failing="down"),
        source("pool stratum+tcp://b.example:3333", failing="no job for 3 s"),
        source("pool stratum+tcp://c.example:3333"),
        source("pool stratum+tcp://d.example:3333", mined=True, difficulty=10**9, latency_seconds=0.0314, luck=1.05),
        source("pool stratum+tcp://e.example:3333", connected=False),
    ]
    table = text.shares(status(sources=sources))
    assert column(table, text.STATE) == ["refused", "down", "failing", "standby", "mined", "standby"]
    assert column(table, "SOURCE")[:2] == ["10.0.0.1:9833", "a.example:3333"]
    mined = dict(zip(table.titles, table.rows[4], strict=True))
    assert (mined["DIFF"], mined["LATENCY"], mined["LUCK"]) == ("1.0G", "31 ms", "105 %")
    assert column(text.connections(status(sources=sources)), "REASON")[:3] == ["wrong token", "down", "no job for 3 s"]
    assert text.faults(status(sources=sources)) == [
        "10.0.0.1:9833 refuses us: wrong token",
        "a.example:3333 is not connected",
        "b.example:3333 is failing: no job for 3 s",
        "mining for d.example:3333 instead",
    ]


def test_what_is_wrong_is_listed_and_nothing_else() -> None:
    assert text.faults(status()) == []
    wrong = status(
        state="failed", devices=[{"up": False}], workers=[{"failed": True}, {"index": 1, "stalled": True}],
        solutions_rejected=2,
    )  # fmt: skip
    expected = [
        "no worker is left; restart the miner",
        "device cpu of engine cpu-fast is lost",
        "worker 0 has failed; restart the miner",
        "worker 1 has work and does not advance",
        "2 hits proved invalid when they were hashed again",
    ]
    assert text.faults(wrong) == expected
    wrong.store_ok = False
    assert text.faults(wrong) == [*expected[:4], "and 2 more"]
    idle = status(state="idle", reason="why", sources=[source("node a:1"), source("node b:1", failing="down")])
    assert text.faults(idle) == ["a:1 has no work", "b:1 is failing: down"]
    assert text.faults(status(state="idle", reason="why")) == ["why"]
    wrong = status(store_ok=False)
    assert text.faults(wrong) == ["jobs are kept in memory only, because the state folder cannot be written"]


def test_a_card_is_shown_with_its_readings() -> None:
    card = {
        "id": "0000:01:00.0", "engine": "gpu-cuda", "temperature_celsius": 65.4, "power_watts": 320.6,
        "fan_ratio": 0.55, "sm_clock_hertz": 2.52e9, "hashes_per_joule": 1.25e6,
    }  # fmt: skip
    table = text.devices(status(devices=[{"workers": 2}, card]))
    cells = dict(zip(table.titles, table.rows[2], strict=True))
    assert [cells[title] for title in ("TEMP", "POWER", "FAN", "CLOCK", "PER JOULE")] == [
        "65 °C", "321 W", "55 %", "2520 MHz", "1.25 MH/J",
    ]  # fmt: skip
    assert column(table, "ENGINE") == ["", "cpu-fast x2", "gpu-cuda"]
    assert text.speed(status()) == "mining 1.23 kH/s | 60 s 1.20 kH/s | 15 min - | max 1.30 kH/s"
    assert text.totals(status()) == "shares: 10 accepted, 1 rejected, 1 stale | blocks: 0 | solutions: 3 | jobs: 1"


def test_the_notice_says_why_there_are_no_new_figures() -> None:
    watch = Watch("http://rig1:9833", 100.0)
    assert (watch.notice(101.0), watch.is_old(101.0)) == ("connecting to http://rig1:9833", True)
    watch.on_error("no miner answers")
    assert watch.notice(102.0) == "no miner answers"
    watch.on_status(status(), 103.0)
    assert (watch.notice(108.0), watch.is_old(108.0)) == ("", False)
    assert watch.notice(109.0) == "the miner at http://rig1:9833 has not answered for 6 s"
    assert watch.is_old(109.0)
    watch.on_error("no miner answers")
    assert watch.notice(110.0) == "no miner answers; these figures are 7 s old"
    assert list(watch.rates) == [0.0, 1234.5, 0.0]


# --- the view, without a terminal ---


def drive(client: Client, steps: Callable[[Pilot[None]], Any], size: tuple[int, int] = (80, 24)) -> None:
    async def run() -> None:
        async with Top(client).run_test(size=size, notifications=True) as pilot:
            await steps(pilot)

    asyncio.run(run())


async def until(pilot: Pilot[None], *wanted: str) -> list[str]:
    """The lines of the screen once all of ``wanted`` are on it."""
    lines: list[str] = []
    try:
        async with asyncio.timeout(20):
            while not all(any(part in line for line in lines) for part in wanted):
                await pilot.pause(0.01)
                lines = [strip.text.rstrip() for strip in pilot.app.screen._compositor.render_strips()]
    except TimeoutError:
        pytest.fail(f"{wanted} is not on the screen:\n" + "\n".join(lines))
    return lines


def colour(pilot: Pilot[None], shown: str) -> Any:
    """The colour of a text on the screen."""
    strips = pilot.app.screen._compositor.render_strips()
    return next(part.style.color for strip in strips for part in strip if shown in part.text and part.style)


@contextmanager
def server(reply: Callable[[], bytes], code: int = 200) -> Iterator[str]:
    """The URL of an HTTP server that gives ``reply`` to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = reply()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - their names in http.server

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_every_view_fits_and_shows_hostile_texts_as_they_are() -> None:
    job = {"job_id": HOSTILE, "engine": "[bold]e", "status": "running", "hashes": 0, "hash_rate": 0}
    hostile = status(
        host=HOSTILE, jobs=[job], sources=[source(f"node {HOSTILE}", refusal=f"{HOSTILE}\n")],
        devices=[{"id": HOSTILE}], workers=[{"device": HOSTILE}],
    )  # fmt: skip

    async def steps(pilot: Pilot[None]) -> None:
        lines = await until(pilot, "mining 1.23 kH/s")
        assert lines[0].startswith(f" {SHOWN} | quantus-miner 0.1.0 | up 90 s | http://127.0.0.1:")
        for key, tables in zip("ahscj", MINER.views.values(), strict=False):
            await pilot.press(key)
            titles = {
                "devices": "PER JOULE",
                "workers": "WORKER",
                "shares": "LUCK",
                "connections": "REASON",
                "jobs": "JOB",
            }
            await until(pilot, *(titles[name] for name in tables), f" ! {SHOWN} refuses us: {SHOWN}\\n")
            assert sum(SHOWN in line for line in await until(pilot, f" {SHOWN}  ")) >= 3
        await pilot.resize_terminal(MIN_WIDTH, MIN_HEIGHT)
        await pilot.press("question_mark")
        assert [line.strip() for line in MINER.help.splitlines() if line] == [
            line.strip() for line in await until(pilot, "LUCK  ") if line.strip() in MINER.help and line.strip()
        ]

    with server(lambda: msgspec.json.encode(hostile)) as url:
        drive(Client(url, None), steps, (150, 30))


def test_p_is_for_the_selected_device_even_if_others_come_and_go() -> None:
    answers = [status(devices=[{"id": "a"}, {"id": "b"}])]
    asked: list[str | None] = []

    class Recorder(Client):
        def pause(self, device: str | None = None) -> Any:
            asked.append(device)
            raise MinerError(f"asked {len(asked)} times")

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, " b ")
        await pilot.press("p")
        await until(pilot, "asked 1 times")
        await pilot.press("down", "down", "p")
        await until(pilot, "asked 2 times")
        answers[0] = status(devices=[{"id": "c"}, {"id": "a"}, {"id": "b"}])
        await until(pilot, " c ")
        await pilot.press("p")
        await until(pilot, "asked 3 times")
        await pilot.press("s", "p")
        await until(pilot, "asked 4 times")

    with server(lambda: msgspec.json.encode(answers[0])) as url:
        drive(Recorder(url, None), steps, (100, 40))
    assert asked == [None, "b", "b", None]


def test_a_miner_that_hangs_stops_nothing_but_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    released.set()

    def reply() -> bytes:
        released.wait(20)
        return msgspec.json.encode(status())

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, "mining 1.23 kH/s", "cpu-fast", "accepted")
        figures = pilot.app.query_one("#figures")
        bright = [colour(pilot, "cpu-fast"), colour(pilot, "accepted")]
        released.clear()
        monkeypatch.setattr(watches, "OLD_S", 0.0)
        await until(pilot, "has not answered for")
        assert figures.has_class("old")
        while {colour(pilot, "cpu-fast"), colour(pilot, "accepted")} & set(bright):
            await pilot.pause(0.01)
        await pilot.press("p")
        await pilot.press("p")
        await until(pilot, "The miner has not answered the last")
        await pilot.press("h")
        await until(pilot, "WORKER")
        monkeypatch.setattr(watches, "OLD_S", 5.0)
        released.set()
        while figures.has_class("old"):
            await pilot.pause(0.01)

    with server(reply) as url:
        drive(Client(url, None), steps)


def test_a_command_without_the_token_is_refused(miner: MinerProcess) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, "idle")
        await pilot.press("p")
        await until(pilot, "requires its token")

    drive(Client(f"http://127.0.0.1:{miner.port}", None), steps, (160, 40))


@pytest.mark.parametrize("body", [b'{"x":' + b"[" * 100_000, b"\xff", b"[]", b'{"version": "1"}'])
def test_a_reply_that_is_none_is_an_error_of_one_line(body: bytes) -> None:
    with server(lambda: body) as url, pytest.raises(MinerError, match="no miner answers at http") as error:
        Client(url, None).status()
    assert str(error.value).isprintable()


def test_a_long_refusal_is_cut() -> None:
    body = json.dumps({"status": "error", "job_id": "", "message": "\n[red]" * 100_000}).encode()
    with server(lambda: body, 400) as url, pytest.raises(MinerError, match="refuses POST /pause") as error:
        Client(url, None).pause()
    assert len(str(error.value)) < 3 * MAX_REASON


def test_the_keys_and_limits_are_documented() -> None:
    rows = pages.table("docs/top.md", "key", "what it does")
    bindings = [each for each in Top.BINDINGS if isinstance(each, Binding) and each.show]
    assert [pages.code(row[0]) for row in rows] == [each.key_display or each.key for each in bindings]
    page = pages.PAGES["docs/top.md"]
    assert f"{text.MAX_ROWS} rows, texts after {text.MAX_CHARACTERS} characters" in " ".join(page.split())
    assert f"cut after {fleet.MAX_MINERS:,} rows" in page
    assert f"at least {MIN_WIDTH} columns and {MIN_HEIGHT} lines" in page
    screens = pages.fenced("docs/top.md", "text")
    assert [len(screen.splitlines()) for screen in screens] == [MIN_HEIGHT] * 2
    for screen, titles in ((screens[0], text.shares(status()).titles), (screens[1], text.connections(status()).titles)):
        assert re.search(" +".join(titles), screen)
