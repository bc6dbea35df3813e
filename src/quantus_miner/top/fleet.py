"""The status of a hub as lines and tables of text. Texts of miners are bounded and escaped, as in ``text``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.top.text import (
    ALL,
    MAX_DIFFICULTY,
    NO_STORE,
    STATE,
    UNKNOWN,
    Table,
    bounded,
    cell,
    connections,
    duration,
    head,
    number,
    page,
    rate,
    shares,
    source_faults,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.wire.hub_status import HubStatus, MinerStatus

MAX_MINERS: Final = 1_000
"""Rows of the table of miners."""
MAX_NAMES: Final = 5
"""Names in a fault."""
RANKS: Final = {"ignored": 0, "offline": 1, "idle": 2, "paused": 3, "mining": 4}
"""Order of the states in the table: what needs a person comes first."""


def speed(status: HubStatus) -> str:
    """Return the state and the rates, such as ``mining 3.26 GH/s | 60 s … | 15 min … | proven …``."""
    rates, proven = status.totals.hash_rate, status.totals.proven_rate
    minute, quarter = rate(rates.average_60s), rate(rates.average_15m)
    return f"{status.state} {rate(rates.current)} | 60 s {minute} | 15 min {quarter} | proven {rate(proven.current)}"


def totals(status: HubStatus) -> str:
    """Return how many miners there are, and the counts of what they have sent."""
    all_ = status.totals
    counts = f"{all_.accepted:,} accepted, {all_.rejected:,} rejected, {all_.stale:,} stale"
    power = "" if all_.power_watts is None else f" | {all_.power_watts:,.0f} W"
    return cell(f"rigs: {all_.online:,}/{all_.rigs:,} | stratum: {all_.connections:,} | {counts}{power}")


def faults(status: HubStatus) -> list[str]:
    """Return what is wrong, in a few lines."""
    return bounded(_faults(status))


def _faults(status: HubStatus) -> Iterator[str]:
    yield from source_faults(status)
    for state, what in (("ignored", "sent invalid solutions and are ignored"), ("offline", "are offline")):
        names = [miner.name for miner in status.miners if miner.kind == "rig" and miner.state == state]
        if names:
            yield f"{len(names):,} rigs {what}: {_some(names)}"
    for miner in status.miners:
        if miner.orders not in ("", "waiting"):
            yield f"rig {miner.name} refuses what it was asked to: {miner.orders}"
    if status.solutions_waiting:
        yield f"{status.solutions_waiting:,} solutions wait for the node"
    if status.store_ok is False:
        yield NO_STORE


def miners(status: HubStatus) -> Table:
    """Return the rigs and stratum workers, after a row for all of them. What needs a person comes first."""
    titles = ("MINER", STATE, "RATE", "PROVEN", "OK/BAD/LATE", "HEARD", "TEMP", "POWER", "ORDERS", "60 s", "15 min")
    all_ = status.totals
    total = (
        *(ALL, status.state, rate(all_.hash_rate.current), rate(all_.proven_rate.current)),
        *(f"{all_.accepted:,}/{all_.rejected:,}/{all_.stale:,}", ""),
        *(number(all_.hottest_celsius, "{:.0f} °C"), number(all_.power_watts, "{:,.0f} W")),
        *(f"{all_.waiting:,} waiting" if all_.waiting else "", rate(all_.hash_rate.average_60s)),
        *(rate(all_.hash_rate.average_15m), "", "", "", "", ""),
    )
    order = sorted(status.miners, key=lambda miner: (RANKS[miner.state], miner.kind, miner.name))
    return table(
        (*titles, "LUCK", "DIFF", "TAGS", "VERSION", "MINES FOR"),
        [total],
        (_miner(miner, status.time) for miner in order),
        len(status.miners) + max(status.miners_left_out, 0),
        MAX_MINERS,
    )


def _miner(miner: MinerStatus, now: float) -> tuple[str, ...]:
    state = f"paused ({', '.join(miner.pauses)})" if miner.state == "paused" else miner.state
    return (
        miner.name if miner.kind == "rig" else f"{miner.name} (stratum)",
        state,
        rate(miner.rate_10s),
        rate(miner.proven_rate),
        f"{miner.accepted:,}/{miner.rejected:,}/{miner.stale:,}",
        UNKNOWN if miner.contact is None else duration(max(0.0, now - miner.contact)),
        number(miner.temperature_celsius, "{:.0f} °C"),
        number(miner.power_watts, "{:.0f} W"),
        miner.orders or UNKNOWN,
        rate(miner.rate_60s),
        rate(miner.rate_15m),
        number(miner.luck, "{:.0f} %", 100),
        UNKNOWN if miner.difficulty is None else units.difficulty(min(miner.difficulty, MAX_DIFFICULTY)),
        ", ".join(miner.tags) or UNKNOWN,
        miner.version or UNKNOWN,
        miner.source or ("the hub" if miner.state != "offline" else UNKNOWN),
    )


def plain(status: HubStatus) -> str:
    """Return everything, for a terminal without a view or a file."""
    lines = [head(status), speed(status), totals(status)]
    return page(lines, faults(status), (miners(status), shares(status), connections(status)))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(sorted(names)[:MAX_NAMES]) + more
