"""``GET /status``: the monitor's snapshot as JSON."""

from __future__ import annotations

import socket
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from quantus_miner import __version__, wording
from quantus_miner.mining.pauses import CPU
from quantus_miner.model import Status as Progress
from quantus_miner.model import total_rates
from quantus_miner.web.routes import json_reply
from quantus_miner.web.shared import Shared
from quantus_miner.wire import status as wire
from quantus_miner.wire.api import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from quantus_miner.gpu.telemetry import Readings
    from quantus_miner.mining.stats import JobStats, LinkStats, WorkerStats
    from quantus_miner.model import Rates
    from quantus_miner.monitor import Snapshot
    from quantus_miner.web.routes import Routes

MAX_JOBS: Final = 50
"""Jobs of the HTTP job API that a status lists."""


class StatusApi:
    """GET /status, added to ``routes``. It calls ``look`` on the event loop."""

    def __init__(self, look: Callable[[], Snapshot], routes: Routes) -> None:
        self._body = Shared(lambda: encode(status_of(look())))
        routes.add("/status", "GET", self._status)

    async def _status(self, _: Request) -> Response:
        return json_reply(200, await self._body.get(), {"cache-control": "no-store"})


def status_of(snapshot: Snapshot) -> wire.Status:
    """Return ``snapshot`` as a status."""
    miner, sources = snapshot.miner, snapshot.sources
    jobs = snapshot.api.jobs if snapshot.api else ()
    running = [job for job in jobs if job.status is Progress.RUNNING]
    ended = [job for job in jobs if job.status is not Progress.RUNNING]
    shown = [*reversed(running), *reversed(ended)][:MAX_JOBS]
    state, reason = _state(snapshot)
    return wire.Status(
        version=__version__,
        host=socket.gethostname(),
        time=snapshot.time,
        uptime_seconds=snapshot.uptime_s,
        state=state,
        reason=reason,
        pauses=[wire.PauseStatus(*pause) for pause in miner.pauses] if miner else [],
        effective_cpus=snapshot.effective_cpus,
        active_jobs=miner.active_jobs if miner else 0,
        hash_rate=total_rates([snapshot.rates] if snapshot.rates else []),
        hashes=miner.hashes if miner else 0,
        solutions=sum(miner.solved_by_engine.values()) if miner else 0,
        solutions_rejected=miner.rejected_solutions if miner else 0,
        solutions_stale=miner.stale_solutions if miner else 0,
        shares=wire.SharesStatus(snapshot.tally.accepted, snapshot.tally.rejected, snapshot.tally.stale),
        blocks=snapshot.tally.blocks,
        devices=_devices(snapshot),
        workers=[_worker(worker, snapshot) for worker in (miner.workers if miner else ())],
        sources=[source_status(link, snapshot.source_rates.get(link.name)) for link in sources],
        jobs=[_job(job) for job in shown],
        jobs_left_out=len(jobs) - len(shown),
        store_ok=snapshot.store_ok,
    )


def _state(snapshot: Snapshot) -> tuple[wire.State, str]:
    miner = snapshot.miner
    if miner is None or not miner.healthy:
        return "failed", "no worker is left"
    if miner.paused:
        return "paused", wording.pause_reasons(miner)
    if reason := wording.idle(snapshot):
        return "idle", reason.removeprefix("idle: ")
    return "mining", ""


def _devices(snapshot: Snapshot) -> list[wire.DeviceStatus]:
    groups: defaultdict[tuple[str, str], list[WorkerStats]] = defaultdict(list)
    for worker in snapshot.miner.workers if snapshot.miner else ():
        groups[worker.device, worker.engine].append(worker)
    return [
        _device(device, engine, workers, snapshot, snapshot.readings.get(device))
        for (device, engine), workers in groups.items()
    ]


def _device(
    device: str, engine: str, workers: list[WorkerStats], snapshot: Snapshot, readings: Readings | None
) -> wire.DeviceStatus:
    rates = total_rates(
        snapshot.worker_rates[worker.index] for worker in workers if worker.index in snapshot.worker_rates
    )
    gpu = workers[0].gpu
    power = readings.power if readings else None
    return wire.DeviceStatus(
        id=device,
        name=gpu.name if gpu else CPU.upper(),
        engine=engine,
        workers=len(workers),
        busy_workers=sum(worker.busy for worker in workers),
        up=any(worker.works for worker in workers),
        paused=all(worker.paused for worker in workers),
        hash_rate=rates,
        hashes=sum(worker.hashes for worker in workers),
        temperature_celsius=readings.temperature if readings else None,
        power_watts=power,
        fan_ratio=readings.fan if readings else None,
        sm_clock_hertz=readings.sm_clock if readings else None,
        hashes_per_joule=rates.current / power if power else None,
        false_positives=gpu.false_positives if gpu else 0,
    )


def _worker(worker: WorkerStats, snapshot: Snapshot) -> wire.WorkerStatus:
    rates = snapshot.worker_rates.get(worker.index)
    return wire.WorkerStatus(
        index=worker.index,
        engine=worker.engine,
        device=worker.device,
        busy=worker.busy,
        failed=worker.failed,
        stalled=worker.stalled,
        paused=worker.paused,
        hash_rate=total_rates([rates] if rates else []),
        hashes=worker.hashes,
    )


def source_status(link: LinkStats, rates: Rates | None) -> wire.SourceStatus:
    """Return a node or a pool as it is shown."""
    return wire.SourceStatus(
        name=link.name,
        connected=link.connected,
        mined=link.mined,
        failing=link.failing,
        refusal=link.refusal,
        difficulty=link.difficulty,
        latency_seconds=link.latency_s,
        job_age_seconds=link.job_age_s,
        accepted_age_seconds=link.accepted_age_s,
        connects=link.connects,
        jobs=link.jobs,
        sent=link.sent,
        late=link.late,
        accepted=link.accepted,
        rejected=link.rejected,
        stale=link.stale,
        accepted_work=link.work,
        hashes=link.hashes,
        luck=link.work / link.hashes if link.work and link.hashes else None,
        hash_rate=total_rates([rates] if rates else []),
    )


def _job(job: JobStats) -> wire.JobStatus:
    return wire.JobStatus(
        job_id=job.job_id,
        engine=job.engine,
        status=str(job.status),
        hashes=sum(thread.hashes for thread in job.threads),
        hash_rate=sum(thread.hash_rate for thread in job.threads),
    )
