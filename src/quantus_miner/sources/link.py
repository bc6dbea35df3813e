"""What the live source asks of one connection to a node or a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob, Solution


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a pool says of the share with ``nonce``.

    ``reason``: its words for a refusal. ``latency_s``: seconds since it was sent.
    """

    accepted: bool
    stale: bool
    reason: str
    latency_s: float
    nonce: int


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

    def on_verdict(self, verdict: Verdict) -> None:
        """A share was judged; nodes never do that."""


class Link(Protocol):
    """One place to get work from. It holds one connection at a time and forgets all of it when that ends."""

    @property
    def name(self) -> str:
        """For logs and metrics, without secrets: ``node 127.0.0.1:9833``, ``pool stratum+tcp://host:3333``."""

    async def run(self, listener: Listener) -> NoReturn:
        """One connection, from dialling to its end; closes it when cancelled.

        Raises LinkLostError when it ends or cannot be made, LinkRefusedError if the peer refuses us or is not the one
        that we were told of; their texts are said after the link's name.
        """

    def submit(self, job: LiveJob, solution: Solution, hashes: int, elapsed: float) -> bool:
        """Hands a solution to the transport before it returns; False where ``job`` can no longer count.

        ``hashes`` nonces were tested for the job in ``elapsed`` seconds.
        """
