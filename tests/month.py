"""A month of a mainnet with two pools, simulated: what ``Failover`` makes of it. No I/O, no clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from quantus_miner.sources.failover import Failover

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

DAY_S: Final = 86_400.0
BLOCK_S: Final = 12.0
SHARE_S: Final = 15.0
REPEAT_S: Final = 30.0
"""Between two times that the current job is sent again, and between two replies to keepalives."""
CONNECT_S: Final = 0.2
HANGING_CONNECT_S: Final = 10.0
SILENCE_S: Final = 90.0
VERDICT_S: Final = 30.0
STALE: Final = 0.01
"""Part of the shares that are stale though all is well."""


class Fault(Enum):
    """What is wrong with a pool for a while; and how often a day, and for how many seconds on average."""

    CLOSED = (2.0, 240.0)
    """Its connections end, and nobody listens."""
    HANGS = (0.3, 180.0)
    """Nothing comes from it any more, and nothing ends."""
    REFUSES_LOGINS = (1.0, 600.0)
    """It drops everybody, and refuses every login."""
    REFUSES_SHARES = (0.15, 2400.0)
    """Jobs come; every share is refused."""
    DROPS = (0.5, 600.0)
    """Every session ends a second after its first job."""
    BLIP = (6.0, 0.0)
    """It drops everybody once."""


@dataclass
class Pool:
    fault: Fault | None = None
    session: int = 0
    """Counts the connections, made and ended: what was planned for another one does not happen."""
    connected: bool = False
    trying: bool = False
    has_job: bool = False
    heard_at: float = 0.0


class Month:
    """Runs ``days`` days. ``mined``: seconds on a pool that accepts; ``possible``: seconds in which one did."""

    def __init__(self, random: Random, days: float) -> None:
        self.random = random
        self.end = days * DAY_S
        self.now = 0.0
        self.pools = (Pool(), Pool())
        self.failover = Failover(range(2), 0.0)
        self.mined = self.possible = 0.0
        self.switches = self.logins = self.faults = 0
        self.latest: int | None = None
        self.at_first = 0.0
        """Seconds on the first pool."""
        self.ticking = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    def run(self) -> None:
        self.after(self.random.expovariate(1 / BLOCK_S), self.block)
        self.after(REPEAT_S, self.repeat)
        self.after(self.random.expovariate(1 / SHARE_S), self.share)
        for index in range(2):
            for fault in Fault:
                self.after(self.random.expovariate(fault.value[0] / DAY_S), self.breaks(index, fault))
        self.look()
        while self._events[0][0] < self.end:
            at, _, happen = heapq.heappop(self._events)
            self.count(at)
            happen()
            # The first pool is mined and all is well: nothing to look at.
            if self.ticking or not self.calm:
                self.look()

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._planned += 1
        heapq.heappush(self._events, (self.now + seconds, self._planned, happen))

    def accepts(self, index: int) -> bool:
        return self.pools[index].fault in (None, Fault.BLIP)

    @property
    def calm(self) -> bool:
        """Whether time alone changes nothing: then the ticks are left out, to be quick."""
        return self.failover.current == 0 and len(self.failover.wanted) == 1 and self.pools[0].fault is None

    def count(self, at: float) -> None:
        current = self.failover.current
        passed, self.now = at - self.now, at
        if self.accepts(0) or self.accepts(1):
            self.possible += passed
            if current is not None and self.accepts(current) and self.pools[current].has_job:
                self.mined += passed
        if current == 0:
            self.at_first += passed

    def look(self) -> None:
        """What the source does after each event."""
        current = self.failover.current
        if current is not None and current != self.latest:
            self.switches += self.latest is not None
            self.latest = current
        for index, pool in enumerate(self.pools):
            if index not in self.failover.wanted:
                if pool.connected or pool.trying:
                    self.end_session(index)
                    self.failover.left(index, self.now)
            elif not pool.connected and not pool.trying and self.now >= self.failover.retry_at(index):
                self.connect(index)
        if not self.ticking and not self.calm:
            self.ticking = True
            self.after(1.0, self.tick)

    # --- the chain ---

    def tick(self) -> None:
        self.failover.update(self.now)
        for index, pool in enumerate(self.pools):
            if pool.connected and self.now - pool.heard_at >= SILENCE_S:
                self.drop(index)
        self.ticking = not self.calm
        if self.ticking:
            self.after(1.0, self.tick)

    def block(self) -> None:
        for index, pool in enumerate(self.pools):
            if pool.has_job and pool.fault is not Fault.HANGS:
                self.hear(index)
                self.failover.job(index, self.now)
        self.after(self.random.expovariate(1 / BLOCK_S), self.block)

    def repeat(self) -> None:
        for index, pool in enumerate(self.pools):
            if pool.connected and pool.fault is not Fault.HANGS:
                self.hear(index)
        self.after(REPEAT_S, self.repeat)

    def hear(self, index: int) -> None:
        self.pools[index].heard_at = self.now
        self.failover.heard(index, self.now)

    def share(self) -> None:
        index = self.failover.current
        if index is not None:
            self.validate(index)
        self.after(self.random.expovariate(1 / SHARE_S), self.share)

    def validate(self, index: int) -> None:
        pool, session = self.pools[index], self.pools[index].session
        if pool.fault is Fault.HANGS:
            self.after(VERDICT_S, lambda: self.refuse(index) if pool.session == session else None)
        elif self.accepts(index) and self.random.random() >= STALE:
            self.hear(index)
            self.failover.share_accepted(index, self.now)
        else:
            self.hear(index)
            self.refuse(index)

    def refuse(self, index: int) -> None:
        if self.failover.share_refused(index, self.now):
            self.drop(index)

    # --- connections ---

    def connect(self, index: int) -> None:
        pool = self.pools[index]
        pool.trying = True
        pool.session += 1
        session = pool.session
        takes = HANGING_CONNECT_S if pool.fault is Fault.HANGS else CONNECT_S
        self.after(takes, lambda: self.connected(index) if pool.session == session else None)

    def connected(self, index: int) -> None:
        pool = self.pools[index]
        pool.trying = False
        if pool.fault in (Fault.CLOSED, Fault.HANGS):
            self.drop(index)
        elif pool.fault is Fault.REFUSES_LOGINS:
            self.logins += 1
            pool.session += 1
            self.failover.login_refused(index, self.now, self.random.random())
            self.after(0.0, lambda: None)
        else:
            self.logins += 1
            pool.connected = pool.has_job = True
            self.hear(index)
            self.failover.job(index, self.now)
            if pool.fault is Fault.DROPS:
                self.drop_in(index, 1.0)

    def drop_in(self, index: int, seconds: float) -> None:
        pool, session = self.pools[index], self.pools[index].session
        self.after(seconds, lambda: self.drop(index) if pool.session == session else None)

    def drop(self, index: int) -> None:
        self.end_session(index)
        self.after(self.failover.lost(index, self.now, self.random.random()), lambda: None)

    def end_session(self, index: int) -> None:
        pool = self.pools[index]
        pool.session += 1
        pool.connected = pool.trying = pool.has_job = False

    # --- faults ---

    def breaks(self, index: int, fault: Fault) -> Callable[[], None]:
        """The fault comes, now and again; one at a time at each pool."""
        pool = self.pools[index]
        times_a_day, mean_s = fault.value

        def begin() -> None:
            self.after(self.random.expovariate(times_a_day / DAY_S), begin)
            if pool.fault is not None:
                return
            self.faults += index == 0
            if fault is not Fault.BLIP:
                pool.fault = fault
                self.after(self.random.expovariate(1 / mean_s), end)
            if pool.connected and fault not in (Fault.HANGS, Fault.REFUSES_SHARES):
                self.drop(index)

        def end() -> None:
            pool.fault = None

        return begin
