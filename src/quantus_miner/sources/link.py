"""What the live source asks of one connection to a node or a pool."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from quantus_miner.model import LiveJob, Solution


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pool says of the share with ``nonce``.

    ``reason``: its words for a refusal. ``latency_s``: seconds since it was sent. ``difficulty``: of the share's job.
    ``unanswered``: the pool said nothing before the connection ended.
    """

    accepted: bool
    stale: bool
    reason: str
    latency_s: float
    nonce: int
    difficulty: int
    unanswered: bool = False


class Handover(Enum):
    """What became of a solution that was given to a link."""

    LATE = auto()
    """Its job no longer counts."""
    SENT = auto()
    """It was handed to the system's socket."""
    WAITS = auto()
    """It waits for what was sent before; the listener hears of it later."""
    SURPLUS = auto()
    """The peer has enough results of this job, for now."""


class Listener(Protocol):
    """Hears what happens on a link, on the event loop's thread."""

    def on_open(self) -> None:
        """The connection stands and our credentials are sent; a pool has accepted them."""

    def on_alive(self) -> None:
        """The peer has sent something, or its transport has shown that it is there."""

    def on_job(self, job: LiveJob) -> None:
        """``job`` replaces the one before."""

    def on_no_job(self) -> None:
        """The job before is void, and there is none until the next."""

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """A solution that had to wait was sent, or is late."""

    def on_verdict(self, verdict: Verdict) -> None:
        """A share was judged; nodes never do that."""


class Link(Protocol):
    """One place to get work from. It holds one connection at a time and forgets all of it when that ends."""

    @property
    def name(self) -> str:
        """For logs and metrics, without secrets: ``node 127.0.0.1:9833``, ``pool stratum+tcp://host:3333``."""

    @property
    def identity(self) -> Hashable:
        """Everything it was made from. Links of equal identity can stand in for each other."""

    async def run(self, listener: Listener) -> NoReturn:
        """Hold one connection, from dialling to its end; close it when cancelled.

        Raises LinkLostError when it ends or cannot be made, LinkRefusedError if the peer refuses us or is not the one
        that we were told of; their texts are said after the link's name.
        """

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """Send a solution before returning, if it still counts and the connection has room for it.

        ``hashes`` nonces were tested for the job in ``elapsed`` seconds.
        """
