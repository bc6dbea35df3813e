"""Which shares may be sent on a connection, and which wait for the pool's verdict. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob

MAX_PENDING: Final = 256
"""Shares that wait for a verdict at once."""
MAX_EARLIER: Final = 4
"""Jobs before the current one whose shares may still count."""
MAX_SHARES: Final = 10_000
"""Shares of one job; a pool that gets so many set its difficulty far too low."""


@dataclass(frozen=True, slots=True)
class PendingShare:
    """A share on its way. ``sent``: when."""

    job: LiveJob
    sent: float
    nonce: int


@dataclass(slots=True)
class _Sheet:
    """One job and the nonces that were sent for it."""

    job: LiveJob
    nonces: set[int] = field(default_factory=set)


class ShareBook:
    """Jobs of one connection by id, the current one last, and pending shares by request id, the oldest first."""

    def __init__(self) -> None:
        self._sheets: dict[str, _Sheet] = {}
        self._pending: dict[int, PendingShare] = {}

    @property
    def oldest_sent(self) -> float | None:
        """When the share was sent that has waited longest."""
        return next((share.sent for share in self._pending.values()), None)

    def take_job(self, job: LiveJob, *, clean: bool) -> LiveJob | None:
        """The job to work on from now on: ``job``, or the very one it repeats; None where that is current already.

        ``clean``: earlier jobs no longer count.
        """
        current = next(reversed(self._sheets.values()), None)
        # A job that comes again keeps what was sent for it: its nonces would be duplicates still.
        known = self._sheets.pop(job.id, None)
        if known is None:
            known = _Sheet(job)
        elif known.job != job:
            known = _Sheet(job, known.nonces)
        if clean:
            self._sheets.clear()
        elif len(self._sheets) > MAX_EARLIER:
            del self._sheets[next(iter(self._sheets))]
        self._sheets[job.id] = known
        return None if known is current else known.job

    def enter(self, request: int, job: LiveJob, nonce: int, now: float) -> bool:
        """Notes that a share is about to be sent; False where it must not be.

        A share must not be sent of a job that no longer counts, twice, or while too many wait.
        """
        sheet = self._sheets.get(job.id)
        if sheet is None or sheet.job is not job or nonce in sheet.nonces:
            return False
        if len(sheet.nonces) >= MAX_SHARES or len(self._pending) >= MAX_PENDING:
            return False
        sheet.nonces.add(nonce)
        self._pending[request] = PendingShare(job, now, nonce)
        return True

    def settle(self, request: int | str | None) -> PendingShare | None:
        """The share that a reply is about; None where it is about none, or came too late."""
        return self._pending.pop(request, None) if isinstance(request, int) else None

    def expire(self, before: float) -> list[PendingShare]:
        """Takes out what was sent at ``before`` or earlier."""
        late = [request for request, share in self._pending.items() if share.sent <= before]
        return [self._pending.pop(request) for request in late]
