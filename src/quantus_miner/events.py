"""What happens in the miner, as values that the parts publish and the monitor passes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from quantus_miner.model import LiveJob, Solution


@dataclass(frozen=True, slots=True)
class SolutionSent:
    """A solution of a live job was handed to the socket of its source."""

    source: str
    job: LiveJob
    solution: Solution


@dataclass(frozen=True, slots=True)
class ShareJudged:
    """A pool has judged a share. ``reason``: its words for a refusal. ``latency_s``: seconds since it was sent."""

    source: str
    nonce: int
    judgement: Literal["accepted", "rejected", "stale"]
    reason: str
    difficulty: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """A live source is in another state. ``reason``: why, where there is something to say."""

    source: str
    state: Literal["connected", "lost", "refused", "failing", "healthy", "mined", "idle"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """A device of an engine was lost, or is back. ``device``: its id. ``reason``: why it was lost."""

    device: str
    engine: str
    up: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job of the HTTP API has ended, after ``hashes`` nonces and ``seconds``. ``status``: as in the API."""

    job_id: str
    engine: str
    status: str
    hashes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Settings were loaded anew; those called ``names`` have other values now."""

    names: tuple[str, ...]


Event = SolutionSent | ShareJudged | SourceChanged | DeviceChanged | JobEnded | SettingsChanged
