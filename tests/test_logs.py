"""The log through real streams: filters, formats, and lines that hostile text cannot break."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import socket
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner import logs
from quantus_miner.logs import formats

from .log_lines import HOSTILE, ISO, OFF, fail, flush, logged, written

pytestmark = pytest.mark.usefixtures("own_logging")


def shown(filter_text: str, name: str) -> list[int]:
    """The levels that the filter lets through for a logger."""
    logs.configure(filter_text, "text", io.StringIO())
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    return [level for level in levels if logging.getLogger(name).isEnabledFor(level)]


# --- filters ---


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("", {"": 30, "miner": 20}),
        (" , ", {"": 30, "miner": 20}),
        ("info", {"": 30, "miner": 20}),
        ("debug", {"": 30, "miner": 10}),
        ("trace", {"": 30, "miner": 10}),
        ("error", {"": 40, "miner": 40}),
        ("off", {"": OFF, "miner": OFF}),
        ("WARN", {"": 30, "miner": 30}),
        ("info,debug", {"": 30, "miner": 10}),
        ("info,miner=debug", {"": 30, "miner": 10}),
        ("miner=debug,info", {"": 30, "miner": 10}),
        ("miner=debug,miner=off", {"": 30, "miner": OFF}),
        ("off, miner::http = warn", {"": OFF, "miner": OFF, "miner.http": 30}),
        ("miner.http", {"": 30, "miner": 20, "miner.http": 10}),
        ("miner.http=", {"": 30, "miner": 20, "miner.http": 10}),
        ("uvicorn=info", {"": 30, "miner": 20, "uvicorn": 20}),
    ],
)
def test_filter(text: str, levels: dict[str, int]) -> None:
    assert logs.parse_filter(text) == levels


@pytest.mark.parametrize(
    "text", ["miner=loud", "=info", "a=b=c", "mi ner", "miner/regex", "miner[{x}]=info", "a..b", "info;debug"]
)
def test_malformed_filter(text: str) -> None:
    line = (
        "a comma list of LEVEL or TARGET=LEVEL, such as info,miner=debug; levels off, error, warn, info, debug, trace"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(line)} \\(not .*\\)$"):
        logs.parse_filter(f"info,{text}")


@given(st.one_of(st.text(), st.text("miner=:.,infodebug ", max_size=20)))
def test_any_text_is_a_filter_or_one_clear_line(text: str) -> None:
    try:
        levels, line = logs.parse_filter(text), ""
    except ValueError as error:
        levels, line = {"": 0, "miner": 0}, str(error)
    assert {"", "miner"} <= set(levels)
    assert line.isprintable()


def test_longest_target_wins_and_holds_for_all_below_it() -> None:
    text = "miner.http=error,miner=debug,warn"
    assert shown(text, "miner.http.auth") == shown(text, "miner.http") == [40, 50]
    assert shown(text, "miner") == shown(text, "miner.metrics") == [10, 20, 30, 40, 50]
    assert shown(text, "minerals") == [30, 40, 50]


def test_libraries_start_at_warn_unless_named() -> None:
    assert shown("debug", "uvicorn.error") == shown("debug", "asyncio") == [30, 40, 50]
    assert shown("debug,uvicorn=info", "uvicorn.error") == [20, 30, 40, 50]
    assert shown("error", "uvicorn.error") == [40, 50]
    assert shown("off", "uvicorn.error") == shown("off", "miner") == []


def test_configuring_again_leaves_nothing_of_before() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("off,miner.http=debug", "text", first)
    logs.configure("warn", "text", second)
    assert not logging.getLogger("miner.http").isEnabledFor(logging.INFO)
    logging.getLogger("miner.http").warning("once")
    assert (first.getvalue(), written(second).count("once")) == ("", 1)


# --- formats ---


@pytest.mark.parametrize(
    ("level", "name", "priority"),
    [(10, "DEBUG", 7), (15, "DEBUG", 7), (20, "INFO", 6), (30, "WARN", 4), (40, "ERROR", 3), (50, "ERROR", 3)],
)
def test_levels(level: int, name: str, priority: int) -> None:
    assert re.fullmatch(rf"{ISO} {name} miner\.http: hello\n", logged("text", level=level))
    assert logged("journald", level=level) == f"<{priority}>miner.http: hello\n"
    assert json.loads(logged("json", level=level))["level"] == name.lower()


def test_json() -> None:
    line = json.loads(logged("json", "hash rate é"))
    assert re.fullmatch(ISO, line.pop("time"))
    assert line == {"level": "info", "logger": "miner.http", "message": "hash rate é"}


FIELDS = {"job": "1", "source": "pool a:3333", "difficulty": 2**100, "latency_ms": 1.5, "device": "0"}


def logged_with(log_format: str, **fields: Any) -> str:
    """What is written of a record with these fields."""
    stream = io.StringIO()
    logs.configure("info", log_format, stream)
    logging.getLogger("miner").info("hello", extra=fields)
    return written(stream)


def test_fields_are_keys_of_the_json_object() -> None:
    line = json.loads(logged_with("json", **FIELDS))
    assert list(line) == ["time", "level", "logger", "message", *FIELDS]
    assert {name: line[name] for name in FIELDS} == FIELDS


def test_only_the_fields_that_are_known_and_given_are_shown() -> None:
    line = json.loads(logged_with("json", job=None, difficulty=0, color="red"))
    assert list(line) == ["time", "level", "logger", "message", "difficulty"]


def test_a_field_that_is_no_number_of_json_is_text() -> None:
    line = json.loads(logged_with("json", difficulty=float("nan"), latency_ms=float("inf"), device=("gpu", 1)))
    assert (line["difficulty"], line["latency_ms"], line["device"]) == ("nan", "inf", "('gpu', 1)")


@pytest.mark.parametrize("name", FIELDS)
def test_a_hostile_field_is_a_value_and_nothing_else(name: str) -> None:
    text = logged_with("json", **{name: HOSTILE + '", "level": "error'})
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    line = json.loads(text)
    assert line["level"] == "info"
    assert line[name] == HOSTILE.replace("\udcff", "\\udcff") + '", "level": "error'


def test_a_sentence_stays_as_it_is_whatever_fields_there_are() -> None:
    assert re.fullmatch(rf"{ISO} INFO miner: hello\n", logged_with("text", **FIELDS))
    assert logged_with("journald", **FIELDS) == "<6>miner: hello\n"


def test_what_sums_up_has_the_fields_of_the_last_one_left_out() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    for number in range(logs.MAX_ALIKE[logging.WARNING] + 3):
        logging.getLogger("miner").warning("complaint", extra={"job": str(number)})
    logging.getLogger().handlers[-1].close()
    last = json.loads(written(stream).splitlines()[-1])
    assert last["message"] == "3 more like it within a minute, the last: complaint"
    assert last["job"] == str(logs.MAX_ALIKE[logging.WARNING] + 2)


@pytest.mark.parametrize("log_format", ["text", "journald", "json"])
def test_hostile_message_is_one_line(log_format: str) -> None:
    text = logged(log_format, HOSTILE)
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    assert "\\r\\n<0>forged\\" in text
    text.encode("utf-8")
    if log_format == "json":
        assert json.loads(text)["message"] == HOSTILE.replace("\udcff", "\\udcff")
    else:
        assert text.endswith("\\x1b[2J\\x00\\x7f\\x85\\u2028\\u202e\\udcff end é\n")


@given(st.text())
def test_every_message_is_one_line(message: str) -> None:
    for log_format in ("text", "journald", "json"):
        line = logged(log_format, message)
        assert len(line.splitlines()) == 1
        assert line[:-1].isprintable()


@pytest.mark.parametrize("log_format", ["text", "journald", "json"])
def test_traceback_at_debug(log_format: str) -> None:
    stream = io.StringIO()
    logs.configure("debug", log_format, stream)
    try:
        fail()
    except RuntimeError:
        logging.getLogger("miner").exception("it broke")
    first, *rest = written(stream).splitlines()
    if log_format == "text":
        assert first.endswith(" ERROR miner: it broke")
        assert rest[0] == "    Traceback (most recent call last):"
        assert all(line.startswith("    ") and line.isprintable() for line in rest)
    elif log_format == "journald":
        assert rest == []
        assert first.startswith("<3>miner: it broke\\nTraceback (most recent call last):\\n")
    else:
        assert rest == []
        exception = json.loads(first)["exception"].splitlines()
        assert exception[0] == "Traceback (most recent call last):"
        assert "RuntimeError: job\\r" in exception


@pytest.mark.parametrize("log_format", ["text", "journald", "json"])
@pytest.mark.parametrize("name", ["miner", "uvicorn.error"])
def test_an_exception_is_one_line_that_says_where(log_format: str, name: str) -> None:
    stream = io.StringIO()
    logs.configure("info", log_format, stream)
    try:
        fail()
    except RuntimeError:
        logging.getLogger(name).exception("it broke")
    text = written(stream)
    assert len(text.splitlines()) == 1
    assert "Traceback" not in text
    message = json.loads(text)["message"] if log_format == "json" else text.strip()
    assert re.search(r"it broke: RuntimeError: job\\r\\n<0>forged.* end é \(log_lines\.py:\d+\)$", message)


def test_exception_call_without_an_exception_has_no_traceback() -> None:
    stream = io.StringIO()
    logs.configure("info", "journald", stream)
    logging.getLogger("miner").error("alone", exc_info=True)
    assert written(stream) == "<3>miner: alone\n"


def test_python_warnings_are_logged() -> None:
    stream = io.StringIO()
    logs.configure("info", "journald", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logs.configure("info", "journald", stream)
        warnings.warn("old thing", stacklevel=1)
    assert re.fullmatch(r"<4>py\.warnings: .*UserWarning: old thing\\n.*\n", written(stream))


# --- where the stream leads ---


def through(
    write: int, read: int, monkeypatch: pytest.MonkeyPatch, journal: str | None, log_format: str = "auto"
) -> str:
    """What arrives at ``read`` of one record logged to ``write``; both are closed."""
    if journal is not None:
        monkeypatch.setenv("JOURNAL_STREAM", journal)
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as other:
        logs.configure("info", log_format, stream)
        logging.getLogger("miner").warning("hello")
        assert flush()
        return os.read(other.fileno(), 4096).decode()


def identity(fd: int) -> str:
    return f"{os.fstat(fd).st_dev}:{os.fstat(fd).st_ino}"


def test_journald_is_recognized_by_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, journal = socket.socketpair()
    write, read = ours.detach(), journal.detach()
    assert through(write, read, monkeypatch, identity(write)) == "<4>miner: hello\n"


@pytest.mark.parametrize("journal", [None, "", "1:2", "nonsense", "1:2:3"])
def test_another_stream_than_journald_s_gets_text(monkeypatch: pytest.MonkeyPatch, journal: str | None) -> None:
    read, write = os.pipe()
    assert re.fullmatch(rf"{ISO} WARN miner: hello\n", through(write, read, monkeypatch, journal))


def test_a_named_format_wins_over_journald(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    assert re.fullmatch(rf"{ISO} WARN miner: hello\n", through(write, read, monkeypatch, identity(write), "text"))


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("NO_COLOR", "", r"\d\d:\d\d:\d\d \x1b\[33mWARN \x1b\[0m miner: hello\r\n"),
        ("NO_COLOR", "1", r"\d\d:\d\d:\d\d WARN  miner: hello\r\n"),
        ("TERM", "dumb", r"\d\d:\d\d:\d\d WARN  miner: hello\r\n"),
    ],
)
def test_terminal(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str) -> None:
    monkeypatch.setenv(variable, value)
    read, write = pty.openpty()
    assert re.fullmatch(line, through(write, read, monkeypatch, None))


def test_a_record_may_name_its_colour_and_hostile_text_still_steers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    values: dict[str, object] = {"msg": HOSTILE, "levelname": "INFO", "levelno": logging.INFO, "name": "miner"}
    record = logging.makeLogRecord(values | {"colour": 36})
    text = formats.Terminal().format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \x1b\[32mINFO \x1b\[0m miner: \x1b\[36mjob.* end é\x1b\[0m", text)
    assert "colour" not in json.loads(formats.Json().format(record))
    monkeypatch.setenv("NO_COLOR", "1")
    assert formats.Terminal().format(record).isprintable()
