"""The state of the miner in words, for the console and for the service manager: one line per text."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from quantus_miner import units
from quantus_miner.errors import MAX_REASON
from quantus_miner.model import total_rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from quantus_miner.events import PauseChanged, ShareJudged, SolutionSent
    from quantus_miner.mining.stats import LinkStats, MinerStats, WorkerStats
    from quantus_miner.model import Rates
    from quantus_miner.monitor import Snapshot, Tally

MAX_STATUS: Final = 1_000
"""Characters of a whole status. Service managers accept at most 4,096 bytes."""
ROW: Final = 8
"""Workers in a line."""
HTTP_ONLY: Final = "no node or pool is set; jobs come over HTTP"


def short(source: str) -> str:
    """Return where a source is, such as ``pool.example:3333`` of ``pool stratum+tcp://pool.example:3333``."""
    return re.sub(r"^(?:hub|node|pool) (?:[a-z+]+://)?", "", source).partition("?")[0]


def judges(source: str) -> bool:
    """Return True if a source answers each solution with a verdict. Nodes, and pools over QUIC, do not."""
    return source.startswith("pool stratum+")


# --- one line ---


def speed(rates: Rates | None) -> str:
    """Return ``speed 10s/60s/15m 3.26 3.25 n/a MH/s max 3.31 MH/s``."""
    if rates is None:
        return "speed unknown"
    averages = units.hash_rates((rates.average_10s, rates.average_60s, rates.average_15m))
    highest = "" if rates.highest is None else f" max {units.hash_rate(rates.highest)}"
    return f"speed 10s/60s/15m {averages}{highest}"


def share(event: ShareJudged, tally: Tally) -> str:
    """Return ``accepted (12/0) diff 1.0G 31 ms pool.example:3333``. The counts: accepted, and all others."""
    counts, difficulty = f"{tally.accepted}/{tally.rejected + tally.stale}", units.difficulty(event.difficulty)
    where = ": ".join((short(event.source), *([event.reason[:MAX_REASON]] if event.reason else [])))
    return f"{event.judgement} ({counts}) diff {difficulty} {1000 * event.latency_s:.0f} ms {where}"


def solution(event: SolutionSent, tally: Tally) -> str:
    """Return ``solution (35) diff 1.9M 127.0.0.1:9833``. The count: blocks, which are solutions sent to nodes."""
    count = f"({tally.blocks}) " if event.source.startswith("node ") else ""
    return f"solution {count}diff {units.difficulty(event.job.difficulty)} {short(event.source)}"


def job(link: LinkStats) -> str:
    """Return ``new job from pool.example:3333 diff 1.0G``."""
    shown = "" if link.difficulty is None else f" diff {units.difficulty(link.difficulty)}"
    return f"new job from {short(link.name)}{shown}"


def totals(snapshot: Snapshot) -> Iterator[str]:
    """Yield ``shares 12/0/0`` (accepted, rejected, stale) and ``blocks 35``, each if there may be any.

    For a hub, yield ``miners 5`` (over stratum) and ``rigs 2/3`` (online, known) first.
    """
    if (hub := snapshot.hub) is not None:
        yield f"miners {hub.connections}"
        yield f"rigs {sum(rig.online for rig in hub.rigs)}/{len(hub.rigs)}"
    tally, names = snapshot.tally, [link.name for link in snapshot.sources]
    if any(map(judges, names)) or tally.accepted or tally.rejected or tally.stale:
        yield f"shares {tally.accepted}/{tally.rejected}/{tally.stale}"
    if any(name.startswith("node ") for name in names) or tally.blocks:
        yield f"blocks {tally.blocks}"


def status(snapshot: Snapshot) -> str:
    """Return the speed, or why there is none, then the totals, then what is wrong."""
    reason = paused(snapshot) or idle(snapshot)
    line = " | ".join((reason or speed(snapshot.rates), *totals(snapshot), f"up {units.duration(snapshot.uptime_s)}"))
    links = () if reason.startswith("idle") else link_faults(snapshot.sources)
    return "; ".join((line, *links, *_faults(snapshot)))[:MAX_STATUS]


def idle(snapshot: Snapshot) -> str:
    """Return that no worker has anything to do, and why. Empty if that is not so, or not known."""
    if snapshot.miner is None or snapshot.miner.active_jobs:
        return ""
    reason = ", ".join(link_faults(snapshot.sources)) if snapshot.sources else HTTP_ONLY
    return ": ".join(("idle: no source has work", *([reason] if reason else [])))


def paused(snapshot: Snapshot) -> str:
    """Return ``paused (schedule, user)``. Empty if not all devices are paused, or that is not known."""
    miner = snapshot.miner
    if miner is None or not miner.paused:
        return ""
    return f"paused ({pause_reasons(miner)})"


def pause_reasons(miner: MinerStats) -> str:
    """Return why devices are paused, each reason once, such as ``schedule, user``."""
    return ", ".join(sorted({pause.reason for pause in miner.pauses}))


def pause(event: PauseChanged, snapshot: Snapshot) -> str:
    """Return ``paused (user)``, or of a device ``paused cpu (user)``; ``resumed (user)``."""
    still = "" if event.paused or not (reason := paused(snapshot)) else f", still {reason}"
    device = "" if event.device is None else f" {event.device}"
    return f"{'paused' if event.paused else 'resumed'}{device} ({event.reason}){still}"


def summary(snapshot: Snapshot) -> str:
    """Return what the miner has done since its start; for a hub, what its miners have proven."""
    miner, seconds = snapshot.miner, snapshot.uptime_s
    if (hub := snapshot.hub) is not None:
        average = units.hash_rate(hub.work / seconds if seconds > 0 else 0.0)
        line = f"accepted work of {hub.work} hashes in {units.duration(seconds)}, {average} on average"
        return " | ".join((f"Stopped: {line}", *totals(snapshot)))
    hashes, solutions = (miner.hashes, sum(miner.solved_by_engine.values())) if miner else (0, 0)
    average = units.hash_rate(hashes / seconds if seconds > 0 else 0.0)
    line = f"{hashes} hashes, {solutions} solutions in {units.duration(seconds)}, {average} on average"
    return " | ".join((f"Stopped: {line}", *totals(snapshot)))


# --- faults ---


def link_faults(links: Iterable[LinkStats]) -> Iterator[str]:
    """Yield what is wrong with the live sources up to the one that is mined. Those after it are not needed."""
    for number, link in enumerate(links):
        if link.mined:
            if number:
                yield f"mining for {link.name} instead"
            if link.failing:
                yield f"{link.name} is failing ({link.failing})"
            return
        yield f"{link.name} {_state(link)}"


def _state(link: LinkStats) -> str:
    """Return why a source is not mined."""
    if link.refusal:
        return f"refuses us: {link.refusal[:MAX_REASON]}"
    if not link.connected:
        return f"not connected for {units.duration(link.state_age_s)}"
    if link.failing:
        return f"is failing ({link.failing})"
    return "is not mined yet" if link.jobs else "has not sent a job yet"


def _faults(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.miner is not None:
        if not snapshot.miner.paused:
            for device, reason in snapshot.miner.pauses:
                yield f"{device} is paused ({reason})"
        if failed := snapshot.miner.failed:
            yield f"worker {', '.join(map(str, failed))} has failed"
    if snapshot.store_ok is False:
        yield "jobs are kept in memory only"


# --- several lines ---


def devices(snapshot: Snapshot) -> list[str]:
    """Return the speed of each device, if there are several. The CPU workers of an engine are one device."""
    groups = _groups(snapshot.miner)
    return [f"{speed(_sum(snapshot, group))} | {_device(snapshot, group)}" for group in groups] if groups[1:] else []


def workers(snapshot: Snapshot) -> list[str]:
    """Return the hash rates over the last 10 s of the CPU workers, ROW in a line, if there are several."""
    cpu = [worker.index for group in _groups(snapshot.miner) for worker in group if worker.gpu is None]
    rows = [cpu[start : start + ROW] for start in range(0, len(cpu), ROW)] if cpu[1:] else []
    return [f"workers {', '.join(map(str, row))} in 10s: {_row(snapshot, row)}" for row in rows]


def sources(snapshot: Snapshot) -> list[str]:
    """Return the totals, and then a line per source with all its counts."""
    lines = [" | ".join((*totals(snapshot), f"up {units.duration(snapshot.uptime_s)}"))]
    lines += [f"{link.name}: {', '.join(_counts(link, snapshot.source_rates))}" for link in snapshot.sources]
    if snapshot.api is not None:
        running = sum(entry.status == "running" for entry in snapshot.api.jobs)
        ended = sum(snapshot.api.ended_jobs.values())
        lines.append(f"job API: {running} jobs running, {ended} ended")
    return lines


def connections(snapshot: Snapshot) -> list[str]:
    """Return a line per source that says how it is connected."""
    return [f"{link.name}: {', '.join(_connection(link))}" for link in snapshot.sources] or [HTTP_ONLY]


def _groups(miner: MinerStats | None) -> list[list[WorkerStats]]:
    """Return the workers by device."""
    found = () if miner is None else miner.workers
    by_device = sorted(found, key=_device_key)
    return [list(group) for _, group in groupby(by_device, _device_key)]


def _device_key(worker: WorkerStats) -> tuple[str, str]:
    return worker.engine, worker.gpu.id if worker.gpu else ""


def _sum(snapshot: Snapshot, group: list[WorkerStats]) -> Rates | None:
    """Return the rates of workers together. The highest of several is not known."""
    rates = [snapshot.worker_rates[worker.index] for worker in group if worker.index in snapshot.worker_rates]
    if len(rates) <= 1:
        return rates[0] if rates else None
    return msgspec.structs.replace(total_rates(rates), highest=None)


def _device(snapshot: Snapshot, group: list[WorkerStats]) -> str:
    engine, gpu = group[0].engine, group[0].gpu
    state = ["paused"] if all(worker.paused for worker in group) else []
    if gpu is None:
        return ", ".join((engine, *([f"{len(group)} workers"] if group[1:] else []), *state))
    parts = [f"{engine} {gpu.id}", gpu.name, *state]
    if (readings := snapshot.readings.get(gpu.id)) is not None:
        parts += [] if readings.temperature is None else [f"{readings.temperature:.0f} °C"]
        parts += [] if readings.power is None else [f"{readings.power:.0f} W"]
    return ", ".join(parts if gpu.up else (*parts, "lost"))


def _row(snapshot: Snapshot, row: list[int]) -> str:
    found = (snapshot.worker_rates.get(index) for index in row)
    return units.hash_rates(None if rates is None else rates.average_10s for rates in found)


def _counts(link: LinkStats, rates: Mapping[str, Rates]) -> Iterator[str]:
    if link.mined:
        yield "mined"
    if link.name in rates:
        yield units.hash_rate(rates[link.name].current)
    judged = judges(link.name) or link.accepted or link.rejected or link.stale  # by the pool of a hub
    yield f"shares {link.accepted}/{link.rejected}/{link.stale}" if judged else f"solutions {link.sent}"
    yield f"late {link.late}"
    if link.work and link.hashes:
        yield f"luck {100 * link.work / link.hashes:.0f} %"
    if link.accepted_age_s is not None:
        yield f"last share {units.duration(link.accepted_age_s)} ago"


def _connection(link: LinkStats) -> Iterator[str]:
    if not link.connected or link.refusal:
        yield _state(link)
    else:
        yield f"connected for {units.duration(link.state_age_s)}"
        if link.failing:
            yield f"is failing ({link.failing})"
    if link.connects > 1:
        yield f"{link.connects} connections so far"
    if link.job_age_s is not None and link.difficulty is not None:
        yield f"last job {units.duration(link.job_age_s)} ago, diff {units.difficulty(link.difficulty)}"
    if link.latency_s is not None:
        yield f"latency {1000 * link.latency_s:.0f} ms"
