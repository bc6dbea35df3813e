"""A thread that writes log lines, so that whoever logs waits for no reader and no disk."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.logs.journal import Journal

MAX_QUEUED: Final = 1_000_000
"""Characters of lines and entries that wait to be written. Further ones are dropped and counted."""
FLUSH_S: Final = 0.3
"""Seconds that the end of the process waits for lines that nobody reads."""


class Line(NamedTuple):
    """A record as it is written.

    ``entry``: the same for the journal, which is tried first; empty if it has no such form. ``tells``: the number of
    dropped records if that is what the line says.
    """

    text: str
    entry: bytes = b""
    tells: int = 0


class Writer:
    """Writes lines to ``journal``, or to ``stream`` if there is none or it does not take them.

    ``summary`` makes the line that says how many were dropped. It stands in their place.
    """

    def __init__(self, stream: TextIO | None, journal: Journal | None, summary: Callable[[int], Line]) -> None:
        self._stream = stream
        self._journal = journal
        self._summary = summary
        # Its lock is reentrant: a signal handler may log while its thread does.
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._size = 0
        self._overflow = 0
        self._writing = self._closed = self._ended = False
        self.dropped = 0
        """Lines that were dropped since the start."""
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None  # no more threads: such a service cannot start, and the reason has to be told

    def put(self, line: Line) -> None:
        """Queue a line. It is dropped while too much waits."""
        if self._thread is None:
            _write(self._stream, line.text)
            return
        size = len(line.text) + len(line.entry)
        with self._changed:
            # Once lines are dropped, so are all that follow until the next write: the gap is in one place.
            if self._overflow or self._size + size > MAX_QUEUED:
                self._overflow += 1
                self.dropped += 1
            else:
                self._lines.append(line)
                self._size += size
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines are written. Return False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._lines or self._overflow or self._writing), timeout_s)

    def close(self) -> None:
        """Write what is left, for FLUSH_S at most, and end the thread."""
        with self._changed:
            if not self._closed and self._thread is not None:
                self._closed = True
                self._changed.notify_all()
                # Not join(): a signal handler that ends the process may have interrupted ``put``, which has the lock.
                self._changed.wait_for(lambda: self._ended, FLUSH_S)

    def _run(self) -> None:
        lost = 0  # lines of writes that failed, not told yet
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._overflow or self._closed)
                lines, self._lines, self._size = self._lines, [], 0
                overflow, self._overflow = self._overflow, 0
                self._writing = True
            if not lines and not overflow:
                break
            if lost:
                lines.insert(0, self._summary(lost))
            if overflow:
                lines.append(self._summary(overflow))
            failed = self._write(lines)
            lost = sum(line.tells or 1 for line in failed)
            with self._changed:
                self.dropped += sum(not line.tells for line in failed)
        if self._journal is not None:
            self._journal.drain(FLUSH_S)
            self._journal.close()
        with self._changed:
            self._writing, self._ended = False, True
            self._changed.notify_all()

    def _write(self, lines: list[Line]) -> list[Line]:
        """Return the lines that could not be written."""
        if self._journal is None:
            return [] if _write(self._stream, "".join(line.text for line in lines)) else lines
        failed = []
        for line in lines:
            if line.entry and self._journal.send(line.entry):
                continue
            self._journal.drain(FLUSH_S)  # what comes by two ways stays in order
            if not _write(self._stream, line.text):
                failed.append(line)
        return failed


def _write(stream: TextIO | None, text: str) -> bool:
    """Write to the descriptor under ``stream``. Return False if that fails.

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
