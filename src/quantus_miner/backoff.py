"""How long to wait before trying again. The clock and the randomness are the caller's."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 1.0
MAX_S: Final = 30.0
JITTER: Final = 0.25
"""Largest random part of a wait that is left out, so that the miners of a pool do not all come back at once."""


class Backoff:
    """Waits that double from ``first_s`` to ``max_s`` seconds. ``spread``: the largest part left out; 1 is the most."""

    def __init__(self, first_s: float = FIRST_S, max_s: float = MAX_S, *, spread: float = JITTER) -> None:
        self._first_s = self._next_s = first_s
        self._max_s = max_s
        self._spread = spread

    def wait_s(self, jitter: float) -> float:
        """Return the seconds to wait now. ``jitter``: drawn evenly from 0 to 1."""
        wait, self._next_s = self._next_s, min(self._max_s, 2 * self._next_s)
        return wait * (1 - self._spread * jitter)

    def reset(self) -> None:
        """Begin again at the shortest wait."""
        self._next_s = self._first_s
