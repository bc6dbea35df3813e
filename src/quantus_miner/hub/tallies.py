"""What the miners of a hub have done, by worker name. The number of names is bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from quantus_miner.mining.rates import RateMeter
from quantus_miner.mining.stats import HubWorkerStats
from quantus_miner.wire.stratum import is_stale

MAX_WORKERS: Final = 1_000
"""Worker names with counts of their own. All others share those of OTHERS."""
WINDOW_S: Final = 900.0
"""Seconds over which the rate is averaged that a worker's shares prove."""
OTHERS: Final = "(others)"


@dataclass(slots=True)
class Tally:
    """The counts of one worker name. ``difficulty``: the last one that was given; 0: none yet."""

    name: str
    connections: int = 0
    difficulty: int = 0
    accepted: int = 0
    stale: int = 0
    rejected: int = 0
    blocks: int = 0
    work: int = 0
    accepted_at: float | None = None
    proven: RateMeter | None = None
    """Measures ``work``, from the first tick on."""


class Tallies:
    """All tallies, and the refusals by reason."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self.refusals: Counter[str] = Counter()

    def of(self, name: str) -> Tally:
        """Return the tally of a worker name, or that of OTHERS if there are too many names."""
        tally = self._tallies.get(name)
        if tally is None:
            if len(self._tallies) >= MAX_WORKERS and not self._make_room():
                name = OTHERS
            tally = self._tallies.setdefault(name, Tally(name))
        return tally

    def accept(self, tally: Tally, difficulty: int, now: float) -> None:
        """Count an accepted share of that difficulty."""
        tally.accepted += 1
        tally.work += difficulty
        tally.accepted_at = now

    def refuse(self, tally: Tally, reason: str, known: tuple[str, ...]) -> None:
        """Count a refused share. Reasons that are not ``known`` count as one, ``other``."""
        if is_stale(reason):
            tally.stale += 1
        else:
            tally.rejected += 1
        self.refusals[reason if reason in known else "other"] += 1

    def tick(self, now: float) -> None:
        """Sample the proven work. Called once a second."""
        for tally in self._tallies.values():
            if tally.proven is None:
                tally.proven = RateMeter(now, tally.work, WINDOW_S)
            tally.proven.sample(now, tally.work)

    def stats(self, now: float) -> tuple[HubWorkerStats, ...]:
        """Return a snapshot of each, in the order in which they came."""
        return tuple(
            HubWorkerStats(
                tally.name,
                tally.connections,
                tally.difficulty,
                tally.accepted,
                tally.stale,
                tally.rejected,
                tally.blocks,
                tally.work,
                None if tally.accepted_at is None else now - tally.accepted_at,
                0.0 if tally.proven is None else tally.proven.rate(now, tally.work),
            )
            for tally in self._tallies.values()
        )

    def _make_room(self) -> bool:
        """Forget a name that never had a share accepted and has no connection. Return False if there is none."""
        for name, tally in self._tallies.items():
            if name != OTHERS and not tally.connections and not tally.accepted:
                del self._tallies[name]
                return True
        return False
