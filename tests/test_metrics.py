"""The exporter: the table is what is served, counts move, nothing fails a scrape."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from quantus_miner import logs
from quantus_miner.gpu.telemetry import Readings
from quantus_miner.mining.stats import (
    ApiStats,
    GpuStats,
    HubStats,
    HubWorkerStats,
    JobStats,
    LinkStats,
    MinerStats,
    RigStats,
    ThreadStats,
    WorkerStats,
)
from quantus_miner.model import MAX, Rates, Status
from quantus_miner.monitor import Snapshot
from quantus_miner.web import hub_metrics
from quantus_miner.web.hub_metrics import HUB_METRICS
from quantus_miner.web.metrics import METRICS, MinerCollector
from quantus_miner.wire.fleet import StatusMessage

from .conftest import MinerProcess

if TYPE_CHECKING:
    import pytest

CARD = GpuStats("0000:01:00.0", "gpu-cuda", "a card", "0000:01:00.0", up=True, false_positives=0)
OTHER = GpuStats("1", "gpu-opencl", "another", None, up=False, false_positives=3)
MINER = MinerStats(
    workers=(
        WorkerStats(0, "cpu-fast", 100, busy=True),
        WorkerStats(1, "gpu-cuda", 900, busy=True, gpu=CARD),
        WorkerStats(2, "gpu-opencl", 0, works=False, gpu=OTHER),
    ),
    active_jobs=1,
    hashes=1000,
    rejected_solutions=0,
    stale_solutions=0,
    solved_by_engine={"cpu-fast": 1},
    kernels=frozenset({("cpu-fast", "qpow-sha3", "scalar")}),
)
READINGS = Readings(temperature=61, power=420, sm_clock=2.5e9, memory_clock=None, fan=0.4, utilization=0.99)
API = ApiStats(
    requests={("/mine", 200): 1},
    mine_requests={"accepted": 1},
    ended_jobs={("cpu-fast", "completed"): 1},
    jobs=(
        JobStats(
            "j", "cpu-fast", Status.RUNNING, (ThreadStats("cpu-fast", 0, 7, 1.5), ThreadStats("cpu-fast", 1, 5, 0.5))
        ),
    ),
)

LINK = LinkStats(
    "node a",
    connected=True,
    jobs=1,
    job_at=70.0,
    difficulty=9,
    sent=5,
    late=2,
    accepted=1,
    accepted_at=80.0,
    work=MAX,
    hashes=600,
    latency_s=0.25,
    now=100.0,
)
RATES = Rates(850.0, 850.0, 700.0, None, 900.0)
SNAPSHOT = Snapshot(
    time=1.7e9,
    uptime_s=70.0,
    effective_cpus=4,
    miner=MINER,
    sources=(LINK,),
    api=API,
    store_ok=True,
    readings={CARD.id: READINGS},
    rates=RATES,
    worker_rates={
        0: Rates(10.0, 10.0, 11.0, None, 12.0),
        1: Rates(840.0, 840.0, 689.0, None, 890.0),
        2: Rates(0.0, None, None, None, None),
    },
    source_rates={LINK.name: RATES},
    failures={"heartbeat": 2},
    part_failures={"miner": 0},
)


REPORT = StatusMessage("1.0", 90.0, 5e6, 50, 1, 4, 60.0, 200.0, pauses=["hub"])
HUB = HubStats(
    connections=2,
    banned_addresses=1,
    solutions_waiting=3,
    solutions_expired=4,
    work=500,
    refusals={"Stale share": 5},
    workers=(
        HubWorkerStats("rig", 2, 100, 6, 5, 7, 1, 500, 2.5, 10.0),
        HubWorkerStats("new", 0, 0, 0, 0, 0, 0, 0, None, 0.0),
    ),
    rigs=(
        RigStats("rig7", (), True, False, 1.5, REPORT, False, 3, 2, 1, 2, 1, 700, 1_400, 8.0),
        RigStats("rig8", (), False, False, 99.0, REPORT, True, 0, 0, 0, 0, 0, 0, 0, 0.0),
    ),
)
HUB_SNAPSHOT = Snapshot(time=1.7e9, uptime_s=70.0, effective_cpus=4, hub=HUB, rates=RATES)


def scrape(collector: MinerCollector) -> dict[str, dict[tuple[str, ...], float]]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    labels = {row.name: row.labels for row in METRICS}
    for family in families:
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sample.labels[name] for name in labels[sample.name])] = (
                sample.value
            )
    return samples


def test_every_row_of_the_table_has_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "dropped", lambda: 12)
    samples = scrape(MinerCollector(SNAPSHOT))
    assert samples.keys() == {row.name for row in METRICS} - {row.name for row in HUB_METRICS}
    assert samples["miner_log_lines_dropped_total"] == {(): 12}
    assert samples["miner_hash_rate"] == {(): 850.0}
    # A window that is longer than its history has no sample.
    assert samples["miner_hash_rate_average"] == {("10s",): 850.0, ("60s",): 700.0}
    assert samples["miner_hash_rate_highest"] == {(): 900.0}
    assert samples["miner_cpu_hash_rate"] == {(): 10.0}
    assert samples["miner_gpu_hash_rate"] == {(): 840.0}
    assert samples["miner_worker_hash_rate_highest"] == {("cpu-fast", "0"): 12.0, ("gpu-cuda", "1"): 890.0}
    assert samples["miner_gpu_device_hash_rate_average"][CARD.id, "gpu-cuda", "60s"] == 689.0
    assert samples["miner_source_hash_rate_average"] == {("node a", "10s"): 850.0, ("node a", "60s"): 700.0}
    assert samples["miner_source_accepted_work_total"] == {("node a",): float(MAX)}
    assert samples["miner_subscriber_failures_total"] == {("heartbeat",): 2}
    assert samples["miner_job_hashes_total"] == {("cpu-fast", "j"): 12}
    assert samples["miner_job_hash_rate"] == {("cpu-fast", "j"): 2.0}
    assert samples["miner_thread_hashes_total"] == {("cpu-fast", "j", "0"): 7, ("cpu-fast", "j", "1"): 5}
    assert samples["miner_job_status"]["cpu-fast", "j", "running"] == 1
    assert sum(samples["miner_job_status"].values()) == 1
    assert samples["miner_jobs_total"]["completed",] == 1
    assert samples["miner_gpu_up"] == {("0000:01:00.0", "gpu-cuda"): 1, ("1", "gpu-opencl"): 0}
    assert samples["miner_gpu_false_positives_total"]["1", "gpu-opencl"] == 3
    # What a card does not say has no series.
    assert samples["miner_gpu_clock_hertz"] == {("0000:01:00.0", "sm"): 2.5e9}
    assert samples["miner_gpu_hashes_per_joule"] == {("0000:01:00.0",): 2.0}
    assert samples["miner_source_connected"] == {("node a",): 1}
    assert samples["miner_source_solutions_total"]["node a", "late"] == 2
    assert samples["miner_source_job_age_seconds"] == {("node a",): 30.0}
    assert samples["miner_source_accepted_age_seconds"] == {("node a",): 20.0}


def test_a_hub_has_series_of_its_own() -> None:
    samples = scrape(MinerCollector(HUB_SNAPSHOT))
    assert samples.keys() >= {row.name for row in HUB_METRICS}
    assert "miner_workers" not in samples
    assert (samples["miner_hash_rate"], samples["miner_hash_rate_average"]["60s",]) == ({(): 850.0}, 700.0)
    assert samples["miner_hub_worker_shares_total"]["rig", "stale"] == 5
    assert samples["miner_hub_worker_work_total"] == {("rig",): 500, ("new",): 0}
    assert samples["miner_hub_worker_accepted_age_seconds"] == {("rig",): 2.5}
    assert samples["miner_hub_rigs"] == {("online",): 1, ("offline",): 1}
    assert (samples["miner_hub_rig_up"], samples["miner_hub_rig_hash_rate"]) == (
        {("rig7",): 1, ("rig8",): 0},
        {("rig7",): 5e6},
    )
    assert samples["miner_hub_rig_solutions_total"]["rig7", "kept"] == 3
    assert samples["miner_hub_refusals_total"] == {("Stale share",): 5}
    assert samples["miner_hub_rig_paused"] == {("rig7",): 1, ("rig8",): 0}
    assert samples["miner_hub_rig_waits"] == {("rig7",): 0, ("rig8",): 1}
    assert samples["miner_hub_rig_temperature_celsius"] == {("rig7",): 60.0}
    assert (samples["miner_hub_rig_work_total"]["rig7",], samples["miner_hub_rig_hashes_total"]["rig7",]) == (
        700,
        1_400,
    )


def test_the_series_of_rigs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_metrics, "MAX_RIGS", 1)
    samples = scrape(MinerCollector(HUB_SNAPSHOT))
    assert samples["miner_hub_rig_up"] == {("rig7",): 1}
    assert samples["miner_hub_rigs_without_series"] == {(): 1}
    assert samples["miner_hub_rigs"] == {("online",): 1, ("offline",): 1}


def test_what_a_source_has_not_had_yet_has_no_series() -> None:
    samples = scrape(
        MinerCollector(replace(SNAPSHOT, sources=(LINK, LinkStats("b")), source_rates={"node a": RATES, "b": RATES}))
    )
    assert samples["miner_source_rank"] == {("node a",): 1, ("b",): 2}
    assert samples["miner_source_difficulty"] == {("node a",): 9}
    assert samples["miner_source_latency_seconds"] == {("node a",): 0.25}
    for name in ("miner_source_job_age_seconds", "miner_source_accepted_age_seconds"):
        assert samples[name].keys() == {("node a",)}


def test_a_part_that_is_missing_or_fails_costs_its_own_series_only(caplog: pytest.LogCaptureFixture) -> None:
    samples = scrape(MinerCollector(replace(SNAPSHOT, api=None, store_ok=None, source_rates={})))
    assert samples["miner_workers"] == {(): 3}
    assert samples.keys().isdisjoint({"miner_jobs_total", "miner_store_ok", "miner_source_connected"})
    assert "Reading a part of the metrics has failed" in caplog.text
    samples = scrape(MinerCollector(Snapshot(time=1.7e9, uptime_s=0.0, effective_cpus=4)))
    of_the_process = {"miner_uptime_seconds", "miner_build_info", "miner_log_lines_dropped_total"}
    assert samples.keys() == {"miner_effective_cpus", *of_the_process}


def test_counts_move_during_a_long_job_and_its_series_vanish_with_it() -> None:
    with MinerProcess("--port", "0", "--metrics-port", "0", "--workers", "1", "--progress-chunk-ms", "60000") as miner:
        job_id = str(uuid.uuid4())
        job = {"job_id": job_id, "mining_hash": "00" * 32, "difficulty": str(MAX)}
        assert miner.call("POST", "/mine", job)[0] == 200
        of_job = frozenset({("engine", "cpu-fast"), ("job_id", job_id)})
        seen: set[float] = set()
        while len(seen) < 3:
            seen.add(miner.metrics().get(("miner_job_hashes_total", of_job), 0.0))
        while not (samples := miner.metrics())["miner_cpu_hash_rate", frozenset()]:
            pass
        assert samples["miner_hash_rate", frozenset()] > 0
        assert samples["miner_active_jobs", frozenset()] == samples["miner_busy_workers", frozenset()] == 1
        assert samples["miner_effective_cpus", frozenset()] >= 1
        assert samples["miner_thread_hashes_total", of_job | {("thread_id", "0")}] > 0
        assert miner.call("POST", "/mine", job)[0] == 409
        assert miner.call("POST", "/mine", {})[0] == 400
        miner.call("POST", f"/cancel/{job_id}")
        samples = miner.metrics()
        assert samples["miner_job_hash_rate", of_job] == 0
        for result in ("accepted", "duplicate", "invalid"):
            assert samples["miner_mine_requests_total", frozenset({("result", result)})] == 1
        assert samples["miner_jobs_total", frozenset({("status", "cancelled")})] == 1
        assert samples["miner_http_requests_total", frozenset({("endpoint", "/mine"), ("code", "409")})] == 1
        assert samples["miner_http_requests_total", frozenset({("endpoint", "/cancel/{job_id}"), ("code", "200")})] == 1
        assert samples["process_resident_memory_bytes", frozenset()] > 0
