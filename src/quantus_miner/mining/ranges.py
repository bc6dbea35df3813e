"""The positions of a job that are still to be searched."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from quantus_miner.model import NonceRange

if TYPE_CHECKING:
    from collections.abc import Iterable


class NonceRanges:
    """Positions that no worker has taken yet, in search order.

    Every position is handed out exactly once, unless it is given back.
    """

    def __init__(self, ranges: Iterable[NonceRange]) -> None:
        self._ranges = deque(ranges)
        self.size = sum(piece.size for piece in self._ranges)

    @property
    def left(self) -> tuple[NonceRange, ...]:
        """The positions, in order."""
        return tuple(self._ranges)

    def take(self, count: int) -> tuple[int, int]:
        """Take ``count`` (>= 1) positions, or fewer at the end of a range. Return the first one and their number.

        Raises IndexError if nothing is left.
        """
        first = self._ranges.popleft()
        taken = min(count, first.size)
        if taken < first.size:
            self._ranges.appendleft(NonceRange(first.start + taken, first.end))
        self.size -= taken
        return first.start, taken

    def give_back(self, start: int, count: int) -> None:
        """Give back ``count`` (>= 1) positions from ``start`` on that were not searched. They come next."""
        self._ranges.appendleft(NonceRange(start, start + count - 1))
        self.size += count
