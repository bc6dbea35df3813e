"""Snapshots of what the miner does: plain data, taken in one place, shown in many."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantus_miner.model import Status


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
    false_positives: int


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """One worker. ``works``: it would take work now. ``gpu``: the device that it drives; None for a CPU thread."""

    index: int
    engine: str
    hashes: int
    busy: bool = False
    works: bool = True
    failed: bool = False
    """An error has ended it."""
    stalled: bool = False
    """It has work and has not advanced for STALL_S, as the last tick saw it."""
    gpu: GpuStats | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        """What tells it from another worker that gets its number later."""
        return self.index, self.engine, self.gpu.id if self.gpu else ""


@dataclass(frozen=True, slots=True)
class MinerStats:
    """The miner as a whole. ``hashes`` includes those of workers that are gone."""

    workers: tuple[WorkerStats, ...]
    active_jobs: int
    hashes: int
    rejected_solutions: int
    stale_solutions: int
    solved_by_engine: Mapping[str, int]
    kernels: frozenset[tuple[str, str, str]]
    """(engine, proof of work, kernel)"""

    @property
    def busy_workers(self) -> int:
        """Workers that are searching."""
        return sum(worker.busy for worker in self.workers)

    @property
    def healthy(self) -> bool:
        """Whether any worker is left to take work now."""
        return any(worker.works for worker in self.workers)

    @property
    def failed(self) -> list[int]:
        """Numbers of the workers that an error has ended."""
        return [worker.index for worker in self.workers if worker.failed]

    @property
    def stalled(self) -> list[int]:
        """Numbers of the workers that are stuck."""
        return [worker.index for worker in self.workers if worker.stalled]

    @property
    def gpus(self) -> tuple[GpuStats, ...]:
        """The devices."""
        return tuple(worker.gpu for worker in self.workers if worker.gpu is not None)

    @property
    def gpu_devices(self) -> int:
        """Devices that are not lost."""
        return sum(gpu.up for gpu in self.gpus)


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
