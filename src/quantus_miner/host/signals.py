"""Handle signals: they end, reload, pause or resume the service, and none kills it by accident."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping
    from types import FrameType

log = logging.getLogger("miner")

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
OTHERS: Final = {
    signal.SIGHUP: "reloading the settings",
    signal.SIGUSR1: "pausing",
    signal.SIGUSR2: "resuming",
}
"""Signals that the service also handles, and what it then does. (Python already ignores SIGPIPE.)"""


class Signals:
    """Handles signals from its creation to the end of the process.

    Before ``hand_over``, a signal of ENDING ends the process at once with exit code 0, because there is nothing to save
    yet, and the others wait. The event loop's own handlers would not suffice: they end with the loop, and a second
    SIGTERM would then kill the process.
    """

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None
        self._handlers: Mapping[int, Callable[[], object]] = {}
        self._waiting: dict[int, None] = {}
        for number in (*ENDING, *OTHERS):
            signal.signal(number, self._on_signal)

    def hand_over(self, loop: AbstractEventLoop, handlers: Mapping[int, Callable[[], object]]) -> None:
        """Have ``handlers``, one for each signal of ENDING and OTHERS, called on the thread of ``loop``."""
        self._handlers, self._loop = handlers, loop
        for number in tuple(self._waiting):
            self._handle(number)

    def ignore(self) -> None:
        """Ignore all signals. Called when the service has ended: they would kill the process while Python ends."""
        for number in (*ENDING, *OTHERS):
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
        handler = self._handlers.get(number)
        if handler is None and number not in ENDING:
            self._waiting[number] = None
            return
        log.info("Received %s: %s", signal.Signals(number).name, OTHERS.get(signal.Signals(number), "stopping"))
        if handler is not None:
            handler()
