"""journald's own protocol: what a reader of its socket gets, and what happens if there is none."""

from __future__ import annotations

import io
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NoReturn, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner import logs
from quantus_miner.logs import formats, journal, writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("own_logging")

HOSTILE = "1\nJOB=forged\nPRIORITY=0\r\n\x00\x1b[2J\x7f\x85\u2028\u202e\udcff end é"
WAIT_S = 20.0


def parse(datagram: bytes) -> list[tuple[str, bytes]]:
    """The fields of an entry, as journald reads them."""
    fields = []
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", datagram)
            value, end, datagram = datagram[8 : 8 + size], datagram[8 + size : 9 + size], datagram[9 + size :]
            assert len(value) == size
            assert end == b"\n"
        fields.append((name.decode("ascii"), value))
    return fields


class JournalReader:
    """A socket where journald's would be, and the stream that it gives to a service."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self.listen()
        ours, self.lines = socket.socketpair()
        self.stream: TextIO = os.fdopen(ours.detach(), "w")
        status = os.fstat(self.stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(journal, "SOCKET", str(path))

    def listen(self) -> None:
        self._path.unlink(missing_ok=True)
        self.entries = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.entries.bind(str(self._path))
        self.entries.settimeout(WAIT_S)

    def entry(self) -> dict[str, str]:
        """The next entry; no field is in it twice."""
        found = parse(self.entries.recv(1 << 20))
        fields = {name: value.decode() for name, value in found}
        assert len(fields) == len(found)
        return fields

    def line(self) -> str:
        """What came by the stream."""
        self.lines.settimeout(WAIT_S)
        return self.lines.recv(1 << 20).decode()

    def nothing_more(self) -> bool:
        for sock in (self.entries, self.lines):
            sock.setblocking(False)
            try:
                sock.recv(1)
            except BlockingIOError:
                continue
            return False
        return True

    def close(self) -> None:
        self.entries.close()
        self.lines.close()
        self.stream.close()


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalReader]:
    found = JournalReader(tmp_path / "socket", monkeypatch)
    yield found
    close()
    found.close()


def handler() -> logs.Handler:
    (found,) = [found for found in logging.getLogger().handlers if isinstance(found, logs.Handler)]
    return found


def flush() -> bool:
    return handler()._writer.flush(WAIT_S)


def close() -> None:
    for found in logging.getLogger().handlers:
        if isinstance(found, logs.Handler):
            found.close()


def fail() -> NoReturn:
    raise RuntimeError(HOSTILE)


NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.text() | st.text("\n=AB\x00", max_size=20)))
def test_a_reader_gets_back_what_went_in(fields: dict[str, str]) -> None:
    assert parse(journal.encode(fields)) == [
        (name, value.encode("utf-8", "backslashreplace")) for name, value in fields.items()
    ]


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats()), min_size=5, max_size=5))
def test_a_reader_gets_back_the_fields_of_a_record(values: list[str | int | float]) -> None:
    record = logging.LogRecord("miner", logging.INFO, __file__, 1, "hello", None, None)
    record.__dict__ |= dict(zip(formats.FIELDS, values, strict=True))
    found = dict(parse(journal.encode(formats.entry(record))))
    assert found["MESSAGE"] == b"miner: hello"
    assert [found[name.upper()] for name in formats.FIELDS] == [
        str(value).encode("utf-8", "backslashreplace") for value in values
    ]


def test_a_record_is_an_entry_with_fields(journald: JournalReader) -> None:
    logs.configure("info", "auto", journald.stream)
    logging.getLogger("miner.http").warning("Job %s", "7", extra={"job": "7", "difficulty": 2**70, "latency_ms": 1.5})
    entry = journald.entry()
    assert entry.pop("CODE_FILE") == __file__
    assert entry.pop("CODE_LINE").isdecimal()
    assert entry == {
        "MESSAGE": "miner.http: Job 7",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "quantus-miner",
        "LOGGER": "miner.http",
        "CODE_FUNC": "test_a_record_is_an_entry_with_fields",
        "JOB": "7",
        "DIFFICULTY": str(2**70),
        "LATENCY_MS": "1.5",
    }
    assert flush()
    assert journald.nothing_more()


@pytest.mark.parametrize("name", formats.FIELDS)
def test_hostile_text_forges_no_field(journald: JournalReader, name: str) -> None:
    logs.configure("info", "journald", journald.stream)
    logging.getLogger("miner").info("Job %s", HOSTILE, extra={name: HOSTILE})
    entry = journald.entry()
    assert entry["PRIORITY"] == "6"
    assert entry[name.upper()] == HOSTILE.replace("\udcff", "\\udcff")
    assert entry["MESSAGE"].startswith("miner: Job 1\\nJOB=forged\\nPRIORITY=0")
    assert entry["MESSAGE"].isprintable()


def test_a_traceback_is_part_of_the_message(journald: JournalReader) -> None:
    logs.configure("debug", "auto", journald.stream)
    try:
        fail()
    except RuntimeError:
        logging.getLogger("miner").exception("it broke")
    first, second, *rest = journald.entry()["MESSAGE"].split("\n")
    assert (first, second) == ("miner: it broke", "    Traceback (most recent call last):")
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_another_format_goes_to_the_stream(journald: JournalReader, log_format: str) -> None:
    logs.configure("info", log_format, journald.stream)
    logging.getLogger("miner").info("hello")
    assert "hello" in journald.line()
    assert journald.nothing_more()


def test_a_stream_that_leads_elsewhere_gets_lines(journald: JournalReader) -> None:
    other = io.StringIO()
    logs.configure("info", "journald", other)
    logging.getLogger("miner").info("hello")
    assert flush()
    assert other.getvalue() == "<6>miner: hello\n"
    assert journald.nothing_more()


def test_without_the_socket_lines_go_to_the_stream(journald: JournalReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SOCKET", "/nowhere/journal")
    logs.configure("info", "auto", journald.stream)
    logging.getLogger("miner").info("hello", extra={"job": HOSTILE})
    assert journald.line() == "<6>miner: hello\n"
    assert logs.dropped() == 0


def test_an_entry_that_is_too_large_goes_to_the_stream_and_the_next_does_not(journald: JournalReader) -> None:
    logs.configure("info", "auto", journald.stream)
    log = logging.getLogger("miner")
    log.info("first")
    assert journald.entry()["MESSAGE"] == "miner: first"
    log.info("second", extra={"job": "x" * 900_000})
    assert journald.line() == "<6>miner: second\n"
    log.info("third")
    assert journald.entry()["MESSAGE"] == "miner: third"
    assert logs.dropped() == 0


def test_what_does_not_fit_into_the_socket_goes_to_the_stream(
    journald: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEND_S", 0.001)
    messages: list[str] = []
    reader = threading.Thread(target=lambda: messages.extend(journald.lines.makefile()))
    reader.start()
    logs.configure("debug", "auto", journald.stream)
    for number in range(600):
        logging.getLogger("miner").debug("record %d", number, extra={"job": "x" * 1000})
    assert flush()
    assert logs.dropped() == 0
    close()
    journald.stream.close()
    reader.join()
    first: list[str] = []
    while len(first) + len(messages) < 600:
        first.append(f"<7>{journald.entry()['MESSAGE']}\n")
    assert [*first, *messages] == [f"<7>miner: record {number}\n" for number in range(600)]
    assert first
    assert messages


def test_a_journald_that_is_back_gets_entries_again(journald: JournalReader) -> None:
    logs.configure("info", "auto", journald.stream)
    log = logging.getLogger("miner")
    log.info("first")
    assert journald.entry()["MESSAGE"] == "miner: first"
    journald.entries.close()
    log.info("second")
    assert journald.line() == "<6>miner: second\n"
    journald.listen()
    log.info("third")
    assert journald.entry()["MESSAGE"] == "miner: third"


def test_what_neither_takes_is_counted(journald: JournalReader) -> None:
    logs.configure("info", "auto", journald.stream)
    journald.entries.close()
    journald.lines.close()
    for number in range(3):
        logging.getLogger("miner").info("record %d", number)
        assert flush()
    assert logs.dropped() == 3
    journald.listen()
    logging.getLogger("miner").info("after")
    told = journald.entry()
    assert told["MESSAGE"] == "miner: 3 log lines were dropped: they could not be written"
    assert told["PRIORITY"] == "4"
    assert journald.entry()["MESSAGE"] == "miner: after"
    assert flush()
    assert logs.dropped() == 3


def test_the_end_waits_until_journald_has_read_all(journald: JournalReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the unit of the process when it reads an entry."""
    monkeypatch.setattr(writer, "FLUSH_S", WAIT_S)
    logs.configure("info", "auto", journald.stream)
    logging.getLogger("miner").info("hello")
    assert flush()
    ending = threading.Thread(target=handler().close)
    ending.start()
    ending.join(0.05)
    assert ending.is_alive()
    journald.entry()
    ending.join(WAIT_S)
    assert not ending.is_alive()


def test_why_a_command_failed_goes_to_the_stream_after_the_log(journald: JournalReader) -> None:
    logs.configure("info", "auto", journald.stream)
    logging.getLogger("miner").info("hello")
    assert journald.entry()["MESSAGE"] == "miner: hello"
    logs.report("quantus-miner: --port: bad")
    assert journald.line() == "<3>quantus-miner: --port: bad\n"


def test_a_process_leaves_nothing_unsaid_at_its_end(journald: JournalReader) -> None:
    program = f"""
import logging
from quantus_miner import logs
from quantus_miner.logs import journal
journal.SOCKET = {journal.SOCKET!r}
logs.configure("info")
logging.getLogger("miner").info("the last words")
"""
    done = subprocess.run([sys.executable, "-c", program], stderr=journald.stream, timeout=60, check=False)
    assert done.returncode == 0
    assert journald.entry()["MESSAGE"] == "miner: the last words"
