"""The status of a hub: GET /status, and what /events sends of it. A value that is not known is null."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from quantus_miner.model import Rates
from quantus_miner.wire.fleet import DeviceMessage
from quantus_miner.wire.status import SourceStatus

MAX_MINERS: Final = 10_000
"""Miners that a status lists. The totals count all."""

MinerState = Literal["mining", "idle", "paused", "offline", "ignored"]


class MinerStatus(msgspec.Struct):
    """A rig, or the stratum miners that share one worker name. Rates are nonces a second.

    ``state``: ``ignored`` after invalid solutions. ``orders``: empty if it does what it was asked to, else ``waiting``
    or why it refuses. ``rate_10s`` to ``rate_15m``: as it reports; a stratum miner reports none. ``proven_rate``: what
    its accepted work of the last 15 minutes proves. ``luck``: its accepted work for the nonces that it has reported, 1
    on average. ``accepted``, ``rejected``, ``stale``: its solutions, or shares. ``blocks``: shares that were solutions.
    ``source``: what it mines for, if that is not the hub. ``contact``: when it was heard of, or had its last share
    accepted, in seconds since 1970.
    """

    kind: Literal["rig", "stratum"]
    name: str
    tags: list[str]
    state: MinerState
    orders: str
    pauses: list[str]
    rate_10s: float | None
    rate_60s: float | None
    rate_15m: float | None
    proven_rate: float
    luck: float | None
    accepted: int
    rejected: int
    stale: int
    blocks: int
    temperature_celsius: float | None
    power_watts: float | None
    devices: list[DeviceMessage]
    version: str
    source: str
    uptime_seconds: float | None
    contact: float | None
    connections: int
    difficulty: int | None


class HubTotals(msgspec.Struct):
    """Sums. Miners that are offline count only in ``rigs``, ``offline`` and the counts of what they have sent.

    ``hash_rate``: what rigs report and stratum miners prove. ``proven_rate``: what the accepted work of all proves.
    """

    rigs: int
    online: int
    offline: int
    paused: int
    waiting: int
    connections: int
    hash_rate: Rates
    proven_rate: Rates
    accepted: int
    rejected: int
    stale: int
    power_watts: float | None
    hottest_celsius: float | None


class HubStatus(msgspec.Struct):
    """A hub. ``role`` tells it from a miner. ``miners``: rigs, then workers over stratum; none of them in /events.

    ``state``: idle without work, for the ``reason``. ``solutions_waiting``: found and not sent yet.
    """

    role: Literal["hub"]
    version: str
    host: str
    time: float
    uptime_seconds: float
    state: Literal["mining", "idle"]
    reason: str
    totals: HubTotals
    miners: list[MinerStatus]
    miners_left_out: int
    sources: list[SourceStatus]
    solutions_waiting: int
    solutions_expired: int
    banned_addresses: int
    store_ok: bool | None


class MinersMessage(msgspec.Struct):
    """Miners that have changed, and those that are gone, as ``kind/name``."""

    miners: list[MinerStatus]
    gone: list[str]
