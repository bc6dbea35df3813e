"""A budget for what a peer sends, which refills with time. No I/O; times in seconds."""

from __future__ import annotations


class Allowance:
    """At most ``most`` at once, and ``per_s`` a second on average."""

    __slots__ = ("_left", "_most", "_per_s", "_refilled")

    def __init__(self, most: float, per_s: float, now: float) -> None:
        self._left = self._most = most
        self._per_s = per_s
        self._refilled = now

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount``. Return False, and take nothing, if there is less."""
        self._left = min(self._most, self._left + (now - self._refilled) * self._per_s)
        self._refilled = now
        if self._left < amount:
            return False
        self._left -= amount
        return True
