"""Events in the miner. The parts publish them and the monitor passes them to its subscribers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob, Solution


@dataclass(frozen=True, slots=True)
class SolutionSent:
    """A solution for a live job was written to the socket of its source."""

    source: str
    job: LiveJob
    solution: Solution


@dataclass(frozen=True, slots=True)
class SolutionUnsent:
    """A solution for a live job was not sent: it no longer counts, or a node has enough of them for now."""

    source: str
    job: LiveJob
    solution: Solution


@dataclass(frozen=True, slots=True)
class ShareJudged:
    """A pool judged a share. ``reason``: its text for a refusal. ``latency_s``: seconds since the share was sent."""

    source: str
    nonce: int
    judgement: Literal["accepted", "rejected", "stale"]
    reason: str
    difficulty: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The state of a live source changed. ``reason``: why; may be empty."""

    source: str
    state: Literal["connected", "lost", "refused", "failing", "healthy", "mined", "idle"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """A device of an engine was lost or is back. ``device``: its id. ``reason``: why it was lost."""

    device: str
    engine: str
    up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PauseChanged:
    """Mining was paused or resumed for ``reason``: user, schedule or busy. ``device``: its id; None means all."""

    device: str | None
    paused: bool
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job of the HTTP API ended after ``hashes`` nonces and ``seconds``. ``status``: as in the API."""

    job_id: str
    engine: str
    status: str
    hashes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Settings were reloaded. ``names``: those with new values."""

    names: tuple[str, ...]


Event = (
    SolutionSent
    | SolutionUnsent
    | ShareJudged
    | SourceChanged
    | DeviceChanged
    | PauseChanged
    | JobEnded
    | SettingsChanged
)
