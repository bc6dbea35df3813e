"""What signals do to the service: two of them end it in order, one reloads its settings, none kills it by accident."""

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
"""Signals that end a process which does not handle them. (Python ignores SIGPIPE by itself.)"""


class Signals:
    """Handles signals from its creation to the end of the process.

    Until ``hand_over`` a signal of ENDING ends the process at once, with exit code 0: there is nothing to save yet. A
    RELOADING waits until then. The event loop's own handlers would not do: they end with the loop, and a second SIGTERM
    would then kill the process.
    """

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        self._reload: Callable[[], None] | None = None
        self._reload_waits = False
        for number in (*ENDING, RELOADING, *IGNORED):
            signal.signal(number, self._on_signal)

    def hand_over(self, loop: AbstractEventLoop, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """From now on a signal of ENDING calls ``stop`` on the thread of ``loop``, and RELOADING calls ``reload``."""
        self._stop, self._reload, self._loop = stop, reload, loop
        if self._reload_waits:
            self._handle(RELOADING)

    def ignore(self) -> None:
        """Ignores all of them: the service has ended, and Python would let them kill the process as it ends."""
        for number in (*ENDING, RELOADING, *IGNORED):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number in ENDING:
            # One is enough; more of them would only take time from the end.
            for other in ENDING:
                signal.signal(other, signal.SIG_IGN)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
                self._loop.call_soon_threadsafe(self._handle, number)
        else:
            self._handle(number)
            if number in ENDING:
                # SystemExit would be lost where Python ignores exceptions, as in callbacks of weak references, which
                # imports use: the service would go on, and ignore all further signals.
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
            log.warning("Received %s: ignored, it has no meaning here", name)
        else:
            log.info("Received %s: stopping", name)
            if self._stop is not None:
                self._stop()
