"""The log: RUST_LOG filters, and one record a line for a terminal, a file, journald or a collector.

A record may carry fields (``formats.FIELDS``), passed as ``extra``. A thread writes the lines: whoever logs waits for
no reader and no disk.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, TextIO

from quantus_miner.logs import formats, journal
from quantus_miner.logs.journal import Journal
from quantus_miner.logs.writer import Line, Writer

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
"""Records of a level from one place in the code that are shown in a minute. The rest are counted. Other levels: all."""
TAIL: Final = 200
"""Last lines that are kept for ``tail``."""
MAX_TAIL_LINE: Final = 1_000
"""Characters of such a line. The rest is cut off."""
_clock = time.monotonic


def parse_filter(text: str) -> dict[str, int]:
    """Return logger names and the lowest level shown of each, and of all below it; ``""`` is every logger not named.

    The grammar is that of env_logger without regular expressions: a comma-separated list of ``level``,
    ``target=level`` or ``target`` (everything). ``::`` in a target means ``.``. The longest target wins, then the last.
    A level without a target (info if there is none) applies to the miner. Libraries that are not named log nothing
    below warn. Raises ValueError, in one line, for anything else.
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
    """Send all records that pass ``filter_text`` to ``stream`` (default: stderr). Replaces any earlier configuration.

    ``log_format``: ``text``, ``journald``, ``json``, or ``auto``, which is journald if it reads the stream, else text.
    Raises ValueError if the filter is malformed. Afterwards, no logging call raises or blocks, whatever happens to the
    stream.
    """
    parse_filter(filter_text)
    stream = sys.stderr if stream is None else stream
    native = log_format in ("auto", "journald") and journal.reads(stream)
    if log_format == "auto":
        log_format = "journald" if native else "text"
    formatters: dict[str, type[logging.Formatter]] = {"journald": formats.Journald, "json": formats.Json}
    handler = Handler(stream, Journal(journal.SOCKET) if native else None)
    handler.setFormatter(formatters.get(log_format, formats.Terminal if _is_terminal(stream) else formats.Text)())

    logging.raiseExceptions = False  # a log that cannot be written is no reason to stop mining
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    for old in _handlers():
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    set_filter(filter_text)


def set_filter(filter_text: str) -> None:
    """Show the records that pass ``filter_text``, from now on. Raises ValueError if it is malformed."""
    levels = parse_filter(filter_text)
    # Other threads log meanwhile, and make loggers: what both filters show is shown at any moment.
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for name, logger in list(logging.getLogger().manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name not in levels:
            logger.setLevel(logging.NOTSET)


def tick() -> None:
    """Log what was left out in the minutes that are over. Call it about once a second."""
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


def dropped() -> int:
    """Return how many lines were lost because they could not be written. MAX_ALIKE leaves out others on purpose."""
    return sum(handler.dropped for handler in _handlers())


def tail(after: int = 0) -> list[tuple[int, str]]:
    """Return the last lines whose number is above ``after``, with their numbers, in the format ``text``."""
    return [line for handler in _handlers() for line in handler.tail(after)]


def _handlers() -> list[Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, Handler)]


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


@dataclass(slots=True)
class _Minute:
    """What one place in the code has logged since ``began``. ``last``: the last record that was left out."""

    began: float
    count: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Handler(logging.Handler):
    """The handler that ``configure`` installs. Lines that a peer can cause at will do not fill the disk."""

    def __init__(self, stream: TextIO | None, native: Journal | None) -> None:
        super().__init__()
        self._native = native is not None
        self._minutes: dict[tuple[str, int], _Minute] = {}
        self._plain = formats.Text()
        self._tail: deque[tuple[int, str]] = deque(maxlen=TAIL)
        self._lines = 0
        self._writer = Writer(stream, native, self._summary)

    @property
    def dropped(self) -> int:
        """Lines that were dropped because they could not be written."""
        return self._writer.dropped

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
        """Forget the minutes that are over, and log what they left out."""
        now = _clock()
        for place, minute in list(self._minutes.items()):
            if now - minute.began >= MINUTE_S:
                self._minutes.pop(place, None)
                self._tell(minute)

    def tail(self, after: int) -> list[tuple[int, str]]:
        """See ``logs.tail``."""
        self.acquire()
        try:
            return [line for line in self._tail if line[0] > after]
        finally:
            self.release()

    def report(self, text: str) -> None:
        """See ``logs.report``. Goes to the stream, of which journald knows the unit even when the process has ended."""
        self._sum_up_all()
        self._writer.put(Line(f"{'<3>' if isinstance(self.formatter, formats.Journald) else ''}{text}\n"))

    def close(self) -> None:
        """Write what is left, for FLUSH_S at most. ``logging`` calls this at the end of the process."""
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
            place = (last.pathname, last.lineno)
            record = logging.LogRecord(last.name, last.levelno, *place, text, last.args, None, last.funcName)
            record.__dict__ |= formats.fields(last)
            self._put(record)

    def _put(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
            self._lines += 1
            self._tail.append((self._lines, self._plain.format(record)[:MAX_TAIL_LINE]))
        except Exception:
            self.handleError(record)
        else:
            self._writer.put(line)

    def _line(self, record: logging.LogRecord) -> Line:
        return Line(f"{self.format(record)}\n", journal.encode(formats.entry(record)) if self._native else b"")

    def _summary(self, count: int) -> Line:
        text = f"{count:,} log lines were dropped: they could not be written"
        record = logging.LogRecord("miner", logging.WARNING, __file__, 0, text, None, None, "_summary")
        return self._line(record)._replace(tells=count)
