"""Check what engines find: at once with a second native implementation, and later with the reference in Python."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner import native
from quantus_miner import pow as reference
from quantus_miner.model import Pow, Solution

if TYPE_CHECKING:
    from quantus_miner.backends.base import Engine
    from quantus_miner.model import Job

log = logging.getLogger("miner")

MAX_WAITING: Final = 60
"""Solutions that wait for the reference. If more come, the oldest are not checked again."""


def hash_again(pow_: Pow, header: bytes, nonce: int) -> int:
    """Return the hash of ``nonce`` by code that shares nothing with the kernels.

    It takes a twentieth of the time that the reference takes. For qpow-sha3 it is the reference, which calls native
    code for its large powers.
    """
    if pow_ is Pow.POSEIDON2:
        return native.poseidon2_hash(header, nonce)
    return reference.evaluate(pow_, header, nonce)


def confirm(engine: Engine, job: Job, nonce: int) -> Solution | None:
    """Return the solution for a hit of ``engine``, or None if the hit is not valid."""
    value = hash_again(job.pow, job.header, nonce)
    if nonce != 0 and value <= job.target:
        return Solution(nonce, value)
    log.error(
        "Engine %s (kernel %s) reported nonce %x for job %r, which is not valid; dropped",
        engine.name,
        engine.kernel(job.pow),
        nonce,
        job.id,
        extra={"job": job.id},
    )
    return None


class _Confirmed(NamedTuple):
    job: Job
    solution: Solution


class Recheck:
    """Solutions that the reference hashes once more after they were sent, one at a time. Any thread may use it."""

    def __init__(self) -> None:
        self._waiting: deque[_Confirmed] = deque(maxlen=MAX_WAITING)

    def add(self, job: Job, solution: Solution) -> None:
        """Have ``solution`` checked again. Does nothing for qpow-sha3, which the reference has checked already."""
        if job.pow is Pow.POSEIDON2:
            self._waiting.append(_Confirmed(job, solution))

    def tick(self) -> bool:
        """Check the newest solution that waits, which takes about 2 ms. Return False if the reference disagrees."""
        try:
            job, solution = self._waiting.pop()
        except IndexError:
            return True
        value = reference.evaluate(job.pow, job.header, solution.nonce)
        if value != solution.value:
            log.error(
                "The reference disagrees about nonce %x of job %r, which was sent: its hash is %x, not %x",
                solution.nonce,
                job.id,
                value,
                solution.value,
                extra={"job": job.id},
            )
        return value == solution.value
