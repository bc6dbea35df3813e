"""The shares of one connection: which may be sent, and which wait for a verdict. No I/O; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob

MAX_PENDING: Final = 256
"""Most shares that wait for a verdict at the same time."""
MAX_EARLIER: Final = 4
"""Most earlier jobs whose shares may still count."""
MAX_SHARES: Final = 10_000
"""Most shares of one header. A pool that gets this many has set its difficulty far too low."""


@dataclass(frozen=True, slots=True)
class PendingShare:
    """A share that waits for its verdict. ``sent``: when it was sent."""

    job: LiveJob
    sent: float
    nonce: int


@dataclass(slots=True)
class _KnownJob:
    """A job, and the nonces that were sent for its header under any job id."""

    job: LiveJob
    nonces: set[int]


class ShareBook:
    """The jobs by id, the current one last, and the pending shares by request id, the oldest first."""

    def __init__(self) -> None:
        self._entries: dict[str, _KnownJob] = {}
        self._pending: dict[int, PendingShare] = {}

    @property
    def oldest_sent(self) -> float | None:
        """Return when the oldest pending share was sent, None if none is pending."""
        return next((share.sent for share in self._pending.values()), None)

    def take_job(self, job: LiveJob, *, clean: bool) -> LiveJob | None:
        """Return the job to work on from now on: ``job``, or the earlier one that it repeats. None if that is current.

        ``clean``: shares of earlier jobs no longer count.
        """
        current = next(reversed(self._entries.values()), None)
        # A nonce that was sent for a header is a duplicate, whatever else has changed in the job.
        header = next((entry.nonces for entry in self._entries.values() if entry.job.header == job.header), None)
        known = self._entries.pop(job.id, None)
        if known is None or known.job != job:
            known = _KnownJob(job, set() if header is None else header)
        if clean:
            self._entries.clear()
        elif len(self._entries) > MAX_EARLIER:
            del self._entries[next(iter(self._entries))]
        self._entries[job.id] = known
        return None if known is current else known.job

    def enter(self, request: int, job: LiveJob, nonce: int, now: float) -> bool:
        """Record that a share is about to be sent. Return False if it must not be.

        That is so if its job no longer counts, if it was sent before, or if too many wait for a verdict.
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
        """Remove and return the share that a reply is for. None if there is none, or if the reply came too late."""
        return self._pending.pop(request, None) if isinstance(request, int) else None

    def expire(self, before: float) -> list[PendingShare]:
        """Remove and return the shares that were sent at ``before`` or earlier."""
        late = [request for request, share in self._pending.items() if share.sent <= before]
        return [self._pending.pop(request) for request in late]
