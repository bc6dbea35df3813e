"""Notify the service manager of the state of the service, see sd_notify(3) and sd_watchdog_enabled(3)."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS_S: Final = 15.0
"""Seconds between two status lines without a watchdog."""


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` names, if there is one.

    ``exists``: True if there is one, so a service manager has started us. ``watchdog``: True if the manager expects
    signs of life from this process. ``interval_s``: seconds between two of them, half of what the manager allows;
    without a watchdog, between two status lines.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for an abstract socket, whose name begins with a NUL. Others (vsock) are not supported.
        self._address = "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        self.exists = bool(self._address)
        allowed = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = bool(self._address) and ours and bool(re.fullmatch(r"[1-9][0-9]{0,18}", allowed))
        self.interval_s = int(allowed) / 2e6 if self.watchdog else STATUS_S

    def send(self, *assignments: str) -> None:
        """Send assignments of sd_notify(3), such as ``READY=1``, in one message. Never raises or blocks.

        A line end within one does not begin another: a status may contain text from peers.
        """
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(map(printable, assignments)).encode(), self._address)
