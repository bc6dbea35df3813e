"""Errors that end in one clear line for the user, never in a traceback."""

from __future__ import annotations

import errno
from typing import Final

MAX_REASON: Final = 200
"""Characters of a peer's text that are kept or shown, at most."""


def printable(text: str) -> str:
    """Return ``text`` with unprintable characters escaped. Outside texts could end the line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def legible(text: str, most: int = MAX_REASON) -> str:
    """Return a peer's text for one line: ``printable``, and at most ``most`` characters of it."""
    return printable(text[:most])[:most].strip()


def describe(error: BaseException) -> str:
    """Return one line that says what happened and where, such as ``RuntimeError: its text (file.py:12)``."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return printable(text) + place


def explain(error: Exception) -> str:
    """Return one line for the user about an error that is not a MinerError, with advice if a system limit caused it."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptor is left; raise the limit (LimitNOFILE= of the unit, or ulimit -n)"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "cannot write the output: no space is left on its device"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system allows no more threads; raise the limit (TasksMax= of the unit, pids.max, or ulimit -u)"
    if isinstance(error, MemoryError):
        return "no memory is left; raise the limit (MemoryMax= of the unit, or ulimit -v)"
    return f"internal error, please report it: {describe(error)}"


class MinerError(Exception):
    """Base of all errors of this package. ``str()`` is one line for the user."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class SettingError(MinerError):
    """A setting has a value that is not allowed. Names the setting, its source and what is allowed."""

    exit_code = 2


class MachineError(MinerError):
    """The service cannot run on this machine until a person changes something."""

    exit_code = 5


class EngineUnavailableError(MachineError):
    """An engine cannot run on this machine. Says why, and what to use instead."""


class DeviceLostError(MinerError):
    """A device of an engine has failed. It may come back."""


class DevicePausedError(MinerError):
    """A device of an engine must pause for a while."""


class LinkLostError(MinerError):
    """A connection to a live source ended or could not be made. It is tried again."""


class LinkRefusedError(MinerError):
    """A live source refuses us, or its certificate is not the pinned one. It is tried again at long intervals."""

    exit_code = 3


class TransitionError(Exception):
    """An event that is impossible in the current state of ``what``: a bug."""

    def __init__(self, what: str, state: str, event: str) -> None:
        super().__init__(f"{what} cannot handle the event {event} in the state {state}")
