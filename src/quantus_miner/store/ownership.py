"""The lock that makes a process the owner of the database file."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from quantus_miner.host.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

LOCK_BYTE: Final = 2**62
"""The byte of the file that its owner locks. SQLite locks bytes from 2^30 on, so other processes can still read."""


class LockedError(Exception):
    """Another process owns the file."""

    def __init__(self) -> None:
        super().__init__("another miner uses it")


def take(path: Path) -> int:
    """Open the file, lock it for this process, and return its descriptor. Creates the file if it is missing.

    Raises OSError or LockedError.
    """
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor)
        opened = os.fstat(descriptor)
        if identity(path) != (opened.st_dev, opened.st_ino):
            raise LockedError  # noqa: TRY301 - its owner was just setting it aside
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    # The lock belongs to this open file, not to the process: closing another descriptor does not release it.
    write_lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, LOCK_BYTE, 1, 0)
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, write_lock)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # This system has no such locks, for example gVisor.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise LockedError from None


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, or None if it cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
