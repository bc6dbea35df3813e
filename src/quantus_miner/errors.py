"""Errors that end in one clear line for the user, never in a traceback."""


class MinerError(Exception):
    """Base of all errors of this package; ``str()`` is one line fit for a user."""

    exit_code = 1


class SettingError(MinerError):
    """A setting has a value that is not allowed; names the setting, its source and what is allowed."""

    exit_code = 2


class EngineUnavailableError(MinerError):
    """An engine cannot run on this machine; says why and what to use instead."""


class DeviceLostError(MinerError):
    """A device of an engine has failed; it may come back."""


class LinkLostError(MinerError):
    """A connection to a live source ended or could not be made; it is tried again."""


class LinkRefusedError(MinerError):
    """A live source will never take us as we are set up: trying again is of no use."""

    exit_code = 3
