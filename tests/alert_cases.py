"""When each alert fires, and when it does not."""

from __future__ import annotations

from typing import Final, NamedTuple


class Case(NamedTuple):
    """When an alert fires, ``at`` minutes after the start, and when it does not.

    Series have one sample a minute, in promtool's notation. ``labels`` and ``summary``: those of the alert.
    """

    fires: dict[str, str]
    labels: dict[str, str]
    summary: str
    quiet: tuple[dict[str, str], ...]
    at: int = 15


A: Final = "pool a"
SHARES: Final = 'miner_source_solutions_total{source="pool a",result="%s"}'
HOURS: Final = "0+60000x170"
"""Three hours: the median of a day is that of what there is."""
CASES: Final = {
    "MinerDown": Case({"up": "0x15"}, {}, "the miner cannot be reached", ({"up": "1x15"}, {"up": "1x13 0 0 1"})),
    "MinerRestarts": Case(
        {"miner_uptime_seconds": "0+60x5 0+60x3 0+60x10"},
        {},
        "the miner has started 2 times in the last hour",
        ({"miner_uptime_seconds": "0+60x5 0+60x20"},),
    ),
    "MinerStuck": Case(
        {"miner_active_jobs": "1x15", "miner_hash_rate": "0x15"},
        {},
        "the miner has work but does not hash",
        (
            {"miner_active_jobs": "1x15", "miner_hash_rate": "5x15"},
            {"miner_active_jobs": "0x15", "miner_hash_rate": "0x15"},
        ),
    ),
    "MinerIdle": Case(
        {"miner_active_jobs": "0x15"},
        {},
        "the miner has had no work for 10 minutes",
        ({"miner_active_jobs": "1x15"}, {"miner_active_jobs": "0x8 1 0x15"}),
    ),
    "MinerHasNoSource": Case(
        {'miner_source_mined{source="pool a"}': "0x15", 'miner_source_mined{source="node b"}': "0x15"},
        {},
        "none of the nodes and pools has work for the miner",
        ({'miner_source_mined{source="pool a"}': "0x15", 'miner_source_mined{source="node b"}': "1x15"},),
    ),
    "MinerSourceDown": Case(
        {'miner_source_failing{source="pool a"}': "1x15"},
        {"source": A},
        "pool a is failing",
        ({'miner_source_failing{source="pool a"}': "0x15"}, {'miner_source_failing{source="pool a"}': "0x12 1 1 1"}),
    ),
    "MinerUsesBackup": Case(
        {'miner_source_mined{source="pool a"}': "1x15", 'miner_source_rank{source="pool a"}': "2x15"},
        {"source": A},
        "mining for a backup, pool a",
        (
            {'miner_source_mined{source="pool a"}': "1x15", 'miner_source_rank{source="pool a"}': "1x15"},
            {'miner_source_mined{source="pool a"}': "0x15", 'miner_source_rank{source="pool a"}': "2x15"},
        ),
    ),
    "MinerSharesRejected": Case(
        {SHARES % "accepted": "0+9x60", SHARES % "rejected": "0+1x60", SHARES % "stale": "0x60"},
        {"source": A, "result": "rejected"},
        "pool a rejects 10% of the shares",
        (
            {SHARES % "accepted": "0+99x60", SHARES % "rejected": "0+1x60"},
            {SHARES % "accepted": "0+1x60", SHARES % "rejected": "0x40 2x20"},
            {SHARES % "accepted": "0x60", SHARES % "rejected": "0x60"},
        ),
        at=60,
    ),
    "MinerSharesStale": Case(
        {SHARES % "accepted": "0+3x60", SHARES % "rejected": "0x60", SHARES % "stale": "0+1x60"},
        {"source": A, "result": "stale"},
        "25% of the shares for pool a are stale",
        (
            {SHARES % "accepted": "0+19x60", SHARES % "stale": "0+1x60"},
            {SHARES % "accepted": "0+1x10 10x50", SHARES % "stale": "0x40 2x20"},
        ),
        at=60,
    ),
    "MinerSharesNotAccepted": Case(
        {
            'miner_source_hashes_total{source="pool a"}': "0+60000x80",
            'miner_source_difficulty{source="pool a"}': "100000x80",
            SHARES % "accepted": "7x80",
        },
        {"source": A},
        "pool a has accepted no share for an hour",
        (
            {
                'miner_source_hashes_total{source="pool a"}': "0+60000x80",
                'miner_source_difficulty{source="pool a"}': "100000x80",
                SHARES % "accepted": "7x50 8x30",
            },
            {  # the difficulty is high
                'miner_source_hashes_total{source="pool a"}': "0+60000x80",
                'miner_source_difficulty{source="pool a"}': "300000x80",
                SHARES % "accepted": "7x80",
            },
            {  # nodes do not answer
                'miner_source_hashes_total{source="node a"}': "0+60000x80",
                'miner_source_difficulty{source="node a"}': "100000x80",
                'miner_source_solutions_total{source="node a",result="accepted"}': "0x80",
            },
        ),
        at=80,
    ),
    "MinerHashRateDropped": Case(
        {"miner_hashes_total": f"{HOURS} 10230000+30000x30"},
        {},
        "the hash rate is more than 20 % below the median of the last day",
        (
            {"miner_hashes_total": f"{HOURS} 10254000+54000x30"},
            {"miner_hashes_total": f"{HOURS} 10200000x30"},  # idle: another alert
        ),
        at=195,
    ),
    "MinerGpuLost": Case(
        {'miner_gpu_up{device="0",engine="gpu-cuda"}': "0x15", 'miner_gpu_up{device="1",engine="gpu-cuda"}': "1x15"},
        {"device": "0", "engine": "gpu-cuda"},
        "GPU 0 is lost or set aside",
        ({'miner_gpu_up{device="0",engine="gpu-cuda"}': "1x15"},),
    ),
    "MinerGpuHot": Case(
        {'miner_gpu_temperature_celsius{device="0"}': "91x15"},
        {"device": "0"},
        "GPU 0 has 91 °C",
        (
            {'miner_gpu_temperature_celsius{device="0"}': "84x15"},
            {'miner_gpu_temperature_celsius{device="0"}': "91x10 70 91x10"},
        ),
    ),
    "MinerGpuComputesWrongly": Case(
        {'miner_gpu_false_positives_total{device="0",engine="gpu-cuda"}': "0x10 5x5"},
        {"device": "0", "engine": "gpu-cuda"},
        "GPU 0 reports false positives",
        ({'miner_gpu_false_positives_total{device="0",engine="gpu-cuda"}': "0x10 1x5"},),
    ),
    "MinerEngineBroken": Case(
        {"miner_solutions_rejected_total": "0x10 1x5"},
        {},
        "a hit proved invalid when it was hashed again",
        ({"miner_solutions_rejected_total": "1x15"},),
    ),
    "MinerStoreDegraded": Case(
        {"miner_store_ok": "1x10 0x5"},
        {},
        "jobs and finds are only kept in memory",
        ({"miner_store_ok": "1x15"}, {"miner_store_ok": "0x10 1x5"}),
    ),
    "MinerJobsExpire": Case(
        {'miner_jobs_total{status="expired"}': "0x10 1x5"},
        {"status": "expired"},
        "a job of the HTTP API was not polled and has expired",
        ({'miner_jobs_total{status="expired"}': "3x15", 'miner_jobs_total{status="completed"}': "0+1x15"},),
    ),
}
