"""Validates the shares of one miner of a development pool, and adjusts their difficulty.

No I/O; times in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantus_miner import pow as reference
from quantus_miner.model import LiveJob, Pow
from quantus_miner.wire import stratum

if TYPE_CHECKING:
    from quantus_miner.wire.stratum_pool import ShareCame

MAX_EARLIER: Final = 8
"""Earlier jobs whose shares still count, as long as no job came with ``clean_jobs``."""
MAX_STALE: Final = 64
"""Jobs that no longer count but whose ids are still known."""
RETARGET_SHARES: Final = 8
RETARGET_SHARE_TIMES: Final = 10
"""Shares, or share times with fewer shares, after which the difficulty is adjusted."""
MAX_RETARGET: Final = 4.0
"""Largest factor of a change."""
CLOSE_ENOUGH: Final = 1.25
"""A smaller factor does not change the difficulty."""

STALE: Final = "Stale share"
UNKNOWN_JOB: Final = "Invalid job id"
BAD_NONCE: Final = "Invalid nonce"
DUPLICATE: Final = "duplicate share"
BAD_RESULT: Final = "Invalid result"
LOW: Final = "Low difficulty share"


@dataclass(frozen=True, slots=True)
class Share:
    """A share that counts. ``value``: the hash of ``nonce``."""

    job: LiveJob
    nonce: int
    value: int


class ShareValidator:
    """The jobs that one miner got, and the shares that it sent for them. ``extranonce``: 4 bytes."""

    def __init__(self, extranonce: bytes) -> None:
        self._extranonce = extranonce
        self._jobs: dict[str, LiveJob] = {}
        self._stale: deque[str] = deque(maxlen=MAX_STALE)
        self._seen: set[tuple[str, int]] = set()

    def give(self, job_id: str, header: bytes, difficulty: int, *, clean: bool) -> LiveJob:
        """Return the miner's next job. ``clean``: earlier ones no longer count."""
        job = LiveJob(job_id, header, difficulty, self._extranonce)
        if clean:
            self._stale.extend(self._jobs)
            self._jobs.clear()
            self._seen.clear()
        elif len(self._jobs) > MAX_EARLIER:
            oldest = next(iter(self._jobs))
            del self._jobs[oldest]
            self._stale.append(oldest)
        self._jobs[job.id] = job
        return job

    def validate(self, share: ShareCame) -> Share | str:
        """Return the share, or why it is refused."""
        job = self._jobs.get(share.job_id)
        if job is None:
            return STALE if share.job_id in self._stale else UNKNOWN_JOB
        raw = stratum.from_hex(share.nonce, 64)
        if raw is None or not raw.startswith(self._extranonce) or not any(raw):
            return BAD_NONCE
        nonce = int.from_bytes(raw)
        if (job.id, nonce) in self._seen:
            return DUPLICATE
        value = reference.evaluate(Pow.POSEIDON2, job.header, nonce)
        if stratum.from_hex(share.result, 64) != value.to_bytes(64):
            return BAD_RESULT
        if value > job.target:
            return LOW
        self._seen.add((job.id, nonce))
        return Share(job, nonce, value)


class Vardiff:
    """The difficulty at which a miner finds one share each ``share_time`` seconds."""

    def __init__(self, difficulty: int, share_time: float, now: float) -> None:
        self.difficulty = difficulty
        self._share_time = share_time
        self._since = now
        self._shares = 0

    def count(self) -> None:
        """Count an accepted share."""
        self._shares += 1

    def adjust(self, now: float) -> bool:
        """Retarget if due. Return True if the difficulty changed."""
        seconds = now - self._since
        if self._shares < RETARGET_SHARES and seconds < RETARGET_SHARE_TIMES * self._share_time:
            return False
        factor = min(max(self._shares * self._share_time / max(seconds, 1e-3), 1 / MAX_RETARGET), MAX_RETARGET)
        self._since, self._shares = now, 0
        if 1 / CLOSE_ENOUGH < factor < CLOSE_ENOUGH:
            return False
        before, self.difficulty = self.difficulty, max(1, int(self.difficulty * factor))
        return self.difficulty != before
