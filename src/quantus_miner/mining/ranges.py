"""What is left to search of a job."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from quantus_miner.model import NonceRange

if TYPE_CHECKING:
    from collections.abc import Iterable


class NonceRanges:
    """Positions that nobody has taken yet, in the order in which they are to be searched.

    Every position that is taken and not given back is gone: none is handed out twice, none is left out.
    """

    def __init__(self, ranges: Iterable[NonceRange]) -> None:
        self._ranges = deque(ranges)
        self.size = sum(piece.size for piece in self._ranges)

    @property
    def left(self) -> tuple[NonceRange, ...]:
        """The positions, in order."""
        return tuple(self._ranges)

    def take(self, count: int) -> tuple[int, int]:
        """Start and number of the next positions: ``count`` (>= 1) of them, or fewer at the end of a range.

        Raises IndexError when nothing is left.
        """
        first = self._ranges.popleft()
        taken = min(count, first.size)
        if taken < first.size:
            self._ranges.appendleft(NonceRange(first.start + taken, first.end))
        self.size -= taken
        return first.start, taken

    def give_back(self, start: int, count: int) -> None:
        """``count`` (>= 1) positions from ``start`` on were taken and not searched; they come next."""
        self._ranges.appendleft(NonceRange(start, start + count - 1))
        self.size += count
