"""Errors that end in one clear line for the user, never in a traceback."""


def printable(text: str) -> str:
    """``text`` with all escaped that could end the line or steer a terminal: much that is said comes from outside."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class MinerError(Exception):
    """Base of all errors of this package; ``str()`` is one line fit for a user."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class SettingError(MinerError):
    """A setting has a value that is not allowed; names the setting, its source and what is allowed."""

    exit_code = 2


class EngineUnavailableError(MinerError):
    """An engine cannot run on this machine; says why and what to use instead."""


class DeviceLostError(MinerError):
    """A device of an engine has failed; it may come back."""


class DevicePausedError(MinerError):
    """A device of an engine has to rest for a while."""


class LinkLostError(MinerError):
    """A connection to a live source ended or could not be made; it is tried again."""


class LinkRefusedError(MinerError):
    """A live source refuses us, or is not the one that we were told of; it is tried again at long intervals."""

    exit_code = 3
