"""Prometheus metrics: one table, filled from the statistics snapshots at each scrape."""

from __future__ import annotations

import asyncio
import logging
import platform
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from quantus_miner import __version__
from quantus_miner.errors import printable
from quantus_miner.model import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from quantus_miner.gpu.telemetry import Readings
    from quantus_miner.mining.stats import ApiStats, LinkStats, MinerStats

log = logging.getLogger("miner.metrics")


class Row(NamedTuple):
    """One metric. ``kind``: gauge or counter."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


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
    Row("miner_solutions_total", "counter", ("engine",), "Solutions found and confirmed by the reference."),
    Row("miner_solutions_rejected_total", "counter", (), "Hits that the reference rejected: a broken engine."),
    Row("miner_solutions_stale_total", "counter", (), "Solutions that arrived after their job had ended."),
    Row("miner_source_connected", "gauge", ("source",), "1 while the connection to a node or pool stands, else 0."),
    Row("miner_source_mined", "gauge", ("source",), "1 for the node or pool whose job is searched, else 0."),
    Row("miner_source_failing", "gauge", ("source",), "1 for a node or pool that counts as failing, else 0."),
    Row(
        "miner_source_refusals_total",
        "counter",
        ("source",),
        "Refused logins, and certificates and protocol versions that were not the right ones.",
    ),
    Row("miner_source_connects_total", "counter", ("source",), "Connections made to a node or pool."),
    Row("miner_source_jobs_total", "counter", ("source",), "Jobs from a node or pool."),
    Row("miner_source_difficulty", "gauge", ("source",), "Difficulty of the last job of a node or pool."),
    Row(
        "miner_source_solutions_total",
        "counter",
        ("source", "result"),
        "Solutions for a node or pool: sent; late, not sent as they could no longer count; and of those sent, what a "
        "pool said: accepted, rejected, stale.",
    ),
    Row(
        "miner_source_latency_seconds", "gauge", ("source",), "Time from sending the last judged share to its verdict."
    ),
    Row("miner_gpu_info", "gauge", ("device", "engine", "name"), "1 for each device of a GPU engine."),
    Row("miner_gpu_up", "gauge", ("device", "engine"), "1 while the device works, 0 while it is lost or set aside."),
    Row(
        "miner_gpu_device_hash_rate",
        "gauge",
        ("device", "engine"),
        "Nonces a second of a device, average of the last 10 seconds.",
    ),
    Row(
        "miner_gpu_wrong_candidates_total",
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
    Row("miner_store_ok", "gauge", (), "1 while jobs and finds get to the disk, 0 while they are in memory only."),
    Row("miner_kernel_info", "gauge", ("engine", "pow", "kernel"), "1 for each kernel in use."),
    Row("miner_build_info", "gauge", ("version", "python"), "1; what is running."),
)
"""Every metric of ours; those of the process (``process_*``) and of Python (``python_info``) come beside them."""

Values = dict[tuple[str, ...], float]
"""Label values, in the table's order, to the sample."""


class MinerCollector(Collector):
    """Turns snapshots into metric families. A snapshot that fails costs its own series, never the scrape."""

    def __init__(
        self,
        miner: Callable[[], MinerStats],
        api: Callable[[], ApiStats],
        links: Callable[[], tuple[LinkStats, ...]],
        store_ok: Callable[[], bool],
        effective_cpus: int,
        readings: Callable[[str | None], Readings | None],
    ) -> None:
        self._miner = miner
        self._api = api
        self._links = links
        self._store_ok = store_ok
        self._effective_cpus = effective_cpus
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """One family a row of the table."""
        values: dict[str, Values] = {
            "miner_effective_cpus": {(): self._effective_cpus},
            "miner_store_ok": {(): self._store_ok()},
            "miner_build_info": {(__version__, platform.python_version()): 1},
        }
        for part in (self._miner_values, self._gpu_values, self._api_values, self._link_values):
            try:
                values |= part()
            except Exception:
                log.exception("A part of the metrics could not be read")
        for row in METRICS:
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = kind(row.name, row.help, labels=row.labels)
            for labels, value in values.get(row.name, {}).items():
                family.add_metric([_label(text) for text in labels], value)
            yield family

    def _miner_values(self) -> dict[str, Values]:
        stats = self._miner()
        return {
            "miner_workers": {(): stats.workers},
            "miner_cpu_workers": {(): stats.cpu_workers},
            "miner_gpu_devices": {(): stats.gpu_devices},
            "miner_busy_workers": {(): stats.busy_workers},
            "miner_active_jobs": {(): stats.active_jobs},
            "miner_hash_rate": {(): sum(stats.hash_rates.values())},
            "miner_cpu_hash_rate": {(): stats.hash_rates["cpu"]},
            "miner_gpu_hash_rate": {(): stats.hash_rates["gpu"]},
            "miner_hashes_total": {(): stats.hashes},
            "miner_solutions_total": {(engine,): count for engine, count in stats.solved_by_engine.items()},
            "miner_solutions_rejected_total": {(): stats.rejected_solutions},
            "miner_solutions_stale_total": {(): stats.stale_solutions},
            "miner_kernel_info": dict.fromkeys(stats.kernels, 1),
        }

    def _gpu_values(self) -> dict[str, Values]:
        gpus = self._miner().gpus
        cards = {gpu.id: reading for gpu in gpus if (reading := self._readings(gpu.pci)) is not None}
        of_cards: dict[str, dict[tuple[str, ...], float | None]] = {
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
                (gpu.id,): gpu.hash_rate / power for gpu in gpus if gpu.id in cards and (power := cards[gpu.id].power)
            },
        }
        known = {
            name: {labels: value for labels, value in values.items() if value is not None}
            for name, values in of_cards.items()
        }
        return known | {
            "miner_gpu_info": {(gpu.id, gpu.engine, gpu.name): 1 for gpu in gpus},
            "miner_gpu_up": {(gpu.id, gpu.engine): gpu.up for gpu in gpus},
            "miner_gpu_device_hash_rate": {(gpu.id, gpu.engine): gpu.hash_rate for gpu in gpus},
            "miner_gpu_wrong_candidates_total": {(gpu.id, gpu.engine): gpu.false_positives for gpu in gpus},
        }

    def _api_values(self) -> dict[str, Values]:
        stats = self._api()
        by_status: Values = {(status,): 0 for status in ("completed", "failed", "cancelled", "expired")}
        for (_, status), count in stats.ended_jobs.items():
            by_status[status,] += count
        hashes: Values = {}
        rates: Values = {}
        thread_hashes: Values = {}
        thread_rates: Values = {}
        statuses: Values = {}
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

    def _link_values(self) -> dict[str, Values]:
        links = self._links()
        results = ("sent", "late", "accepted", "rejected", "stale")
        return {
            "miner_source_connected": {(link.name,): link.connected for link in links},
            "miner_source_mined": {(link.name,): link.mined for link in links},
            "miner_source_failing": {(link.name,): link.failing != "" for link in links},
            "miner_source_refusals_total": {(link.name,): link.refusals for link in links},
            "miner_source_connects_total": {(link.name,): link.connects for link in links},
            "miner_source_jobs_total": {(link.name,): link.jobs for link in links},
            "miner_source_difficulty": {(link.name,): link.difficulty for link in links},
            "miner_source_solutions_total": {
                (link.name, result): getattr(link, result) for link in links for result in results
            },
            "miner_source_latency_seconds": {(link.name,): link.latency_s for link in links},
        }


def _label(text: str) -> str:
    """Return a label's value without characters that could steer a terminal; different texts stay different."""
    return printable(text.replace("\\", "\\\\"))


def create_app(collectors: Iterable[Collector]) -> ASGIApp:
    """The exporter: ``GET /metrics``."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    scrape: asyncio.Task[bytes] | None = None

    async def metrics(_: Request) -> Response:
        nonlocal scrape
        # Those who ask while a scrape is under way share it: a flood costs one thread.
        if scrape is None or scrape.done():
            # In a thread: with thousands of jobs it takes longer than a poll should wait.
            scrape = asyncio.create_task(asyncio.to_thread(generate_latest, registry))
        body = await asyncio.shield(scrape)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route("/metrics", metrics)])
