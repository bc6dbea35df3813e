"""Both ends of a stratum connection, joined, for tests."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantus_miner.model import LiveJob
from quantus_miner.wire.core import JobReceived
from quantus_miner.wire.stratum_miner import StratumMiner
from quantus_miner.wire.stratum_pool import LoginAsked, StratumPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quantus_miner.wire import stratum_miner, stratum_pool


LOGIN, AGENT = "wallet.rig", "quantus-miner/1"
CAPTURED: dict[str, Any] = {
    "algo": "qpow-poseidon2",
    "difficulty": 10000000000,
    "extranonce": "0004f005",
    "job_id": "22768-10000000000",
    "mining_hash": "d8797e03ff633526267709d6d2f2e32652cf03c57a429e7ca90017a7d1ee0c8f",
    "seq": 22768,
    "target": "000000006df37f675ef6eadf5ab9a2072d44268d97df837e6748956e5c6c2117"
    "501e68855669e4b8356cf292464d9e16cc8d4655f8fb96f429b149fc87d74da4",
}
"""As LuckyPool sent it on 2026-09-12."""


def job(number: int = 1, difficulty: int = 1000, prefix: bytes = b"\0\4\xf0\5") -> LiveJob:
    return LiveJob(f"job-{number}", bytes([number % 256]) * 32, difficulty, prefix)


def line(**message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def written(core: StratumMiner | StratumPool) -> bytes:
    return b"".join(core.data_to_send())


def cut(data: bytes, rng: random.Random) -> Iterable[bytes]:
    """``data`` in pieces of any size."""
    while data:
        size = rng.choice((1, 2, 7, 64, 1000, len(data)))
        yield data[:size]
        data = data[size:]


class WatchedMiner(StratumMiner):
    """Remembers the transitions that were taken."""

    taken: set[tuple[stratum_miner.StratumMinerState, stratum_miner.StratumMinerStep]]

    def _step(self, step: stratum_miner.StratumMinerStep) -> None:
        self.__dict__.setdefault("taken", set()).add((self.state, step))
        super()._step(step)


class WatchedPool(StratumPool):
    """Remembers the transitions that were taken."""

    taken: set[tuple[stratum_pool.StratumPoolState, stratum_pool.StratumPoolStep]]

    def _step(self, step: stratum_pool.StratumPoolStep) -> None:
        self.__dict__.setdefault("taken", set()).add((self.state, step))
        super()._step(step)


@dataclass
class Joined:
    """A miner and a pool with a wire between them that cuts and merges."""

    rng: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 1000.0
    miner_events: list[stratum_miner.Event] = field(default_factory=list)
    pool_events: list[stratum_pool.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.miner = WatchedMiner(LOGIN, AGENT, self.now)
        self.pool = WatchedPool("session", self.now)

    def carry(self) -> None:
        """All bytes under way, both ways."""
        for piece in cut(written(self.miner), self.rng):
            self.pool_events += self.pool.receive(piece, self.now)
        for piece in cut(written(self.pool), self.rng):
            self.miner_events += self.miner.receive(piece, self.now)

    def log_in(self, first: LiveJob | None) -> None:
        self.carry()
        assert self.pool_events.pop() == LoginAsked(LOGIN, AGENT)
        self.pool.take_login(first)
        self.carry()

    def take(self) -> list[stratum_miner.Event]:
        """The miner's events so far, which are forgotten."""
        events, self.miner_events = self.miner_events, []
        return events

    def current(self) -> LiveJob:
        (event,) = self.take()
        assert isinstance(event, JobReceived)
        return event.job


def nonce(of: LiveJob, number: int) -> int:
    return int.from_bytes(of.prefix.ljust(64, b"\0")) + number
