"""Prometheus metrics: one table, filled from a snapshot at each scrape."""

from __future__ import annotations

import logging
import platform
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from quantus_miner import __version__, logs
from quantus_miner.errors import printable
from quantus_miner.model import Status
from quantus_miner.web.hub_metrics import HUB_METRICS, hub_values
from quantus_miner.web.metric import Counts, Row, Values
from quantus_miner.web.shared import SharedInThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from quantus_miner.model import Rates
    from quantus_miner.monitor import Snapshot

log = logging.getLogger("miner.metrics")


METRICS: Final = (
    Row("miner_effective_cpus", "gauge", (), "Logical CPUs that this process can really use."),
    Row("miner_workers", "gauge", (), "Workers of all engines."),
    Row("miner_cpu_workers", "gauge", (), "Workers of CPU engines."),
    Row("miner_gpu_devices", "gauge", (), "GPU devices in use."),
    Row("miner_busy_workers", "gauge", (), "Workers that are searching at this moment."),
    Row("miner_active_jobs", "gauge", (), "Jobs being searched."),
    Row("miner_hash_rate", "gauge", (), "Nonces a second, all engines, average of the last 10 seconds."),
    Row("miner_cpu_hash_rate", "gauge", (), "Nonces a second of CPU engines, average of the last 10 seconds."),
    Row("miner_gpu_hash_rate", "gauge", (), "Nonces a second of GPU engines, average of the last 10 seconds."),
    Row(
        "miner_hash_rate_average",
        "gauge",
        ("window",),
        "Nonces a second, all engines, average of the last 10s, 60s or 15m; missing before the window is full.",
    ),
    Row("miner_hash_rate_highest", "gauge", (), "Nonces a second, all engines, highest average of 10 seconds."),
    Row("miner_worker_hash_rate", "gauge", ("engine", "worker"), "Nonces a second of a worker."),
    Row(
        "miner_worker_hash_rate_average",
        "gauge",
        ("engine", "worker", "window"),
        "Nonces a second of a worker, average of the last 10s, 60s or 15m; missing before the window is full.",
    ),
    Row(
        "miner_worker_hash_rate_highest",
        "gauge",
        ("engine", "worker"),
        "Nonces a second of a worker, highest average of 10 seconds.",
    ),
    Row("miner_hashes_total", "counter", (), "Nonces tested."),
    Row(
        "miner_mine_requests_total",
        "counter",
        ("result",),
        "POST /mine by result: accepted, duplicate, invalid, error.",
    ),
    Row("miner_jobs_total", "counter", ("status",), "Ended jobs by status: completed, failed, cancelled, expired."),
    Row("miner_jobs_by_engine_total", "counter", ("engine", "status"), "Ended jobs by engine and status."),
    Row("miner_http_requests_total", "counter", ("endpoint", "code"), "API requests by route and HTTP status code."),
    Row("miner_job_hashes_total", "counter", ("engine", "job_id"), "Nonces tested for a job."),
    Row("miner_job_hash_rate", "gauge", ("engine", "job_id"), "Nonces a second for a job; 0 after its end."),
    Row("miner_thread_hashes_total", "counter", ("engine", "job_id", "thread_id"), "Nonces a worker tested for a job."),
    Row("miner_thread_hash_rate", "gauge", ("engine", "job_id", "thread_id"), "Nonces a second of a worker for a job."),
    Row("miner_job_status", "gauge", ("engine", "job_id", "status"), "1 for the status that a job has, else 0."),
    Row("miner_solutions_total", "counter", ("engine",), "Solutions found and confirmed."),
    Row(
        "miner_solutions_rejected_total",
        "counter",
        (),
        "Hits that proved invalid when they were hashed again: a broken engine.",
    ),
    Row("miner_solutions_stale_total", "counter", (), "Solutions that arrived after their job had ended."),
    Row("miner_source_connected", "gauge", ("source",), "1 while the connection to a node or pool stands, else 0."),
    Row("miner_source_mined", "gauge", ("source",), "1 for the node or pool whose job is searched, else 0."),
    Row("miner_source_failing", "gauge", ("source",), "1 for a node or pool that counts as failing, else 0."),
    Row(
        "miner_source_rank", "gauge", ("source",), "Place of a node or pool in the order of preference; 1 is the first."
    ),
    Row(
        "miner_source_refusals_total",
        "counter",
        ("source",),
        "Refused logins, and connections with another certificate or protocol version than expected.",
    ),
    Row("miner_source_connects_total", "counter", ("source",), "Connections made to a node or pool."),
    Row("miner_source_jobs_total", "counter", ("source",), "Jobs from a node or pool."),
    Row("miner_source_job_age_seconds", "gauge", ("source",), "Time since the last job from a node or pool."),
    Row("miner_source_difficulty", "gauge", ("source",), "Difficulty of the last job of a node or pool."),
    Row(
        "miner_source_solutions_total",
        "counter",
        ("source", "result"),
        "Solutions for a node or pool: sent; late, not sent as they could no longer count; and of those sent, what a "
        "pool said: accepted, rejected, stale.",
    ),
    Row("miner_source_accepted_age_seconds", "gauge", ("source",), "Time since a pool last accepted a share."),
    Row(
        "miner_source_accepted_work_total",
        "counter",
        ("source",),
        "Sum of the difficulty of the shares that a pool accepted.",
    ),
    Row("miner_source_hashes_total", "counter", ("source",), "Nonces tested for a node or pool."),
    Row("miner_source_hash_rate", "gauge", ("source",), "Nonces a second for a node or pool."),
    Row(
        "miner_source_hash_rate_average",
        "gauge",
        ("source", "window"),
        "Nonces a second for a node or pool, average of the last 10s, 60s or 15m; missing before the window is full.",
    ),
    Row(
        "miner_source_hash_rate_highest",
        "gauge",
        ("source",),
        "Nonces a second for a node or pool, highest average of 10 seconds.",
    ),
    Row(
        "miner_source_latency_seconds", "gauge", ("source",), "Time from sending the last judged share to its verdict."
    ),
    *HUB_METRICS,
    Row("miner_gpu_info", "gauge", ("device", "engine", "name"), "1 for each device of a GPU engine."),
    Row("miner_gpu_up", "gauge", ("device", "engine"), "1 while the device works, 0 while it is lost or set aside."),
    Row(
        "miner_gpu_device_hash_rate",
        "gauge",
        ("device", "engine"),
        "Nonces a second of a device, average of the last 10 seconds.",
    ),
    Row(
        "miner_gpu_device_hash_rate_average",
        "gauge",
        ("device", "engine", "window"),
        "Nonces a second of a device, average of the last 10s, 60s or 15m; missing before the window is full.",
    ),
    Row(
        "miner_gpu_device_hash_rate_highest",
        "gauge",
        ("device", "engine"),
        "Nonces a second of a device, highest average of 10 seconds.",
    ),
    Row(
        "miner_gpu_false_positives_total",
        "counter",
        ("device", "engine"),
        "False positives: nonces that a device reported and that are not valid.",
    ),
    Row("miner_gpu_temperature_celsius", "gauge", ("device",), "Temperature of the chip."),
    Row("miner_gpu_power_watts", "gauge", ("device",), "Power that the card draws."),
    Row("miner_gpu_clock_hertz", "gauge", ("device", "clock"), "Clock of the multiprocessors (sm) and the memory."),
    Row("miner_gpu_fan_ratio", "gauge", ("device",), "Speed of the fan, 1 is full."),
    Row("miner_gpu_utilization_ratio", "gauge", ("device",), "Share of the time in which a kernel ran."),
    Row("miner_gpu_hashes_per_joule", "gauge", ("device",), "Hash rate over power."),
    Row(
        "miner_subscriber_failures_total",
        "counter",
        ("subscriber",),
        "Failures of a subscriber of the monitor: heartbeat, history.",
    ),
    Row(
        "miner_snapshot_failures_total",
        "counter",
        ("part",),
        "Failures to read the state of a part: miner, sources, api, hub, store, readings.",
    ),
    Row("miner_uptime_seconds", "gauge", (), "Time since the start."),
    Row("miner_store_ok", "gauge", (), "1 while jobs and finds get to the disk, 0 while they are in memory only."),
    Row("miner_log_lines_dropped_total", "counter", (), "Log lines that could not be written."),
    Row("miner_kernel_info", "gauge", ("engine", "pow", "kernel"), "1 for each kernel in use."),
    Row("miner_build_info", "gauge", ("version", "python"), "1; what is running."),
)
"""All our metrics. The exporter adds those of the process (``process_*``) and of Python (``python_info``)."""


class MinerCollector(Collector):
    """Turns a snapshot into metric families. If a part fails, only its own series are missing."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each row of the table."""
        values: dict[str, Values] = {"miner_build_info": {(__version__, platform.python_version()): 1}}
        parts = (self._miner_values, self._gpu_values, self._api_values, self._hub_values, self._link_values)
        for part in (self._host_values, *parts):
            try:
                values |= part()
            except Exception:
                log.exception("Reading a part of the metrics has failed")
        for row in METRICS:
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = kind(row.name, row.help, labels=row.labels)
            for labels, value in values.get(row.name, {}).items():
                if value is not None:
                    family.add_metric([_label(text) for text in labels], value)
            yield family

    def _host_values(self) -> dict[str, Values]:
        snapshot = self._snapshot
        return {
            "miner_uptime_seconds": {(): snapshot.uptime_s},
            "miner_effective_cpus": {(): snapshot.effective_cpus},
            "miner_store_ok": {(): snapshot.store_ok},
            "miner_log_lines_dropped_total": {(): logs.dropped()},
            "miner_subscriber_failures_total": {(name,): n for name, n in snapshot.failures.items()},
            "miner_snapshot_failures_total": {(part,): n for part, n in snapshot.part_failures.items()},
        }

    def _miner_values(self) -> dict[str, Values]:
        stats, rates = self._snapshot.miner, self._snapshot.worker_rates
        if stats is None:
            return {}
        of_workers = {(worker.engine, str(worker.index)): rates[worker.index] for worker in stats.workers}
        cpu, gpu = (
            [rates[worker.index].current for worker in stats.workers if (worker.gpu is None) is on_cpu]
            for on_cpu in (True, False)
        )
        return (
            _rates("miner_hash_rate", [((), total)] if (total := self._snapshot.rates) else [])
            | _rates("miner_worker_hash_rate", of_workers.items())
            | {
                "miner_workers": {(): len(stats.workers)},
                "miner_cpu_workers": {(): len(cpu)},
                "miner_gpu_devices": {(): stats.gpu_devices},
                "miner_busy_workers": {(): stats.busy_workers},
                "miner_active_jobs": {(): stats.active_jobs},
                "miner_cpu_hash_rate": {(): sum(cpu)},
                "miner_gpu_hash_rate": {(): sum(gpu)},
                "miner_hashes_total": {(): stats.hashes},
                "miner_solutions_total": {(engine,): count for engine, count in stats.solved_by_engine.items()},
                "miner_solutions_rejected_total": {(): stats.rejected_solutions},
                "miner_solutions_stale_total": {(): stats.stale_solutions},
                "miner_kernel_info": dict.fromkeys(stats.kernels, 1),
            }
        )

    def _gpu_values(self) -> dict[str, Values]:
        stats, cards = self._snapshot.miner, self._snapshot.readings
        if stats is None:
            return {}
        rates = {
            (worker.gpu.id, worker.engine): self._snapshot.worker_rates[worker.index]
            for worker in stats.workers
            if worker.gpu is not None
        }
        return _rates("miner_gpu_device_hash_rate", rates.items()) | {
            "miner_gpu_info": {(gpu.id, gpu.engine, gpu.name): 1 for gpu in stats.gpus},
            "miner_gpu_up": {(gpu.id, gpu.engine): gpu.up for gpu in stats.gpus},
            "miner_gpu_false_positives_total": {(gpu.id, gpu.engine): gpu.false_positives for gpu in stats.gpus},
            "miner_gpu_temperature_celsius": {(card,): reading.temperature for card, reading in cards.items()},
            "miner_gpu_power_watts": {(card,): reading.power for card, reading in cards.items()},
            "miner_gpu_clock_hertz": {
                (card, clock): hertz
                for card, reading in cards.items()
                for clock, hertz in (("sm", reading.sm_clock), ("memory", reading.memory_clock))
            },
            "miner_gpu_fan_ratio": {(card,): reading.fan for card, reading in cards.items()},
            "miner_gpu_utilization_ratio": {(card,): reading.utilization for card, reading in cards.items()},
            "miner_gpu_hashes_per_joule": {
                (card,): rate.current / power
                for (card, _), rate in rates.items()
                if card in cards and (power := cards[card].power)
            },
        }

    def _api_values(self) -> dict[str, Values]:
        stats = self._snapshot.api
        if stats is None:
            return {}
        by_status: Counts = {(status,): 0 for status in ("completed", "failed", "cancelled", "expired")}
        for (_, status), count in stats.ended_jobs.items():
            by_status[status,] += count
        hashes: Counts = {}
        rates: Counts = {}
        thread_hashes: Counts = {}
        thread_rates: Counts = {}
        statuses: Counts = {}
        for job in stats.jobs:
            for status in Status:
                statuses[job.engine, job.job_id, status] = job.status is status
            for thread in job.threads:
                key = (thread.engine, job.job_id)
                hashes[key] = hashes.get(key, 0) + thread.hashes
                rates[key] = rates.get(key, 0) + thread.hash_rate
                thread_hashes[*key, str(thread.thread_id)] = thread.hashes
                thread_rates[*key, str(thread.thread_id)] = thread.hash_rate
        return {
            "miner_mine_requests_total": {(result,): count for result, count in stats.mine_requests.items()},
            "miner_jobs_total": by_status,
            "miner_jobs_by_engine_total": {(engine, status): n for (engine, status), n in stats.ended_jobs.items()},
            "miner_http_requests_total": {(route, str(code)): n for (route, code), n in stats.requests.items()},
            "miner_job_hashes_total": hashes,
            "miner_job_hash_rate": rates,
            "miner_thread_hashes_total": thread_hashes,
            "miner_thread_hash_rate": thread_rates,
            "miner_job_status": statuses,
        }

    def _hub_values(self) -> dict[str, Values]:
        hub, rates = self._snapshot.hub, self._snapshot.rates
        if hub is None:
            return {}
        return _rates("miner_hash_rate", () if rates is None else [((), rates)]) | hub_values(hub)

    def _link_values(self) -> dict[str, Values]:
        links = self._snapshot.sources
        rates = {(link.name,): self._snapshot.source_rates[link.name] for link in links}
        results = ("sent", "late", "accepted", "rejected", "stale")
        return _rates("miner_source_hash_rate", rates.items()) | {
            "miner_source_connected": {(link.name,): link.connected for link in links},
            "miner_source_mined": {(link.name,): link.mined for link in links},
            "miner_source_failing": {(link.name,): link.failing != "" for link in links},
            "miner_source_rank": {(link.name,): number for number, link in enumerate(links, start=1)},
            "miner_source_refusals_total": {(link.name,): link.refusals for link in links},
            "miner_source_connects_total": {(link.name,): link.connects for link in links},
            "miner_source_jobs_total": {(link.name,): link.jobs for link in links},
            "miner_source_job_age_seconds": {(link.name,): link.job_age_s for link in links},
            "miner_source_difficulty": {(link.name,): link.difficulty for link in links},
            "miner_source_solutions_total": {
                (link.name, result): getattr(link, result) for link in links for result in results
            },
            "miner_source_accepted_age_seconds": {(link.name,): link.accepted_age_s for link in links},
            "miner_source_accepted_work_total": {(link.name,): link.work for link in links},
            "miner_source_hashes_total": {(link.name,): link.hashes for link in links},
            "miner_source_latency_seconds": {(link.name,): link.latency_s for link in links},
        }


def _label(text: str) -> str:
    """Return ``text`` with control characters escaped, so that it cannot affect a terminal. Texts stay distinct."""
    return printable(text.replace("\\", "\\\\"))


def _rates(name: str, rates: Iterable[tuple[tuple[str, ...], Rates]]) -> dict[str, Values]:
    """Return three metrics of ``rates``, which are given with their labels: current rate, averages, highest average."""
    current: Counts = {}
    averages: dict[tuple[str, ...], float | None] = {}
    highest: dict[tuple[str, ...], float | None] = {}
    for labels, rate in rates:
        current[labels] = rate.current
        windows = (("10s", rate.average_10s), ("60s", rate.average_60s), ("15m", rate.average_15m))
        averages |= {(*labels, window): average for window, average in windows}
        highest[labels] = rate.highest
    return {name: current, f"{name}_average": averages, f"{name}_highest": highest}


def create_app(look: Callable[[], Snapshot]) -> ASGIApp:
    """Return the exporter, which serves ``GET /metrics``. It calls ``look`` on the event loop, once per scrape."""
    others = ProcessCollector(registry=None), PlatformCollector(registry=None)

    def render(snapshot: Snapshot) -> bytes:
        registry = CollectorRegistry()
        for collector in (MinerCollector(snapshot), *others):
            registry.register(collector)
        return generate_latest(registry)

    scrape = SharedInThread(look, render)

    async def metrics(_: Request) -> Response:
        body = await scrape.get()
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route("/metrics", metrics)])
