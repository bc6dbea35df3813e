"""What is known of the watched miner, and how old that is."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.errors import printable
from quantus_miner.wire.status import Status

if TYPE_CHECKING:
    from quantus_miner.wire.hub_status import HubStatus

OLD_S: Final = 5.0
"""Seconds after which figures are old."""
MAX_HISTORY: Final = 3_600
"""Rates that are kept, one a second."""


class Watch:
    """The last status of the miner at ``url``. ``now`` is in seconds, of a clock that never goes back."""

    def __init__(self, url: str, now: float) -> None:
        self.status: Status | HubStatus | None = None
        self.rates: deque[float] = deque(maxlen=MAX_HISTORY)
        """Nonces a second since the start, one for each call. 0: no answer."""
        self._url = printable(url)
        self._at = now  # of the last status, before the first: of the start
        self._error = ""

    def on_status(self, status: Status | HubStatus, now: float) -> None:
        """Take over what the miner answered."""
        self.status, self._at, self._error = status, now, ""
        rates = status.hash_rate if isinstance(status, Status) else status.totals.hash_rate
        self.rates.append(max(rates.current, 0.0))

    def on_error(self, message: str) -> None:
        """Keep why there was no answer."""
        self._error = message
        self.rates.append(0.0)

    def is_old(self, now: float) -> bool:
        """Return True if the figures are old, or if there are none."""
        return self.status is None or now - self._at > OLD_S

    def notice(self, now: float) -> str:
        """Return why there are no new figures, and how old the last ones are. Empty if they are new."""
        age = units.duration(now - self._at)
        if self._error:
            return self._error if self.status is None else f"{self._error}; these figures are {age} old"
        if now - self._at > OLD_S:
            return f"the miner at {self._url} has not answered for {age}"
        return f"connecting to {self._url}" if self.status is None else ""
