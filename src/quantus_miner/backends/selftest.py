"""Known vectors that every engine must reproduce before it gets work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner.backends.base import Control, Engine
from quantus_miner.errors import EngineUnavailableError
from quantus_miner.model import Job, NonceRange, Order, Pow, target_from_difficulty

if TYPE_CHECKING:
    from quantus_miner.native import Outcome


class _Case(NamedTuple):
    """The first valid nonce of a short range, after ``before`` invalid ones.

    Counting order: from the golden vectors "length 255 crossing 2^32". Walk order: across the end of a walk, found with
    the baseline.
    """

    job: Job
    start: int
    length: int
    before: int
    nonce: int


def _job(pow_: Pow, header: str, target: int, order: Order = Order.COUNTING) -> Job:
    return Job("self test", pow_, bytes.fromhex(header), target, (NonceRange(0, 0),), order)


_POSEIDON2: Final = "ad848e8bde85898800ee4e8bec56a30a28f722f77c6030a230d0482034d94d81"
_CASES: Final = (
    _Case(
        _job(Pow.POSEIDON2, _POSEIDON2, target_from_difficulty(90)),
        start=0xFFFFFF81,
        length=255,
        before=235,
        nonce=0x10000006C,
    ),
    _Case(
        _job(Pow.POSEIDON2, _POSEIDON2, target_from_difficulty(90), Order.WALK),
        start=0xFFFFF81,
        length=255,
        before=159,
        nonce=0x2200200009FFEFFFF600000007FFFFFFFDFFDFFFF600100009FFFFFFF80000000,
    ),
    _Case(
        _job(
            Pow.SHA3,
            "1570c9359413bc25fd3a43f17b3f71f625424e8afa5bcbfae9e7b247be8f2882",
            148975643666028856661933611091176068083104064673248815308039571596908489223039410853354158868521149196555909535405400565041709809021628554960373877845378,
        ),
        start=0xFFFFFF81,
        length=255,
        before=125,
        nonce=0xFFFFFFFE,
    ),
)


def self_test(engine: Engine) -> None:
    """Raise EngineUnavailableError unless ``engine`` finds the known nonces and nothing before them."""
    for case in _CASES:
        if engine.kernel(case.job.pow) is None:
            continue
        nothing = _search(engine, case, case.before)
        found = _search(engine, case, case.length)
        if nothing != (case.before, None) or found != (case.before + 1, case.nonce):
            raise EngineUnavailableError(
                f"engine '{engine.name}' is not available: its kernel {engine.kernel(case.job.pow)} fails the self test"
                f" of {case.job.pow}"
            )


class _RestlessControl(Control):
    """Skips sleeps, so that an engine that throttles itself does not delay the start."""

    def sleep(self, seconds: float) -> bool:  # noqa: ARG002
        return False


def _search(engine: Engine, case: _Case, count: int) -> Outcome:
    control = _RestlessControl()
    control.reset()
    return engine.search(case.job, case.start, count, control)
