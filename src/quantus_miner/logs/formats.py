"""How a record looks: a sentence on a terminal or in a file, a line or an entry of journald, a JSON object."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

from quantus_miner.errors import describe, printable

FIELDS: Final = ("job", "source", "difficulty", "latency_ms", "device")
"""What a logging call may pass as ``extra``. JSON lines and the journal show these beside the sentence."""
IDENTIFIER: Final = "quantus-miner"
MAX_LINE: Final = 40_000
"""Bytes of a line for journald, which would split one of 48 KiB and read a priority from the second half as well."""

Field = str | int | float


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


class Text(logging.Formatter):
    """``2025-01-31T12:00:00.123Z INFO miner.http: message``; a traceback follows, indented as no record is."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, or as several with a traceback."""
        return f"{self.prefix(record)} {_indented(record)}"

    def prefix(self, record: logging.LogRecord) -> str:
        """Return the time and the level."""
        return f"{_utc(record)} {_shown(record).name}"


class Terminal(Text):
    """As text, with the local time of day and, unless NO_COLOR is set, colour.

    A record may name the colour of its message, as ``extra={"colour": …}``: one of ANSI's, 30 to 37.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, or as several with a traceback."""
        name, _, message = _indented(record).partition(": ")
        colour = record.__dict__.get("colour")
        return f"{self.prefix(record)} {name}: {message if colour is None else _coloured(message, colour)}"

    def prefix(self, record: logging.LogRecord) -> str:
        """Return the time and the level."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = _shown(record)
        return f"{clock} {_coloured(f'{shown.name:5}', shown.colour)}"


def _coloured(text: str, colour: int) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"


class Journald(logging.Formatter):
    """``<6>miner.http: message`` as sd-daemon(3) reads it; journald adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of at most MAX_LINE bytes."""
        text = "\\n".join([printable(_message(record)), *_trace(record)])
        line = f"<{_shown(record).priority}>{record.name}: {text}"
        encoded = line.encode("utf-8", "backslashreplace")
        if len(encoded) <= MAX_LINE:
            return line
        kept = encoded[: MAX_LINE - 100]
        return f"{kept.decode(errors='ignore')}… ({len(encoded) - len(kept):,} bytes more)"


class Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's fields, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        line: dict[str, Field] = {
            "time": _utc(record),
            "level": _shown(record).name.lower(),
            "logger": record.name,
            "message": _unicode(_message(record)),
        }
        line |= fields(record)
        if trace := _trace(record):
            line["exception"] = "\n".join(trace)
        return json.dumps(line)


def entry(record: logging.LogRecord) -> dict[str, str]:
    """Return the record as fields of a journal entry, named as systemd.journal-fields(7) and FIELDS say.

    MESSAGE begins with the logger's name, like the line that ``Journald`` makes. A traceback follows it, indented.
    """
    found = {
        "MESSAGE": _indented(record),
        "PRIORITY": str(_shown(record).priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }
    return found | {name.upper(): str(value) for name, value in fields(record).items()}


def fields(record: logging.LogRecord) -> dict[str, Field]:
    """Return those of FIELDS that the record has: finite numbers as they are, everything else as text."""
    found: dict[str, Field] = {}
    for name in FIELDS:
        value = record.__dict__.get(name)
        if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
            found[name] = value
        elif value is not None:
            found[name] = _unicode(str(value))
    return found


def _unicode(text: str) -> str:
    """Return ``text`` with half surrogate pairs escaped: they have no encoding, and many JSON parsers refuse them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(record: logging.LogRecord) -> _Shown:
    return next(shown for shown in _SHOWN if record.levelno >= shown.level)


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _indented(record: logging.LogRecord) -> str:
    """Return the logger's name and the message. A traceback follows in lines of its own."""
    return "\n    ".join([f"{record.name}: {printable(_message(record))}", *_trace(record)])


def _message(record: logging.LogRecord) -> str:
    """Return the text of the record, followed by its exception in a few words if no traceback is shown."""
    error = record.exc_info[1] if record.exc_info else None
    return record.getMessage() if error is None or _traced(record) else f"{record.getMessage()}: {describe(error)}"


def _trace(record: logging.LogRecord) -> list[str]:
    """Return the lines of the record's traceback, each printable."""
    if not record.exc_info or record.exc_info[0] is None or not _traced(record):
        return []
    return [printable(line) for line in logging.Formatter().formatException(record.exc_info).split("\n")]


def _traced(record: logging.LogRecord) -> bool:
    """Return True if tracebacks are shown, which is at debug only."""
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
