"""Which hub of a cluster leads. No I/O.

The hubs share one key on the NATS servers, the lease. Whoever leads writes it again and again; the servers accept a
write only if it names the revision that it replaces. A standby takes the lease once it has seen the same revision for
LEASE_S. A leader acts for VALID_S, counted from before its last write, which is shorter: so it has stopped before
another one can begin. Only spans of a clock that never jumps matter, never its time of day or that of another machine.
"""

from __future__ import annotations

import math
from typing import Final

RENEW_S: Final = 0.5
"""Seconds between two writes of the leader."""
LOOK_S: Final = 0.25
"""Seconds between two looks of a standby."""
VALID_S: Final = 2.0
"""Seconds for which a leader acts after it began its last write."""
LEASE_S: Final = 3.0
"""Seconds for which a standby has to see the same revision."""
GAP_S: Final = 1.0
"""Seconds between two looks after which a standby begins anew: the servers may have lost the lease between them, and
have the same revision again."""


class Lease:
    """One hub's view of the lease. Times are seconds of a monotonic clock that also counts while the machine sleeps.

    ``holder``: the name of this hub, which no other one has. ``revision``: the last one seen; 0: there was no lease.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.revision = 0
        self.valid_until = -math.inf
        self._held_by = "?"
        self._seen_at = self._looked_at = math.inf

    def leads(self, now: float) -> bool:
        """Return True if this hub may act as the leader."""
        return now < self.valid_until

    def saw(self, revision: int, held_by: str, now: float) -> None:
        """Note what the servers have. ``held_by``: empty if the last leader has given it up."""
        if (revision, held_by) != (self.revision, self._held_by) or now > self._looked_at + GAP_S:
            self.revision, self._held_by, self._seen_at = revision, held_by, now
        self._looked_at = now

    def may_write(self, now: float) -> bool:
        """Return True if this hub may write the lease, replacing ``revision``: it is its own, given up, or over."""
        ours = self._held_by in (self.holder, "") and self.revision > 0
        return ours or now >= self._seen_at + LEASE_S

    @property
    def held_by_another(self) -> bool:
        """Return True if another hub holds it, as far as this one has seen."""
        return self.revision > 0 and self._held_by not in (self.holder, "")

    def wrote(self, revision: int, began: float) -> None:
        """Note a write that the servers have accepted. ``began``: the time before it was sent."""
        self.revision, self._held_by, self._seen_at = revision, self.holder, began
        self.valid_until = began + VALID_S

    def end(self) -> None:
        """Stop leading: another hub has written it, or this one gives it up."""
        self.valid_until = -math.inf
