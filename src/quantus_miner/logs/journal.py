"""journald's native protocol (systemd's page "Native Journal Protocol"): an entry with fields is one datagram."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET: Final = "/run/systemd/journal/socket"
SEND_S: Final = 1.0
"""Seconds to wait until journald has room for an entry."""
DRAIN_PAUSE_S: Final = 0.001
"""Seconds between two looks at what journald has not read yet."""


def encode(fields: Mapping[str, str]) -> bytes:
    """Return an entry as a datagram. Names are capital letters, digits and underscores, and begin with a letter."""
    parts = []
    for name, value in fields.items():
        key, data = name.encode("ascii"), value.encode("utf-8", "backslashreplace")
        if value.isprintable():
            parts.append(b"%b=%b\n" % (key, data))
        else:  # with its length before it, so that a line end within it does not begin another field
            parts.append(b"%b\n%b%b\n" % (key, struct.pack("<Q", len(data)), data))
    return b"".join(parts)


class Journal:
    """The socket of journald at ``path``, connected when the first entry is sent. For use by one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, datagram: bytes) -> bool:
        """Send an entry within SEND_S. Return False if that fails; the next call tries again."""
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.send(datagram)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                self.close()
            return False
        return True

    def drain(self, timeout_s: float) -> None:
        """Wait until journald has read all entries: only then does it know the unit of a process that ends."""
        end = time.monotonic() + timeout_s
        nothing = struct.pack("i", 0)
        with contextlib.suppress(OSError):  # a kernel that cannot tell
            while self._socket is not None and fcntl.ioctl(self._socket, termios.TIOCOUTQ, nothing) != nothing:
                if time.monotonic() > end:
                    return
                time.sleep(DRAIN_PAUSE_S)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.settimeout(SEND_S)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock


def reads(stream: TextIO | None) -> bool:
    """Return True if ``stream`` is the one that JOURNAL_STREAM names, as ``device:inode`` (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno() if stream else -1)
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
