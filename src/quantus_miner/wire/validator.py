"""The pool's judgement of one miner's shares. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantus_miner import pow as reference
from quantus_miner.model import LiveJob, Pow
from quantus_miner.wire import stratum

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantus_miner.wire.stratum_pool import ShareCame

MAX_EARLIER: Final = 8
"""Earlier jobs whose shares still count, as long as no job came with ``clean_jobs``."""
MAX_STALE: Final = 64
"""Jobs that no longer count but whose ids are still known."""
MAX_SHARES: Final = 10_000
"""Shares of one header that are taken from one miner. Its difficulty is far too low if there are more."""

STALE: Final = "Stale share"
UNKNOWN_JOB: Final = "Invalid job id"
BAD_NONCE: Final = "Invalid nonce"
DUPLICATE: Final = "duplicate share"
BAD_RESULT: Final = "Invalid result"
LOW: Final = "Low difficulty share"
TOO_MANY: Final = "Too many shares"
REFUSALS: Final = (STALE, UNKNOWN_JOB, BAD_NONCE, DUPLICATE, BAD_RESULT, LOW, TOO_MANY)


@dataclass(frozen=True, slots=True)
class Share:
    """A share that counts. ``value``: the hash of ``nonce``."""

    job: LiveJob
    nonce: int
    value: int


@dataclass(frozen=True, slots=True)
class _Given:
    """A job that the miner got, and the nonces that it has sent for its header under any job id."""

    job: LiveJob
    nonces: set[int]


def is_hash(header: bytes, nonce: int, value: int) -> bool:
    """Return True if ``value`` is the hash of ``nonce``, by the reference."""
    return reference.evaluate(Pow.POSEIDON2, header, nonce) == value


class ShareValidator:
    """The jobs that one miner got, and the shares that it sent for them.

    ``confirm``: like ``is_hash``; a pool with many miners needs a faster one.
    """

    def __init__(self, confirm: Callable[[bytes, int, int], bool] = is_hash) -> None:
        self._confirm = confirm
        self._given: dict[str, _Given] = {}
        self._stale: deque[str] = deque(maxlen=MAX_STALE)

    def give(self, job: LiveJob, *, clean: bool) -> None:
        """Make ``job`` the miner's next one. ``clean``: earlier ones no longer count."""
        nonces = next((given.nonces for given in self._given.values() if given.job.header == job.header), None)
        self._given.pop(job.id, None)
        if clean:
            self._stale.extend(self._given)
            self._given.clear()
        elif len(self._given) > MAX_EARLIER:
            oldest = next(iter(self._given))
            del self._given[oldest]
            self._stale.append(oldest)
        self._given[job.id] = _Given(job, set() if nonces is None else nonces)

    def validate(self, share: ShareCame) -> Share | str:
        """Return the share, or why it is refused."""
        given = self._given.get(share.job_id)
        if given is None:
            return STALE if share.job_id in self._stale else UNKNOWN_JOB
        job, nonces = given.job, given.nonces
        raw = stratum.from_hex(share.nonce, 64)
        if raw is None or not raw.startswith(job.prefix) or not any(raw):
            return BAD_NONCE
        nonce = int.from_bytes(raw)
        if nonce in nonces:
            return DUPLICATE
        if len(nonces) >= MAX_SHARES:
            return TOO_MANY
        claimed = stratum.from_hex(share.result, 64)
        if claimed is None or not self._confirm(job.header, nonce, int.from_bytes(claimed)):
            return BAD_RESULT
        value = int.from_bytes(claimed)
        if value > job.target:
            return LOW
        nonces.add(nonce)
        return Share(job, nonce, value)
