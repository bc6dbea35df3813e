"""The times of the week at which to mine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import datetime as dt

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MINUTES: Final = 24 * 60
_SPAN: Final = re.compile(
    rf"(?:({'|'.join(DAYS)})(?:-({'|'.join(DAYS)}))? )?([0-9]{{2}}):([0-9]{{2}})-([0-9]{{2}}):([0-9]{{2}})"
)
ALLOWED: Final = 'times such as 22:00-06:00, or "Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00"'


class Span(NamedTuple):
    """From minute ``start`` until minute ``end`` of the day, on ``days`` (0: Monday). Past midnight if end < start."""

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The spans in which to mine. ``text``: as the user wrote them."""

    text: str
    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return self.text

    def includes(self, time: dt.datetime) -> bool:
        """Return True if it is time to mine at ``time``, by the local clock."""
        day, minute = time.weekday(), time.hour * 60 + time.minute
        return any(
            (day in days and start <= minute < (end if start < end else DAY_MINUTES))
            or ((day - 1) % len(DAYS) in days and minute < end < start)
            for days, start, end in self.spans
        )


def parse_schedule(text: str) -> Schedule:
    """Return the schedule of a comma list of spans. Raises ValueError that says what is allowed."""
    parts = [part.strip() for part in text.split(",")]
    return Schedule(", ".join(parts), tuple(map(_span, parts)))


def _span(text: str) -> Span:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(ALLOWED)
    first, last, *numbers = match.groups()
    start_hour, start_minute, end_hour, end_minute = map(int, numbers)
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= DAY_MINUTES or end > DAY_MINUTES or start == end:
        raise ValueError(f"{ALLOWED}; from 00:00 to 24:00, and each span ends later than it begins or past midnight")
    if first is None:
        return Span(frozenset(range(len(DAYS))), start, end)
    from_day, to_day = DAYS.index(first), DAYS.index(last or first)
    length = (to_day - from_day) % len(DAYS) + 1
    return Span(frozenset((from_day + number) % len(DAYS) for number in range(length)), start, end)
