"""The messages of /status, /pause and /resume. A value that is not known is null."""

from __future__ import annotations

from typing import Literal

import msgspec

from quantus_miner.model import Rates

State = Literal["mining", "idle", "paused", "failed"]


class PauseStatus(msgspec.Struct):
    """Why a device does not mine. ``device``: its id, ``cpu``, or null for all.

    ``reason``: user, schedule, busy or hub.
    """

    device: str | None
    reason: str


class PauseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /pause and POST /resume. ``device``: an id, ``cpu``, or null for all devices."""

    device: str | None = None


class PauseReply(msgspec.Struct):
    """The reply to it: whether something changed, and all pauses that are in effect now."""

    status: Literal["ok"]
    changed: bool
    pauses: list[PauseStatus]


class DeviceStatus(msgspec.Struct):
    """One GPU, or all CPU workers of one engine, whose highest rates are added up.

    ``up``: at least one worker can take work, unless ``paused``.
    """

    id: str
    name: str
    engine: str
    workers: int
    busy_workers: int
    up: bool
    paused: bool
    hash_rate: Rates
    hashes: int
    temperature_celsius: float | None
    power_watts: float | None
    fan_ratio: float | None
    sm_clock_hertz: float | None
    hashes_per_joule: float | None
    false_positives: int


class WorkerStatus(msgspec.Struct):
    """One worker. ``failed``: an error ended it. ``stalled``: it has work but does not advance."""

    index: int
    engine: str
    device: str
    busy: bool
    failed: bool
    stalled: bool
    paused: bool
    hash_rate: Rates
    hashes: int


class SourceStatus(msgspec.Struct):
    """One node or pool, in the order of preference. ``luck``: accepted work / nonces, 1 on average."""

    name: str
    connected: bool
    mined: bool
    failing: str
    refusal: str
    difficulty: int | None
    latency_seconds: float | None
    job_age_seconds: float | None
    accepted_age_seconds: float | None
    connects: int
    jobs: int
    sent: int
    late: int
    accepted: int
    rejected: int
    stale: int
    accepted_work: int
    hashes: int
    luck: float | None
    hash_rate: Rates


class JobStatus(msgspec.Struct):
    """One job of the HTTP job API. ``status``: as in the API. ``hash_rate``: nonces a second, 0 after its end."""

    job_id: str
    engine: str
    status: str
    hashes: int
    hash_rate: float


class SharesStatus(msgspec.Struct):
    """Verdicts of pools on shares since the start."""

    accepted: int
    rejected: int
    stale: int


class Status(msgspec.Struct):
    """The whole miner. ``time``: seconds since 1970. ``jobs``: the newest, running ones first.

    ``state``: mining; idle, without work; paused; or failed, when no worker is left. ``reason``: why it does not mine.
    ``blocks``: solutions that were sent to nodes, which do not confirm them.
    """

    version: str
    host: str
    time: float
    uptime_seconds: float
    state: State
    reason: str
    pauses: list[PauseStatus]
    effective_cpus: int
    active_jobs: int
    hash_rate: Rates
    hashes: int
    solutions: int
    solutions_rejected: int
    solutions_stale: int
    shares: SharesStatus
    blocks: int
    devices: list[DeviceStatus]
    workers: list[WorkerStatus]
    sources: list[SourceStatus]
    jobs: list[JobStatus]
    jobs_left_out: int
    store_ok: bool | None
