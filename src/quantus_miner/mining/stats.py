"""Statistics of the miner, as plain data for the metrics, the heartbeat and the API."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantus_miner.mining.pauses import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quantus_miner.mining.pauses import Pause
    from quantus_miner.model import Status
    from quantus_miner.wire.fleet import StatusMessage


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
    """One device of a GPU engine. ``up``: False while it is lost. ``false_positives``: how many it reported."""

    id: str
    engine: str
    name: str
    pci: str | None
    up: bool
    false_positives: int


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """One worker. ``works``: it can take work now, unless ``paused``. ``gpu``: its device; None for a CPU thread."""

    index: int
    engine: str
    hashes: int
    busy: bool = False
    works: bool = True
    failed: bool = False
    """True if an error ended it."""
    stalled: bool = False
    """True if it has work but had not advanced for STALL_S at the last tick."""
    paused: bool = False
    gpu: GpuStats | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        """A key that distinguishes it from a later worker with the same number."""
        return self.index, self.engine, self.gpu.id if self.gpu else ""

    @property
    def device(self) -> str:
        """Id of the device that it drives, CPU for a CPU thread."""
        return self.gpu.id if self.gpu else CPU


@dataclass(frozen=True, slots=True)
class MinerStats:
    """The miner as a whole. ``hashes`` includes those of workers that have ended."""

    workers: tuple[WorkerStats, ...]
    active_jobs: int
    hashes: int
    rejected_solutions: int
    stale_solutions: int
    solved_by_engine: Mapping[str, int]
    kernels: frozenset[tuple[str, str, str]]
    """(engine, proof of work, kernel)"""
    pauses: tuple[Pause, ...] = ()

    @property
    def paused(self) -> bool:
        """True if all workers are paused."""
        return bool(self.pauses) and all(worker.paused for worker in self.workers)

    @property
    def busy_workers(self) -> int:
        """Number of workers that are searching."""
        return sum(worker.busy for worker in self.workers)

    @property
    def healthy(self) -> bool:
        """True if at least one worker can take work now."""
        return any(worker.works for worker in self.workers)

    @property
    def failed(self) -> list[int]:
        """Numbers of the workers that ended with an error."""
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
        """Number of devices that are not lost."""
        return sum(gpu.up for gpu in self.gpus)


@dataclass(frozen=True, slots=True)
class ApiStats:
    """Counts of the HTTP job API since the start."""

    requests: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By route template and status code."""
    mine_requests: Mapping[str, int] = field(default_factory=dict)
    """By result: accepted, duplicate, invalid, error."""
    ended_jobs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By engine and status: completed, failed, cancelled, expired."""
    jobs: tuple[JobStats, ...] = ()


@dataclass(slots=True)
class LinkStats:
    """Counts of one live source since the start. Only its owner changes them; others get copies."""

    name: str
    connected: bool = False
    changed_at: float = 0.0
    """When ``connected`` last changed, or when it was added, on its owner's clock."""
    mined: bool = False
    """True if its job is the one being searched."""
    connects: int = 0
    jobs: int = 0
    job_at: float | None = None
    """When its last job came, on its owner's clock. None before the first."""
    difficulty: int | None = None
    """Difficulty of its last job. None before the first."""
    sent: int = 0
    late: int = 0
    """Solutions not sent, because they no longer counted or a node had enough of them for that job."""
    accepted: int = 0
    accepted_at: float | None = None
    """When its last share was accepted, on its owner's clock. None before the first."""
    rejected: int = 0
    stale: int = 0
    work: int = 0
    """Sum of the difficulties of its accepted shares. On average, finding them takes that many nonces."""
    hashes: int = 0
    """Nonces tested for its jobs. ``work / hashes`` is the luck, 1 on average."""
    latency_s: float | None = None
    """Seconds between sending the last judged share and its verdict. None before the first verdict."""
    failing: str = ""
    """Why it counts as failing, so that the next source is used. Empty if it does not."""
    refusals: int = 0
    """Number of refused logins, and of connections with another certificate or protocol version than expected."""
    refusal: str = ""
    """Reason of the last refusal. Empty once it has sent a job again."""

    now: float = 0.0
    """When this copy was made, on its owner's clock."""

    def copy(self, now: float) -> LinkStats:
        """Return a copy, made at ``now``, that does not change."""
        return replace(self, now=now)

    @property
    def state_age_s(self) -> float:
        """Seconds for which it has been connected, or not connected, until this copy."""
        return self.now - self.changed_at

    @property
    def job_age_s(self) -> float | None:
        """Seconds between its last job and this copy. None before the first job."""
        return None if self.job_at is None else self.now - self.job_at

    @property
    def accepted_age_s(self) -> float | None:
        """Seconds between its last accepted share and this copy. None before the first."""
        return None if self.accepted_at is None else self.now - self.accepted_at


@dataclass(frozen=True, slots=True)
class HubWorkerStats:
    """The miners of a hub that log in under one worker name.

    ``difficulty``: the last one that was given to one of them. ``work``: the sum of the difficulties of their accepted
    shares. ``accepted_age_s``: seconds since the last of these. ``proven_rate``: nonces a second that those of the last
    15 minutes prove.
    """

    name: str
    connections: int
    difficulty: int
    accepted: int
    stale: int
    rejected: int
    blocks: int
    work: int
    accepted_age_s: float | None
    proven_rate: float


@dataclass(frozen=True, slots=True)
class RigStats:
    """A rig of a hub. ``status``: its last report. ``contact_age_s``: seconds since it was heard of.

    ``aside``: it has sent invalid solutions and is ignored for now. ``waits``: it has not done what it was asked to.
    ``kept``: its solutions that the hub has taken. ``accepted``, ``rejected``: those that the hub's pool has. ``work``:
    the sum of their difficulties. ``hashes``: nonces that it has reported meanwhile. ``proven_rate``: nonces a second
    that its solutions of the last 15 minutes prove.
    """

    name: str
    tags: Sequence[str]
    online: bool
    aside: bool
    contact_age_s: float
    status: StatusMessage | None
    waits: bool
    kept: int
    stale: int
    invalid: int
    accepted: int
    rejected: int
    work: int
    hashes: int
    proven_rate: float

    @property
    def report(self) -> StatusMessage | None:
        """Its last report if it is online, None otherwise."""
        return self.status if self.online else None

    @property
    def hash_rate(self) -> float | None:
        """Nonces a second, as it reports; None while it is offline."""
        return None if (report := self.report) is None else report.hash_rate

    @property
    def temperature(self) -> float | None:
        """Degrees Celsius of its hottest GPU; None while that is not known."""
        return None if (report := self.report) is None else report.temperature

    @property
    def power(self) -> float | None:
        """Watts of its GPUs; None while that is not known."""
        return None if (report := self.report) is None else report.power

    @property
    def luck(self) -> float | None:
        """Proven work for the nonces that it has reported, on average 1. None before its first solution."""
        return self.work / self.hashes if self.work and self.hashes else None


@dataclass(frozen=True, slots=True)
class HubStats:
    """A hub and its miners. ``refusals``: refused shares by reason. ``solutions_waiting``: found and not sent yet.

    ``solutions_expired``: those that were given up. ``work``: as of a worker, of all of them and of
    the rigs.
    """

    connections: int
    banned_addresses: int
    solutions_waiting: int
    solutions_expired: int
    work: int
    refusals: Mapping[str, int]
    workers: tuple[HubWorkerStats, ...]
    rigs: tuple[RigStats, ...] = ()
    leads: bool = True
    """False while another hub of a cluster leads."""
