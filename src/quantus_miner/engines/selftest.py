"""Known vectors that every engine has to reproduce before it is given work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner.engines.base import Control, Engine
from quantus_miner.errors import EngineUnavailableError
from quantus_miner.model import Job, NonceRange, Pow, limit_from_difficulty

if TYPE_CHECKING:
    from quantus_miner.native import Outcome


class _Case(NamedTuple):
    """From the golden search vectors "length 255 crossing 2^32": the first valid nonce of a short range."""

    job: Job
    start: int
    length: int
    nonce: int


def _job(pow_: Pow, header: str, limit: int) -> Job:
    return Job("self test", pow_, bytes.fromhex(header), limit, (NonceRange(0, 0),))


_CASES: Final = (
    _Case(
        _job(
            Pow.POSEIDON2,
            "ad848e8bde85898800ee4e8bec56a30a28f722f77c6030a230d0482034d94d81",
            limit_from_difficulty(90),
        ),
        start=0xFFFFFF81,
        length=255,
        nonce=0x10000006C,
    ),
    _Case(
        _job(
            Pow.SHA3,
            "1570c9359413bc25fd3a43f17b3f71f625424e8afa5bcbfae9e7b247be8f2882",
            148975643666028856661933611091176068083104064673248815308039571596908489223039410853354158868521149196555909535405400565041709809021628554960373877845378,
        ),
        start=0xFFFFFF81,
        length=255,
        nonce=0xFFFFFFFE,
    ),
)


def self_test(engine: Engine) -> None:
    """Raises EngineUnavailableError unless ``engine`` finds the known nonces and nothing before them."""
    for case in _CASES:
        if engine.kernel(case.job.pow) is None:
            continue
        before = case.nonce - case.start
        nothing = _search(engine, case, before)
        found = _search(engine, case, case.length)
        if nothing != (before, None) or found != (before + 1, case.nonce):
            raise EngineUnavailableError(
                f"engine '{engine.name}' is not available: its kernel {engine.kernel(case.job.pow)} fails the self test"
                f" of {case.job.pow}; use cpu-baseline and report this"
            )


def _search(engine: Engine, case: _Case, count: int) -> Outcome:
    control = Control()
    control.reset()
    return engine.search(case.job, case.start, count, control)
