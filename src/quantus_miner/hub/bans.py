"""Ban addresses that send mostly bad shares, break the protocol, or come and go. No I/O; times in seconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60.0
"""Seconds over which what an address does is counted."""
MAX_BAD: Final = 30
"""Points in one window for which an address is banned, if it has sent fewer good shares than that."""
BREACH: Final = 5
"""Points for a breach of the protocol. A bad share is one point."""
CHURN: Final = 0.125
"""Points for a connection whose miner leaves at once. Programs that only look whether a port is open do that, too."""
BAN_S: Final = 600.0
"""Seconds that a ban lasts."""
MAX_ADDRESSES: Final = 10_000
"""Addresses that are remembered. The one that was seen longest ago is forgotten first."""


@dataclass(slots=True)
class _Record:
    since: float
    good: int = 0
    bad: float = 0.0
    banned_until: float = 0.0


class Bans:
    """What addresses did in the last minute, and which of them are banned.

    Many miners may share an address, so a few bad shares among many good ones ban nobody.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def is_banned(self, address: str, now: float) -> bool:
        """Return True if connections from ``address`` are refused."""
        record = self._records.get(address)
        return record is not None and now < record.banned_until

    def good(self, address: str, now: float) -> None:
        """Count a share that is valid."""
        self._record(address, now).good += 1

    def bad(self, address: str, now: float, points: float = 1.0) -> bool:
        """Count something bad. Return True if ``address`` is banned from now on, and was not before."""
        record = self._record(address, now)
        record.bad += points
        if record.bad < MAX_BAD or record.bad <= record.good or now < record.banned_until:
            return False
        record.banned_until = now + BAN_S
        return True

    def count(self, now: float) -> int:
        """Return the number of banned addresses."""
        return sum(now < record.banned_until for record in self._records.values())

    def _record(self, address: str, now: float) -> _Record:
        record = self._records.get(address)
        if record is None:
            record = self._records[address] = _Record(now)
            if len(self._records) > MAX_ADDRESSES:
                self._records.popitem(last=False)
        elif now >= record.since + WINDOW_S:
            record.since, record.good, record.bad = now, 0, 0.0
        self._records.move_to_end(address)
        return record
