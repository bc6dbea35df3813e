"""Which shares may be sent on a connection, and which wait for the pool's verdict. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob

MAX_PENDING: Final = 256
"""Shares that wait for a verdict at once."""
MAX_EARLIER: Final = 4
"""Jobs before the current one whose shares may still count."""
MAX_SHARES: Final = 10_000
"""Shares of one header; a pool that gets so many set its difficulty far too low."""


@dataclass(frozen=True, slots=True)
class PendingShare:
    """A share on its way. ``sent``: when."""

    job: LiveJob
    sent: float
    nonce: int


@dataclass(slots=True)
class _Entry:
    """One job and the nonces that were sent for its header, under whatever ids that came."""

    job: LiveJob
    nonces: set[int]


class ShareBook:
    """Jobs of one connection by id, the current one last, and pending shares by request id, the oldest first."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._pending: dict[int, PendingShare] = {}

    @property
    def oldest_sent(self) -> float | None:
        """When the share was sent that has waited longest."""
        return next((share.sent for share in self._pending.values()), None)

    def take_job(self, job: LiveJob, *, clean: bool) -> LiveJob | None:
        """The job to work on from now on: ``job``, or the very one it repeats; None where that is current already.

        ``clean``: earlier jobs no longer count.
        """
        current = next(reversed(self._entries.values()), None)
        # A nonce that was sent for a header would be a duplicate, whatever else of the job has changed.
        header = next((entry.nonces for entry in self._entries.values() if entry.job.header == job.header), None)
        known = self._entries.pop(job.id, None)
        if known is None or known.job != job:
            known = _Entry(job, set() if header is None else header)
        if clean:
            self._entries.clear()
        elif len(self._entries) > MAX_EARLIER:
            del self._entries[next(iter(self._entries))]
        self._entries[job.id] = known
        return None if known is current else known.job

    def enter(self, request: int, job: LiveJob, nonce: int, now: float) -> bool:
        """Notes that a share is about to be sent; False where it must not be.

        A share must not be sent of a job that no longer counts, twice, or while too many wait.
        """
        entry = self._entries.get(job.id)
        if entry is None or entry.job is not job or nonce in entry.nonces:
            return False
        if len(entry.nonces) >= MAX_SHARES or len(self._pending) >= MAX_PENDING:
            return False
        entry.nonces.add(nonce)
        self._pending[request] = PendingShare(job, now, nonce)
        return True

    def settle(self, request: int | str | None) -> PendingShare | None:
        """The share that a reply is about; None where it is about none, or came too late."""
        return self._pending.pop(request, None) if isinstance(request, int) else None

    def expire(self, before: float) -> list[PendingShare]:
        """Takes out what was sent at ``before`` or earlier."""
        late = [request for request, share in self._pending.items() if share.sent <= before]
        return [self._pending.pop(request) for request in late]
