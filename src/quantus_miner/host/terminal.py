"""Keys of a terminal, without waiting for Enter, for as long as this process is in the terminal's foreground."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
import termios
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

READ_BYTES: Final = 1_024
MAX_TYPED: Final = 4
"""Bytes that a person may have typed since the last read. More are text that was pasted."""
ESCAPE: Final = b"\x1b"
"""Begins what cursor and function keys send."""


class Keys:
    """Calls ``on_key`` on the event loop with each key that is pressed, or with an empty text for anything else.

    It reads only if stdin and stderr are both terminals. The terminal is restored when the process is stopped with
    Ctrl-Z, when ``close`` is called, and at the end of the process. A process in the background leaves the terminal
    alone: reading from it there, or changing its modes, would stop the process.
    """

    def __init__(self, on_key: Callable[[str], None], descriptor: int = 0) -> None:
        self._on_key = on_key
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None  # None while no keys are read
        self._before: list[Any] = []  # the terminal's modes as they were
        self._ours: list[Any] = []  # and as they are while keys are read
        self._handlers: dict[int, Any] = {}  # of signals, as they were

    @property
    def reading(self) -> bool:
        """True while keys are read."""
        return self._loop is not None

    def update(self) -> None:
        """Read keys if the process is in the foreground now, and not otherwise. Call it about once a second."""
        foreground = self._in_foreground()
        if foreground and self._loop is None:
            self._begin()
        elif not foreground:
            self._stop_reading()

    def close(self) -> None:
        """Read no more keys and restore the terminal."""
        self._restore()
        atexit.unregister(self._restore)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _in_foreground(self) -> bool:
        try:
            terminal = sys.stderr is not None and sys.stderr.isatty()
            return terminal and os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except (OSError, ValueError):  # no terminal, not ours, hung up, or closed
            return False

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(termios.error):
            found = termios.tcgetattr(self._descriptor)
            if found != self._ours:  # as a shell hands them back to a process that was stopped by others
                self._before = found
                self._ours = [*found[:6], [*found[6]]]
                self._ours[3] &= ~(termios.ICANON | termios.ECHO)
                # A read never waits: another process may have read what made the terminal ready.
                self._ours[6][termios.VMIN] = self._ours[6][termios.VTIME] = 0
            self._handle_signals(loop)
            atexit.register(self._restore)
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._ours)
            loop.add_reader(self._descriptor, self._on_ready)
            self._loop = loop

    def _stop_reading(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None

    def _restore(self) -> None:
        if self._loop is not None and self._in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
        self._stop_reading()

    def _on_ready(self) -> None:
        if not self._in_foreground():
            self._stop_reading()
            return
        try:
            typed = os.read(self._descriptor, READ_BYTES)
        except OSError:  # EIO: it is in the background since the look, or the terminal has hung up
            typed = b""
        if not typed:
            self._restore()
        elif typed.startswith(ESCAPE) or len(typed) > MAX_TYPED:
            self._on_key("")
        else:
            for key in typed.decode("ascii", "replace"):
                self._on_key(key)

    # --- Ctrl-Z ---

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._handlers:

            def on_suspend(number: int, _: FrameType | None) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
                    loop.call_soon_threadsafe(self._suspend, number, on_suspend)

            self._handlers = {
                signal.SIGTSTP: signal.signal(signal.SIGTSTP, on_suspend),
                # A read in the background then fails instead of stopping the process.
                signal.SIGTTIN: signal.signal(signal.SIGTTIN, signal.SIG_IGN),
            }

    def _suspend(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        # Here the process continues, in the foreground or not.
        if self._handlers:
            signal.signal(number, handler)
        self.update()
