"""The metrics of a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner.web.metric import Row

if TYPE_CHECKING:
    from quantus_miner.mining.stats import HubStats
    from quantus_miner.web.metric import Values

HUB_METRICS: Final = (
    Row("miner_hub_connections", "gauge", (), "Connections of stratum miners to the hub."),
    Row("miner_hub_leads", "gauge", (), "1 while the hub leads, 0 while another one does."),
    Row("miner_hub_banned_addresses", "gauge", (), "IP addresses that the hub has banned."),
    Row("miner_hub_solutions_waiting", "gauge", (), "Solutions of the hub's miners that are not sent to the node yet."),
    Row("miner_hub_solutions_expired_total", "counter", (), "Solutions of the hub's miners that were given up."),
    Row("miner_hub_refusals_total", "counter", ("reason",), "Refused shares of the hub's miners by reason."),
    Row("miner_hub_worker_connections", "gauge", ("worker",), "Connections with this worker name."),
    Row("miner_hub_worker_difficulty", "gauge", ("worker",), "Last share difficulty that the worker was given."),
    Row("miner_hub_worker_shares_total", "counter", ("worker", "result"), "Shares: accepted, stale, rejected."),
    Row("miner_hub_worker_solutions_total", "counter", ("worker",), "Shares that met the network's difficulty."),
    Row(
        "miner_hub_worker_work_total",
        "counter",
        ("worker",),
        "Sum of the difficulty of the accepted shares. Its rate is the hash rate that they prove.",
    ),
    Row("miner_hub_worker_accepted_age_seconds", "gauge", ("worker",), "Time since the last accepted share."),
    Row("miner_hub_rigs", "gauge", ("state",), "Rigs by state: online, offline."),
    Row("miner_hub_rig_up", "gauge", ("rig",), "1 while the rig is online, else 0."),
    Row("miner_hub_rig_hash_rate", "gauge", ("rig",), "Nonces a second, as the rig reports; missing while offline."),
    Row("miner_hub_rig_proven_hash_rate", "gauge", ("rig",), "Nonces a second that its solutions of 15 minutes prove."),
    Row("miner_hub_rig_work_total", "counter", ("rig",), "Sum of the difficulty of the rig's valid solutions."),
    Row("miner_hub_rig_hashes_total", "counter", ("rig",), "Nonces that the rig has reported since the hub's start."),
    Row("miner_hub_rig_paused", "gauge", ("rig",), "1 while the rig or one of its devices is paused, else 0."),
    Row("miner_hub_rig_waits", "gauge", ("rig",), "1 while the rig has not done yet what it was asked to, else 0."),
    Row("miner_hub_rig_contact_age_seconds", "gauge", ("rig",), "Time since the rig was heard of."),
    Row("miner_hub_rig_temperature_celsius", "gauge", ("rig",), "Temperature of the rig's hottest GPU."),
    Row("miner_hub_rig_power_watts", "gauge", ("rig",), "Power that the rig's GPUs draw."),
    Row(
        "miner_hub_rig_solutions_total",
        "counter",
        ("rig", "result"),
        "Solutions: kept, stale, invalid; in a pool also accepted, rejected.",
    ),
    Row("miner_hub_rigs_without_series", "gauge", (), "Rigs beyond those that have series of their own."),
)

MAX_RIGS: Final = 1_000
"""Rigs with series of their own."""


def hub_values(hub: HubStats) -> dict[str, Values]:
    """Return the values of HUB_METRICS."""
    rigs, online = hub.rigs[:MAX_RIGS], sum(rig.online for rig in hub.rigs)
    return {
        "miner_hub_connections": {(): hub.connections},
        "miner_hub_leads": {(): hub.leads},
        "miner_hub_banned_addresses": {(): hub.banned_addresses},
        "miner_hub_solutions_waiting": {(): hub.solutions_waiting},
        "miner_hub_solutions_expired_total": {(): hub.solutions_expired},
        "miner_hub_refusals_total": {(reason,): count for reason, count in hub.refusals.items()},
        "miner_hub_worker_connections": {(worker.name,): worker.connections for worker in hub.workers},
        "miner_hub_worker_difficulty": {(worker.name,): worker.difficulty for worker in hub.workers},
        "miner_hub_worker_shares_total": {
            (worker.name, result): getattr(worker, result)
            for worker in hub.workers
            for result in ("accepted", "stale", "rejected")
        },
        "miner_hub_worker_solutions_total": {(worker.name,): worker.blocks for worker in hub.workers},
        "miner_hub_worker_work_total": {(worker.name,): worker.work for worker in hub.workers},
        "miner_hub_worker_accepted_age_seconds": {(worker.name,): worker.accepted_age_s for worker in hub.workers},
        "miner_hub_rigs": {("online",): online, ("offline",): len(hub.rigs) - online},
        "miner_hub_rig_up": {(rig.name,): rig.online for rig in rigs},
        "miner_hub_rig_hash_rate": {(rig.name,): rig.hash_rate for rig in rigs},
        "miner_hub_rig_proven_hash_rate": {(rig.name,): rig.proven_rate for rig in rigs},
        "miner_hub_rig_work_total": {(rig.name,): rig.work for rig in rigs},
        "miner_hub_rig_hashes_total": {(rig.name,): rig.hashes for rig in rigs},
        "miner_hub_rig_paused": {(rig.name,): bool(rig.report and rig.report.pauses) for rig in rigs},
        "miner_hub_rig_waits": {(rig.name,): rig.waits for rig in rigs},
        "miner_hub_rig_contact_age_seconds": {(rig.name,): rig.contact_age_s for rig in rigs},
        "miner_hub_rig_temperature_celsius": {(rig.name,): rig.temperature for rig in rigs},
        "miner_hub_rig_power_watts": {(rig.name,): rig.power for rig in rigs},
        "miner_hub_rig_solutions_total": {
            (rig.name, result): getattr(rig, result)
            for rig in rigs
            for result in ("kept", "stale", "invalid", "accepted", "rejected")
        },
        "miner_hub_rigs_without_series": {(): len(hub.rigs) - len(rigs)},
    }
