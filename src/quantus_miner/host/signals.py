"""Handle signals: two end the service in order, one reloads its settings, and none kills it by accident."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from types import FrameType

log = logging.getLogger("miner")

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
RELOADING: Final = signal.SIGHUP
IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end a process that does not handle them. (Python already ignores SIGPIPE.)"""


class Signals:
    """Handles signals from its creation to the end of the process.

    Before ``hand_over``, a signal of ENDING ends the process at once with exit code 0, because there is nothing to save
    yet, and RELOADING waits. The event loop's own handlers would not suffice: they end with the loop, and a second
    SIGTERM would then kill the process.
    """

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        self._reload: Callable[[], None] | None = None
        self._reload_waits = False
        for number in (*ENDING, RELOADING, *IGNORED):
            signal.signal(number, self._on_signal)

    def hand_over(self, loop: AbstractEventLoop, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """Make signals of ENDING call ``stop``, and RELOADING call ``reload``, on the thread of ``loop``."""
        self._stop, self._reload, self._loop = stop, reload, loop
        if self._reload_waits:
            self._handle(RELOADING)

    def ignore(self) -> None:
        """Ignore all signals. Called when the service has ended: they would kill the process while Python ends."""
        for number in (*ENDING, RELOADING, *IGNORED):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number in ENDING:
            # One is enough. Handling more of them would only delay the end.
            for other in ENDING:
                signal.signal(other, signal.SIG_IGN)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
                self._loop.call_soon_threadsafe(self._handle, number)
        else:
            self._handle(number)
            if number in ENDING:
                # Python ignores exceptions in callbacks of weak references, which imports use. SystemExit would be lost
                # there: the service would continue and ignore all further signals.
                logging.shutdown()
                os._exit(0)

    def _handle(self, number: int) -> None:
        name = signal.Signals(number).name
        if number == RELOADING:
            if self._reload is None:
                self._reload_waits = True
                return
            log.info("Received %s: reloading the settings", name)
            self._reload()
        elif number in IGNORED:
            log.warning("Received %s: ignored, the miner does not use this signal", name)
        else:
            log.info("Received %s: stopping", name)
            if self._stop is not None:
                self._stop()
