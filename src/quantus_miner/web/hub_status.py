"""The monitor's snapshot of a hub as its status."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from quantus_miner import __version__, wording
from quantus_miner.model import Rates
from quantus_miner.web.status import source_status
from quantus_miner.wire import hub_status as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantus_miner.mining.stats import HubStats, HubWorkerStats, RigStats
    from quantus_miner.monitor import Snapshot
    from quantus_miner.wire.fleet import StatusMessage

UNKNOWN: Final = Rates(0.0, None, None, None, None)


def hub_status(snapshot: Snapshot, hub: HubStats, *, miners: bool = True) -> wire.HubStatus:
    """Return ``snapshot`` as a status. ``miners``: False leaves all of them out, which takes less time."""
    listed = list(miner_statuses(hub, snapshot.time, wire.MAX_MINERS)) if miners else []
    idle = not any(link.mined for link in snapshot.sources)
    return wire.HubStatus(
        role="hub",
        version=__version__,
        host=socket.gethostname(),
        time=snapshot.time,
        uptime_seconds=snapshot.uptime_s,
        state="idle" if idle else "mining",
        reason=", ".join(wording.link_faults(snapshot.sources)) if idle else "",
        totals=_totals(hub, snapshot.rates or UNKNOWN),
        miners=listed,
        miners_left_out=len(hub.rigs) + len(hub.workers) - len(listed),
        sources=[source_status(link, snapshot.source_rates.get(link.name)) for link in snapshot.sources],
        solutions_waiting=hub.solutions_waiting,
        solutions_expired=hub.solutions_expired,
        banned_addresses=hub.banned_addresses,
        store_ok=snapshot.store_ok,
    )


def miner_statuses(hub: HubStats, time: float, most: int) -> Iterator[wire.MinerStatus]:
    """Yield the first ``most`` miners. ``time``: of the snapshot, in seconds since 1970."""
    yield from (rig_status(rig, time) for rig in hub.rigs[:most])
    yield from (worker_status(worker, time) for worker in hub.workers[: max(0, most - len(hub.rigs))])


def rig_status(rig: RigStats, time: float) -> wire.MinerStatus:
    """Return a rig as it is shown."""
    status, report = rig.status, rig.report
    return wire.MinerStatus(
        kind="rig",
        name=rig.name,
        tags=list(rig.tags),
        state=_state(rig, report),
        orders="waiting" if rig.waits else status.refused if status else "",
        pauses=report.pauses if report else [],
        rate_10s=report.hash_rate if report else None,
        rate_60s=report.rate_60s if report else None,
        rate_15m=report.rate_15m if report else None,
        proven_rate=rig.proven_rate,
        luck=rig.luck,
        accepted=rig.kept,
        rejected=rig.invalid + rig.rejected,
        stale=rig.stale,
        blocks=rig.kept,
        temperature_celsius=report.temperature if report else None,
        power_watts=report.power if report else None,
        devices=report.devices if report else [],
        version=status.version if status else "",
        source=report.source if report else "",
        uptime_seconds=report.uptime_s if report else None,
        contact=time - rig.contact_age_s,
        connections=int(rig.online),
        difficulty=None,
    )


def _state(rig: RigStats, report: StatusMessage | None) -> wire.MinerState:
    if not rig.online:
        return "offline"
    if rig.aside:
        return "ignored"
    if report is None:
        return "idle"
    return "paused" if report.paused else "mining" if report.hash_rate else "idle"


def worker_status(worker: HubWorkerStats, time: float) -> wire.MinerStatus:
    """Return the stratum miners of one worker name as they are shown."""
    age = worker.accepted_age_s
    return wire.MinerStatus(
        kind="stratum",
        name=worker.name,
        tags=[],
        state="offline" if not worker.connections else "mining" if worker.proven_rate else "idle",
        orders="",
        pauses=[],
        rate_10s=None,
        rate_60s=None,
        rate_15m=None,
        proven_rate=worker.proven_rate,
        luck=None,
        accepted=worker.accepted,
        rejected=worker.rejected,
        stale=worker.stale,
        blocks=worker.blocks,
        temperature_celsius=None,
        power_watts=None,
        devices=[],
        version="",
        source="",
        uptime_seconds=None,
        contact=None if age is None else time - age,
        connections=worker.connections,
        difficulty=worker.difficulty or None,
    )


def _totals(hub: HubStats, proven: Rates) -> wire.HubTotals:
    reports = [rig.status for rig in hub.rigs if rig.online and rig.status is not None]
    stratum = sum(worker.proven_rate for worker in hub.workers if worker.connections)
    online = sum(rig.online for rig in hub.rigs)
    powers = [report.power for report in reports if report.power is not None]
    return wire.HubTotals(
        rigs=len(hub.rigs),
        online=online,
        offline=len(hub.rigs) - online,
        paused=sum(report.paused for report in reports),
        waiting=sum(rig.waits for rig in hub.rigs),
        connections=hub.connections,
        hash_rate=_sum(reports, stratum),
        proven_rate=proven,
        accepted=sum(rig.kept for rig in hub.rigs) + sum(worker.accepted for worker in hub.workers),
        rejected=sum(rig.invalid + rig.rejected for rig in hub.rigs) + sum(worker.rejected for worker in hub.workers),
        stale=sum(rig.stale for rig in hub.rigs) + sum(worker.stale for worker in hub.workers),
        power_watts=sum(powers) if powers else None,
        hottest_celsius=max((each.temperature for each in reports if each.temperature is not None), default=None),
    )


def _sum(reports: Sequence[StatusMessage], stratum: float) -> Rates:
    """Return the rates of rigs together with ``stratum``. An average is null if it is in one of the reports."""

    def added(rates: Iterable[float | None]) -> float | None:
        found = list(rates)
        known = [rate for rate in found if rate is not None]
        return stratum + sum(known) if len(known) == len(found) else None

    current = stratum + sum(report.hash_rate for report in reports)
    minute, quarter = (report.rate_60s for report in reports), (report.rate_15m for report in reports)
    return Rates(current, current, added(minute), added(quarter), None)
