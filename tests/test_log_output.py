"""A log that peers cannot fill, and one that cannot be written."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
import sys

import pytest

from quantus_miner import logs
from quantus_miner.logs import writer

from .log_lines import fill, flush, logged, written

pytestmark = pytest.mark.usefixtures("own_logging")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def complain(number: int) -> None:
    logging.getLogger("miner.http").warning("complaint %s", number)


def test_what_repeats_is_counted_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(logs, "_clock", clock)
    logs.configure("debug", "journald", stream)
    most = logs.MAX_ALIKE[logging.WARNING]
    for number in range(most + 1234):
        complain(number)
        clock.now += logs.MINUTE_S / 2000
    logging.getLogger("miner.http").warning("another")  # has a minute of its own
    shown = [f"<4>miner.http: complaint {number}" for number in range(most)] + ["<4>miner.http: another"]
    assert written(stream).splitlines() == shown
    logs.tick()
    assert written(stream).splitlines() == shown
    clock.now = 1000.0 + logs.MINUTE_S
    logs.tick()
    shown.append(f"<4>miner.http: 1,234 more like it within a minute, the last: complaint {most + 1233}")
    assert written(stream).splitlines() == shown
    complain(-1)
    assert written(stream).splitlines() == [*shown, "<4>miner.http: complaint -1"]


def test_what_is_left_out_is_told_without_a_tick_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(logs, "_clock", clock)
    logs.configure("debug", "journald", stream)
    for _ in range(2):
        for number in range(logs.MAX_ALIKE[logging.WARNING] + 5):
            complain(number)
        clock.now += logs.MINUTE_S
    (handler,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, logs.Handler)]
    handler.close()
    assert len(re.findall("^<4>miner.http: 5 more like it within a minute", written(stream), re.MULTILINE)) == 2


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_each_level_has_its_measure(level: int) -> None:
    stream = io.StringIO()
    logs.configure("debug", "journald", stream)
    for _ in range(1000):
        logging.getLogger("miner").log(level, "%d", "no number" if level == logging.ERROR else 1)
    logging.getLogger("miner").log(level, "from another place")
    expected = 0 if level == logging.ERROR else min(1000, logs.MAX_ALIKE.get(level, 1000))
    assert len(written(stream).splitlines()) == expected + 1


PROGRAM = """
import logging, sys
from quantus_miner import logs
logs.configure("info")
for number in range(2000):
    logging.getLogger("miner").info("record %d", number)
logging.getLogger("miner").info("%d", "no number")
print("done")
"""


def test_a_reader_of_stderr_that_has_gone_stops_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=write, check=False)
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_closed_stderr_stops_nothing() -> None:
    script = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(["/bin/sh", "-c", script, sys.executable, PROGRAM], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_reader_that_never_reads_holds_nothing_up_and_the_process_ends() -> None:
    """Neither who logs nor the end of the process waits for it."""
    read, write = os.pipe()
    fill(write)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=write, check=False, timeout=20
    )
    os.close(write)
    os.close(read)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_full_disk_stops_nothing() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_lines_that_could_not_be_written_are_counted_when_the_reader_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_QUEUED", 1000)
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as reader:
        size = fill(write)
        logs.configure("debug", "journald", stream)
        for number in range(500):
            logging.getLogger("miner").debug("line %d", number)
        assert not flush(0.01)
        assert len(reader.read(size)) == size
        assert flush()
        logging.getLogger("miner").debug("after")
        assert flush()
        os.set_blocking(read, False)
        lines = reader.read().decode().splitlines()
    told, number = 0, 0
    for line in lines[:-1]:
        if gap := re.fullmatch(r"<4>miner: (\d+) log lines were dropped: they could not be written", line):
            told += int(gap[1])
            number += int(gap[1])  # in the place where they are missing
        else:
            assert line == f"<7>miner: line {number}"
            number += 1
    assert 0 < told < number == 500
    assert logs.dropped() == told
    assert lines[-1] == "<7>miner: after"


def test_lines_lost_to_an_error_of_the_device_are_counted_when_it_works_again() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as reader:
        logs.configure("debug", "journald", stream)
        kept = os.dup(write)
        with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
            os.dup2(full.fileno(), write)
        for number in range(3):
            logging.getLogger("miner").debug("line %d", number)
            assert flush()
        os.dup2(kept, write)
        os.close(kept)
        logging.getLogger("miner").debug("after")
        assert flush()
        os.set_blocking(read, False)
        assert reader.read().decode().splitlines() == [
            "<4>miner: 3 log lines were dropped: they could not be written",
            "<7>miner: after",
        ]
        assert logs.dropped() == 3


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_that_is_too_long_is_dropped_and_those_after_it_are_not(log_format: str) -> None:
    stream = io.StringIO()
    logs.configure("info", log_format, stream)
    logging.getLogger("miner").info("%s", "x" * writer.MAX_QUEUED)
    assert flush()
    logging.getLogger("miner").info("after")
    first, last = written(stream).splitlines()
    assert "1 log lines were dropped" in first
    assert "after" in last
    assert logs.dropped() == 1


@pytest.mark.parametrize("character", ["x", "é", "😀", "\n"])
def test_a_line_for_journald_is_shorter_than_what_it_splits(character: str) -> None:
    """The second part would be a record of its own, with whatever priority its text begins with."""
    line = logged("journald", 200_000 * character)
    assert len(line.encode()) < 48 * 1024
    assert re.fullmatch(r"<6>miner\.http: .*… \([0-9,]+ bytes more\)\n", line)


def test_a_descriptor_that_does_not_block_gets_every_line() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, os.fdopen(ours.detach(), "w") as stream:
        logs.configure("debug", "journald", stream)
        for _ in range(100):
            logging.getLogger("miner").debug("x" * 9_000)
        with theirs.makefile("r") as reader:
            assert {reader.readline() for _ in range(100)} == {f"<7>miner: {'x' * 9_000}\n"}


def test_a_signal_handler_may_log_while_its_thread_does() -> None:
    program = """
import logging, signal, sys
from quantus_miner import logs
logs.configure("debug")
log = logging.getLogger("miner")
signal.signal(signal.SIGALRM, lambda *_: log.debug("from the handler"))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for number in range(20_000):
    log.debug("record %d", number)
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "from the handler" in done.stderr


def test_a_stream_closed_later_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    logs.configure("info", "auto", stream)
    logging.getLogger("miner").info("nobody hears this")


@pytest.mark.usefixtures("own_logging")
def test_what_both_filters_show_is_shown_while_one_follows_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure("info,miner.gpu=debug", stream=io.StringIO())
    seen: list[tuple[bool, bool]] = []
    set_level = logging.Logger.setLevel

    def note(logger: logging.Logger, level: int) -> None:
        set_level(logger, level)
        gpu, live = logging.getLogger("miner.gpu"), logging.getLogger("miner.live")
        seen.append((gpu.isEnabledFor(logging.DEBUG), live.isEnabledFor(logging.INFO)))

    monkeypatch.setattr(logging.Logger, "setLevel", note)
    logs.set_filter("debug")
    assert set(seen) == {(True, True)}
