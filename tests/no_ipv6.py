"""A system without IPv6, for the tests of whatever makes sockets."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets socket() refuse AF_INET6, as a kernel that was booted with ipv6.disable=1."""

    class Socket(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **options)

    monkeypatch.setattr(socket, "socket", Socket)
