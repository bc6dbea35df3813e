"""Snapshots of what the miner does: plain data, taken in one place, shown in many."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantus_miner.model import Status

RATE_WINDOW_S: Final = 10.0
"""Hash rates are averages over this many seconds."""


class RateMeter:
    """Moving average of a growing count: nonces over wall time in the last RATE_WINDOW_S seconds."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def sample(self, now: float, count: int) -> None:
        """To be called about once a second."""
        self._samples.append((now, count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW_S:
            self._samples.popleft()

    def rate(self, now: float, count: int) -> float:
        """Per second, from the oldest sample in the window until now."""
        then, before = self._samples[0]
        return (count - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True)
class ThreadStats:
    """One worker's part in one job."""

    engine: str
    thread_id: int
    hashes: int
    hash_rate: float


@dataclass(frozen=True, slots=True)
class JobStats:
    """One job of the registry, running or ended."""

    job_id: str
    engine: str
    status: Status
    threads: tuple[ThreadStats, ...]


@dataclass(frozen=True, slots=True)
class GpuStats:
    """One device of a GPU engine. ``up``: not lost. ``false_positives``: how many it reported."""

    id: str
    engine: str
    name: str
    pci: str | None
    up: bool
    hash_rate: float
    false_positives: int


@dataclass(frozen=True, slots=True)
class MinerStats:
    """The miner as a whole. Hash rates in nonces a second by engine kind, ``cpu`` and ``gpu``."""

    workers: int
    cpu_workers: int
    gpu_devices: int
    busy_workers: int
    active_jobs: int
    hashes: int
    hash_rates: Mapping[str, float]
    rejected_solutions: int
    stale_solutions: int
    solved_by_engine: Mapping[str, int]
    kernels: frozenset[tuple[str, str, str]]
    """(engine, proof of work, kernel)"""
    gpus: tuple[GpuStats, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiStats:
    """The HTTP job API since the start."""

    requests: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By route template and status code."""
    mine_requests: Mapping[str, int] = field(default_factory=dict)
    """By result: accepted, duplicate, invalid, error."""
    ended_jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By engine and status: completed, failed, cancelled, expired."""
    jobs: tuple[JobStats, ...] = ()


@dataclass(slots=True)
class LinkStats:
    """One live source since the start. Its owner counts in it; others get copies."""

    name: str
    connected: bool = False
    mined: bool = False
    """Whether its job is the one being searched."""
    connects: int = 0
    jobs: int = 0
    difficulty: int = 0
    """Of its last job; 0 before the first."""
    sent: int = 0
    late: int = 0
    """Solutions not sent: they could no longer count, or a node had enough of their job."""
    accepted: int = 0
    rejected: int = 0
    stale: int = 0
    work: int = 0
    """The difficulties of the shares that it accepted, added up: the nonces that they take on average."""
    hashes: int = 0
    """Nonces tested for its jobs. ``work / hashes`` is the luck."""
    latency_s: float = 0.0
    """From sending the last share that was judged to its verdict."""
    failing: str = ""
    """Why it counts as failing, so that the next one is used; empty: it does not."""
    refusals: int = 0
    """Times that it refused our login, or showed another certificate or protocol version."""
    refusal: str = ""
    """Why it refused us the last time; empty once it has given us work again."""

    def copy(self) -> LinkStats:
        """As it is now."""
        return replace(self)
