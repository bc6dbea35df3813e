"""How long to wait before a connection is tried again. No clock, no dice: both are the caller's."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 1.0
MOST_S: Final = 30.0


class Backoff:
    """1, 2, 4 … 30 seconds, each less up to a quarter, so that many miners of one node do not come back together."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def wait_s(self, dice: float) -> float:
        """Seconds to wait now; ``dice`` from 0 to 1, evenly."""
        waited, self._next_s = self._next_s, min(MOST_S, 2 * self._next_s)
        return waited * (1 - dice / 4)

    def reset(self) -> None:
        """The connection was of use: begin again at the shortest."""
        self._next_s = FIRST_S
