"""The interface between the live source and a link, its connection to one node or pool."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from quantus_miner.model import LiveJob, Solution


@dataclass(frozen=True, slots=True)
class Verdict:
    """A pool's verdict on the share with ``nonce``.

    ``reason``: the pool's text for a refusal. ``latency_s``: seconds since the share was sent. ``difficulty``: that of
    the share's job. ``unanswered``: the connection ended before the pool answered.
    """

    accepted: bool
    stale: bool
    reason: str
    latency_s: float
    nonce: int
    difficulty: int
    unanswered: bool = False


class Handover(Enum):
    """What a link did with a solution."""

    LATE = auto()
    """Its job no longer counts."""
    SENT = auto()
    """It was handed to the system's socket."""
    WAITS = auto()
    """It waits until earlier data is acknowledged. ``on_handover`` reports it later."""
    SURPLUS = auto()
    """The peer has enough results for this job for now."""


class Listener(Protocol):
    """Is told what happens on a link. Called on the event loop's thread."""

    def on_open(self) -> None:
        """Handle a new connection: our credentials were sent, and a pool has accepted them."""

    def on_alive(self) -> None:
        """Handle a sign of life: the peer sent a message, or its transport answered."""

    def on_job(self, job: LiveJob) -> None:
        """Handle a new job, which replaces the one before."""

    def on_no_job(self) -> None:
        """Handle the end of the current job: there is no work until the next job."""

    def on_handover(self, job: LiveJob, solution: Solution, handover: Handover) -> None:
        """Handle the result for a solution that had to wait: it was sent or is late."""

    def on_verdict(self, verdict: Verdict) -> None:
        """Handle a pool's verdict on a share. Nodes send no verdicts."""


class Link(Protocol):
    """One place to get work from. It holds one connection at a time and keeps no state when the connection ends."""

    @property
    def name(self) -> str:
        """Name for logs and metrics, without secrets: ``node 127.0.0.1:9833``, ``pool stratum+tcp://host:3333``."""

    @property
    def identity(self) -> Hashable:
        """Everything it was made from. Links with equal identities are interchangeable."""

    async def run(self, listener: Listener) -> NoReturn:
        """Hold one connection, from dialling to its end. Close it when cancelled.

        Raises LinkLostError when it ends or cannot be made, LinkRefusedError if the peer refuses us or is not the
        expected one. Log lines show the error's text after the link's name.
        """

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> Handover:
        """Send a solution at once if it still counts and the connection has room for it.

        ``hashes`` nonces were tested for the job in ``elapsed`` seconds.
        """
