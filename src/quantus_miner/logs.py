"""The log: RUST_LOG filters, and one record a line for a terminal, a file, journald or a collector.

Lines are written by a thread of their own: whoever logs waits for no reader and no disk.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from quantus_miner.errors import describe, printable

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT: Final = "info"
LEVELS: Final = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
MINUTE_S: Final = 60.0
MAX_ALIKE: Final = {logging.INFO: 60, logging.WARNING: 10, logging.ERROR: 10}
"""Records a minute of a level from one place in the code that are shown; the rest are counted. Others: all."""
MAX_QUEUED: Final = 1_000_000
"""Characters of lines that wait to be written. Further ones are dropped and counted."""
FLUSH_S: Final = 0.3
"""Seconds that the end of the process waits for lines that nobody reads."""
_clock = time.monotonic


class _Shown(NamedTuple):
    """How records of a level and above are shown: name, syslog priority, ANSI colour."""

    level: int
    name: str
    priority: int
    colour: int


_SHOWN: Final = (
    _Shown(logging.ERROR, "ERROR", 3, 31),
    _Shown(logging.WARNING, "WARN", 4, 33),
    _Shown(logging.INFO, "INFO", 6, 32),
    _Shown(logging.NOTSET, "DEBUG", 7, 34),
)


def parse_filter(text: str) -> dict[str, int]:
    """Logger names and the level from which each, with all below it, is shown; ``""`` is every logger not named.

    The grammar is env_logger's, without its regular expression: a comma list of ``level``, ``target=level`` or
    ``target`` (all of it), where ``::`` in a target reads as ``.``, the longest target wins, then the later part.
    A bare level (without one: info) is meant for the miner; libraries that are not named say nothing below warn.
    Raises ValueError, in one line, on anything else.
    """
    levels: dict[str, int] = {}
    for part in filter(None, map(str.strip, (text.strip() or DEFAULT).split(","))):
        target, equals, level = (word.strip() for word in part.replace("::", ".").partition("="))
        if not equals and target.lower() in LEVELS:
            target, level = "", target
        elif not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", target):
            level = "no level"
        level = level.lower() or "trace"
        if level not in LEVELS:
            allowed = f"a comma list of LEVEL or TARGET=LEVEL, such as info,miner=debug; levels {', '.join(LEVELS)}"
            raise ValueError(f"{allowed} (not {part[:40]!r})")
        levels[target] = LEVELS[level]
    bare = levels.get("", LEVELS[DEFAULT])
    return {"miner": bare, **levels, "": max(bare, logging.WARNING)}


def configure(filter_text: str, log_format: str = "auto", stream: TextIO | None = None) -> None:
    """Send every record that passes ``filter_text`` to ``stream`` (stderr), from now on and instead of before.

    ``log_format``: ``text``, ``journald``, ``json``, or ``auto``: journald where the stream leads there, else text.
    Raises ValueError on a bad filter. No logging call raises or blocks afterwards, whatever becomes of the stream.
    """
    parse_filter(filter_text)
    stream = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = "journald" if _leads_to_journald(stream) else "text"
    formatters: dict[str, type[logging.Formatter]] = {"journald": _Journald, "json": _Json}
    handler = Handler(stream)
    handler.setFormatter(formatters.get(log_format, _Terminal if _is_terminal(stream) else _Text)())

    logging.raiseExceptions = False  # a log that cannot be written is no reason to stop mining
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    for old in _handlers():
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_filter(filter_text)


def set_filter(filter_text: str) -> None:
    """Show the records that pass ``filter_text``, from now on. Raises ValueError on a bad filter."""
    levels = parse_filter(filter_text)
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def tick() -> None:
    """Says what was left out in the minutes that are over; to be called about once a second."""
    for handler in _handlers():
        handler.acquire()
        try:
            handler.sum_up()
        finally:
            handler.release()


def report(text: str) -> None:
    """Write the line with which a failed command ends: after the log, and as an error if journald reads it."""
    if not _handlers():
        configure(DEFAULT)
    _handlers()[0].report(text)


def _handlers() -> list[Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, Handler)]


@dataclass(slots=True)
class _Minute:
    """What one place in the code has logged since ``began``; ``last``: what was left out last."""

    began: float
    count: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Handler(logging.Handler):
    """Ours, so that ``configure`` replaces no other. What a peer can cause at will does not fill the disk."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._minutes: dict[tuple[str, int], _Minute] = {}
        self._writer = _Writer(stream, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, unless there were too many like it."""
        most = MAX_ALIKE.get(record.levelno)
        if most is not None:
            self.sum_up()
            # The place, not the text: that may be a peer's.
            minute = self._minutes.setdefault((record.pathname, record.lineno), _Minute(_clock()))
            minute.count += 1
            if minute.count > most:
                minute.left_out, minute.last = minute.left_out + 1, record
                return
        self._put(record)

    def sum_up(self) -> None:
        """Forgets the minutes that are over, and says what they left out."""
        now = _clock()
        for place, minute in list(self._minutes.items()):
            if now - minute.began >= MINUTE_S:
                self._minutes.pop(place, None)
                self._tell(minute)

    def report(self, text: str) -> None:
        """See ``logs.report``."""
        self._sum_up_all()
        self._writer.put(f"{'<3>' if isinstance(self.formatter, _Journald) else ''}{text}\n")

    def close(self) -> None:
        """Write what is left, for FLUSH_S at most. At the end of the process, logging calls this."""
        self._sum_up_all()
        self._writer.close()
        super().close()

    def _sum_up_all(self) -> None:
        for minute in self._minutes.values():
            self._tell(minute)
        self._minutes.clear()

    def _tell(self, minute: _Minute) -> None:
        if (last := minute.last) is not None:
            text = f"{minute.left_out:,} more like it within a minute, the last: {last.msg}"
            self._put(logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, text, last.args, None))

    def _put(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
        else:
            self._writer.put(line)

    def _dropped(self, count: int) -> str:
        text = f"{count:,} log lines were dropped: they could not be written"
        return self.format(logging.LogRecord("miner", logging.WARNING, "", 0, text, None, None)) + "\n"


class _Writer:
    """Writes lines to ``stream`` in a thread of its own. ``dropped`` makes the line that tells how many were lost."""

    def __init__(self, stream: TextIO | None, dropped: Callable[[int], str]) -> None:
        self._stream = stream
        self._dropped = dropped
        # Its lock is reentrant: a signal handler may log while its thread does.
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._size = 0
        self._overflow = 0
        self._writing = self._closed = False
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None  # no more threads: such a service cannot start, and the reason has to be told

    def put(self, line: str) -> None:
        """Queue a line. It is dropped while too much waits."""
        if self._thread is None:
            _write(self._stream, line)
            return
        with self._changed:
            # Once lines are dropped, so are all that follow until the next write: the gap is in one place.
            if self._overflow or self._size + len(line) > MAX_QUEUED:
                self._overflow += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines are written; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def close(self) -> None:
        """Flush for FLUSH_S at most and end the thread."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._changed.notify_all()
                self.flush(FLUSH_S)

    def _run(self) -> None:
        lost = 0  # lines of writes that failed, not told yet
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                lines, self._lines, self._size = self._lines, [], 0
                overflow, self._overflow = self._overflow, 0
                self._writing = True
            text = "".join([self._dropped(lost) if lost else "", *lines, self._dropped(overflow) if overflow else ""])
            lost = 0 if _write(self._stream, text) else lost + len(lines) + overflow


def _write(stream: TextIO | None, text: str) -> bool:
    """Write to the descriptor under ``stream``; False if that fails.

    Python's own buffer is left out: at the end of the process it would wait for a thread that writes, and a rest in it
    that cannot be written changes the exit code.
    """
    if stream is None:
        return False
    try:
        try:
            descriptor = stream.fileno()
        except OSError:  # in memory
            stream.write(text)
            return True
        data = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another process that shares it has made it so
                select.select([], [descriptor], [])
    except (OSError, ValueError):  # ValueError: closed
        return False
    return True


class _Text(logging.Formatter):
    """``2025-01-31T12:00:00.123Z INFO miner.http: message``; a traceback follows, indented as no record is."""

    def format(self, record: logging.LogRecord) -> str:
        first = f"{self.prefix(record)} {record.name}: {printable(_message(record))}"
        return "\n    ".join([first, *_trace(record)])

    def prefix(self, record: logging.LogRecord) -> str:
        return f"{_utc(record)} {_shown(record).name}"


class _Terminal(_Text):
    """As text, with the local time of day and, unless NO_COLOR is set, colour."""

    def prefix(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = _shown(record)
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return f"{clock} {shown.name:5}" if plain else f"{clock} \x1b[{shown.colour}m{shown.name:5}\x1b[0m"


class _Journald(logging.Formatter):
    """``<6>miner.http: message`` as sd-daemon(3) reads it; journald adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        message = "\\n".join([printable(_message(record)), *_trace(record)])
        return f"<{_shown(record).priority}>{record.name}: {message}"


class _Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        # Half a surrogate pair is no Unicode text: many parsers would refuse the whole line.
        message = _message(record).encode("utf-8", "backslashreplace").decode()
        fields = {"time": _utc(record), "level": _shown(record).name.lower(), "logger": record.name, "message": message}
        if trace := _trace(record):
            fields["exception"] = "\n".join(trace)
        return json.dumps(fields)


def _shown(record: logging.LogRecord) -> _Shown:
    return next(shown for shown in _SHOWN if record.levelno >= shown.level)


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """The text of the record; with an exception, and no traceback below it, that in a few words too."""
    error = record.exc_info[1] if record.exc_info else None
    return record.getMessage() if error is None or _traced(record) else f"{record.getMessage()}: {describe(error)}"


def _trace(record: logging.LogRecord) -> list[str]:
    """Lines of the record's traceback, each printable."""
    if not record.exc_info or record.exc_info[0] is None or not _traced(record):
        return []
    return [printable(line) for line in logging.Formatter().formatException(record.exc_info).split("\n")]


def _traced(record: logging.LogRecord) -> bool:
    """Whether tracebacks are shown: to those who want to know more."""
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _leads_to_journald(stream: TextIO | None) -> bool:
    """Whether ``stream`` is the one that JOURNAL_STREAM names, as ``device:inode`` (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno() if stream else -1)
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
