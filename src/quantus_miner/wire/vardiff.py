"""Variable difficulty: the share difficulty that suits a miner's speed. No I/O; times in seconds."""

from __future__ import annotations

from typing import Final

RETARGET_SHARES: Final = 8
RETARGET_SHARE_TIMES: Final = 10
"""Shares, or share times with fewer shares, after which the difficulty is adjusted."""
MAX_RETARGET: Final = 4.0
"""Largest factor of a change."""
CLOSE_ENOUGH: Final = 1.25
"""A smaller factor does not change the difficulty."""


class Vardiff:
    """The difficulty at which a miner finds one share each ``share_time`` seconds."""

    def __init__(self, difficulty: int, share_time: float, now: float) -> None:
        self.difficulty = difficulty
        self.share_time = share_time
        self._since = now
        self._shares = 0

    def count(self) -> None:
        """Count an accepted share."""
        self._shares += 1

    def adjust(self, now: float) -> bool:
        """Retarget if due. Return True if the difficulty changed."""
        seconds = now - self._since
        if self._shares < RETARGET_SHARES and seconds < RETARGET_SHARE_TIMES * self.share_time:
            return False
        factor = min(max(self._shares * self.share_time / max(seconds, 1e-3), 1 / MAX_RETARGET), MAX_RETARGET)
        self._since, self._shares = now, 0
        if 1 / CLOSE_ENOUGH < factor < CLOSE_ENOUGH:
            return False
        before, self.difficulty = self.difficulty, max(1, int(self.difficulty * factor))
        return self.difficulty != before
