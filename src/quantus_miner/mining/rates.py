"""Hash rates: counts divided by wall time until now. A rate therefore falls when nothing more is counted."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from quantus_miner.model import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping

K = TypeVar("K")

WINDOWS_S: Final = (10.0, 60.0, 900.0)
"""Seconds that rates are averaged over. Rates of single jobs use only the first."""
SAMPLES: Final = 15
"""Samples per window. An average may cover more than its window, by one part in SAMPLES and one tick."""


class RateMeter:
    """Moving average of a growing count over ``window_s`` seconds, in constant memory. ``count``: its first value."""

    def __init__(self, now: float, count: int = 0, window_s: float = WINDOWS_S[0]) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque([(now, count)])

    @classmethod
    def after_rest(cls, now: float, count: int) -> RateMeter:
        """Return one as if it had sampled ``count`` for a whole window."""
        meter = cls(now - WINDOWS_S[0], count)
        meter._samples += [(now - WINDOWS_S[0] * (1 - part / SAMPLES), count) for part in range(1, SAMPLES + 1)]
        return meter

    def rests(self, now: float, count: int) -> bool:
        """Return True if nothing was counted in the window."""
        return self.average(now, count) == 0

    def sample(self, now: float, count: int) -> None:
        """Remember the count. Call it about once a second."""
        samples = self._samples
        if now - samples[-1][0] >= self._window_s / SAMPLES:
            samples.append((now, count))
        while len(samples) > 1 and samples[1][0] <= now - self._window_s:
            samples.popleft()

    def rate(self, now: float, count: int) -> float:
        """Return the average per second over the window, or since the start if the window is not full yet."""
        then, before = self._samples[0]
        return (count - before) / (now - then) if now > then else 0.0

    def average(self, now: float, count: int) -> float | None:
        """Return the average per second over the window, or None if the window is not full yet."""
        return self.rate(now, count) if now - self._samples[0][0] >= self._window_s else None


class WindowMeter:
    """All rates of one growing count."""

    def __init__(self, now: float, count: int) -> None:
        self._meters = tuple(RateMeter(now, count, window_s) for window_s in WINDOWS_S)
        self._last = count
        self._highest: float | None = None

    def fits(self, count: int) -> bool:
        """Return False if ``count`` is below the last sample, which means that it counts something else."""
        return count >= self._last

    def sample(self, now: float, count: int) -> None:
        """Remember the count. Call it about once a second."""
        self._last = count
        for meter in self._meters:
            meter.sample(now, count)
        average = self._meters[0].average(now, count)
        if average is not None:
            self._highest = average if self._highest is None else max(self._highest, average)

    def rates(self, now: float, count: int) -> Rates:
        """Return the rates until now."""
        current = self._meters[0].rate(now, count)
        ten, sixty, quarter = (meter.average(now, count) for meter in self._meters)
        return Rates(current, ten, sixty, quarter, self._highest)


class RateBook(Generic[K]):
    """The rates of many counts by key. A key that is missing is forgotten; a count that falls begins anew."""

    def __init__(self) -> None:
        self._meters: dict[K, WindowMeter] = {}

    def measure(self, now: float, counts: Mapping[K, int], *, sample: bool) -> dict[K, Rates]:
        """Return the rates of ``counts`` until now. ``sample``: also remember the counts, about once a second."""
        for key in self._meters.keys() - counts.keys():
            del self._meters[key]
        for key, count in counts.items():
            if (meter := self._meters.get(key)) is None or not meter.fits(count):
                self._meters[key] = WindowMeter(now, count)
            elif sample:
                meter.sample(now, count)
        return {key: self._meters[key].rates(now, count) for key, count in counts.items()}
