"""The log: RUST_LOG filters, and one record a line for a terminal, a file, journald or a collector."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, TextIO

from quantus_miner.errors import printable

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
    Raises ValueError on a bad filter. No logging call raises afterwards, whatever becomes of the stream.
    """
    levels = parse_filter(filter_text)
    stream = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = "journald" if _leads_to_journald(stream) else "text"
    formatters: dict[str, type[logging.Formatter]] = {"journald": _Journald, "json": _Json}
    handler = Handler(stream)
    handler.setFormatter(formatters.get(log_format, _Terminal if _is_terminal(stream) else _Text)())

    logging.raiseExceptions = False  # a log that cannot be written is no reason to stop mining
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def tick() -> None:
    """Says what was left out in the minutes that are over; to be called about once a second."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.acquire()
            try:
                handler.sum_up()
            finally:
                handler.release()


@dataclass(slots=True)
class _Minute:
    """What one place in the code has logged since ``began``; ``last``: what was left out last."""

    began: float
    count: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Handler(logging.StreamHandler[TextIO]):
    """Ours, so that ``configure`` replaces no other. What a peer can cause at will does not fill the disk."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Writes it, unless there were too many like it."""
        most = MAX_ALIKE.get(record.levelno)
        if most is not None:
            self.sum_up()
            # The place, not the text: that may be a peer's.
            minute = self._minutes.setdefault((record.pathname, record.lineno), _Minute(_clock()))
            minute.count += 1
            if minute.count > most:
                minute.left_out, minute.last = minute.left_out + 1, record
                return
        super().emit(record)

    def sum_up(self) -> None:
        """Forgets the minutes that are over, and says what they left out."""
        now = _clock()
        for place, minute in list(self._minutes.items()):
            if now - minute.began >= MINUTE_S:
                del self._minutes[place]
                self._tell(minute)

    def close(self) -> None:
        """At the end of the process."""
        for minute in self._minutes.values():
            self._tell(minute)
        self._minutes.clear()
        super().close()

    def _tell(self, minute: _Minute) -> None:
        if (last := minute.last) is not None:
            text = f"{minute.left_out:,} more like it within a minute, the last: {last.msg}"
            super().emit(logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, text, last.args, None))


class _Text(logging.Formatter):
    """``2025-01-31T12:00:00.123Z INFO miner.http: message``; a traceback follows, indented as no record is."""

    def format(self, record: logging.LogRecord) -> str:
        first = f"{self.prefix(record)} {record.name}: {printable(record.getMessage())}"
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
        message = "\\n".join([printable(record.getMessage()), *_trace(record)])
        return f"<{_shown(record).priority}>{record.name}: {message}"


class _Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        # Half a surrogate pair is no Unicode text: many parsers would refuse the whole line.
        message = record.getMessage().encode("utf-8", "backslashreplace").decode()
        fields = {"time": _utc(record), "level": _shown(record).name.lower(), "logger": record.name, "message": message}
        if trace := _trace(record):
            fields["exception"] = "\n".join(trace)
        return json.dumps(fields)


def _shown(record: logging.LogRecord) -> _Shown:
    return next(shown for shown in _SHOWN if record.levelno >= shown.level)


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(record: logging.LogRecord) -> list[str]:
    """Lines of the record's traceback, each printable."""
    if not record.exc_info or record.exc_info[0] is None:
        return []
    return [printable(line) for line in logging.Formatter().formatException(record.exc_info).split("\n")]


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
