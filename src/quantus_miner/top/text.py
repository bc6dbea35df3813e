"""A status as lines and tables of text.

Every text of the miner is bounded and has its control characters escaped: it may come from a hostile peer or be one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner import units
from quantus_miner.errors import printable
from quantus_miner.wording import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantus_miner.model import Rates
    from quantus_miner.wire.hub_status import HubStatus
    from quantus_miner.wire.status import (
        DeviceStatus,
        JobStatus,
        PauseStatus,
        SourceStatus,
        Status,
        WorkerStatus,
    )

MAX_CHARACTERS: Final = 120
"""Characters of the longest text in a cell or of one fault."""
MAX_ROWS: Final = 300
"""Rows of a table."""
MAX_FAULTS: Final = 5
"""Faults that are listed."""
NO_STORE: Final = "jobs are kept in memory only, because the state folder cannot be written"
ALL: Final = "all"
"""First row of the table of devices, for all of them."""
UNKNOWN: Final = "-"
STATE: Final = "STATE"
"""Title of the column with a state, in every table."""
MAX_DIFFICULTY: Final = 2**512


class Table(NamedTuple):
    """Titles of columns, and rows of as many texts. The first text of a row names what it is about."""

    titles: tuple[str, ...]
    rows: list[tuple[str, ...]]


# --- lines ---


def head(status: Status | HubStatus) -> str:
    """Return which miner it is, such as ``rig1 | quantus-miner 0.1.0 | up 119 min``."""
    return f"{cell(status.host)} | quantus-miner {cell(status.version)} | up {duration(status.uptime_seconds)}"


def speed(status: Status) -> str:
    """Return the state and the rates, such as ``mining 3.26 MH/s | 60 s 3.25 MH/s | 15 min - | max 3.31 MH/s``."""
    known = status.state in ("mining", "idle")  # faults say why it is idle
    state = status.state if known or not status.reason else f"{status.state} ({cell(status.reason)})"
    current, minute, quarter, highest = _rates(status.hash_rate)
    return f"{state} {current} | 60 s {minute} | 15 min {quarter} | max {highest}"


def totals(status: Status) -> str:
    """Return the counts of shares, blocks (solutions sent to nodes), solutions of all kinds, and active jobs."""
    shares = status.shares
    counts = f"{shares.accepted:,} accepted, {shares.rejected:,} rejected, {shares.stale:,} stale"
    others = f"blocks: {status.blocks:,} | solutions: {status.solutions:,} | jobs: {status.active_jobs:,}"
    return cell(f"shares: {counts} | {others}")


def faults(status: Status) -> list[str]:
    """Return what is wrong, at most MAX_FAULTS lines."""
    return bounded(_faults(status))


def bounded(lines: Iterable[str]) -> list[str]:
    """Return at most MAX_FAULTS lines, each in short."""
    found = [cell(line) for line in lines]
    left_out = len(found) - MAX_FAULTS
    return found if left_out <= 0 else [*found[: MAX_FAULTS - 1], f"and {left_out + 1} more"]


def _faults(status: Status) -> Iterator[str]:
    if status.state == "failed":
        yield "no worker is left; restart the miner"
    if status.state == "idle" and not status.sources:
        yield status.reason
    yield from source_faults(status)
    for device in status.devices:
        if not device.up and not device.paused:
            yield f"device {device.id} of engine {device.engine} is lost"
    for worker in status.workers:
        if worker.failed:
            yield f"worker {worker.index} has failed; restart the miner"
        elif worker.stalled:
            yield f"worker {worker.index} has work and does not advance"
    if status.solutions_rejected:
        yield f"{status.solutions_rejected:,} hits proved invalid when they were hashed again"
    if status.store_ok is False:
        yield NO_STORE


def source_faults(status: Status | HubStatus) -> Iterator[str]:
    """Yield what is wrong with the nodes and pools up to the one that is mined."""
    for place, source in enumerate(status.sources):
        if source.mined:
            if source.failing:
                yield f"{short(source.name)} is failing: {source.failing}"
            if place:
                yield f"mining for {short(source.name)} instead"
            break  # those after it are not needed
        if source.refusal:
            yield f"{short(source.name)} refuses us: {source.refusal}"
        elif not source.connected:
            yield f"{short(source.name)} is not connected"
        elif source.failing:
            yield f"{short(source.name)} is failing: {source.failing}"
        elif status.state == "idle":
            yield f"{short(source.name)} has no work"


# --- tables ---


def devices(status: Status) -> Table:
    """Return the devices, after a row for all of them."""
    titles = ("DEVICE", "ENGINE", STATE, "RATE", "60 s", "TEMP", "POWER", "PER JOULE", "15 min", "MAX", "FAN", "CLOCK")
    rates = status.hash_rate
    total = (ALL, "", status.state, rate(rates.current), rate(rates.average_60s), "", "", "")
    return table(
        (*titles, "NAME"),
        [(*total, rate(rates.average_15m), rate(rates.highest), "", "", "")],
        (_device(device, status.pauses) for device in status.devices),
        len(status.devices),
    )


def _device(device: DeviceStatus, pauses: Sequence[PauseStatus]) -> tuple[str, ...]:
    if device.paused:
        state = f"paused ({', '.join(sorted({each.reason for each in pauses if each.device in (None, device.id)}))})"
    elif not device.up:
        state = "lost"
    else:
        state = "mining" if device.busy_workers else "idle"
    rates, efficiency = device.hash_rate, device.hashes_per_joule
    return (
        device.id,
        device.engine if device.workers == 1 else f"{device.engine} x{device.workers}",
        state,
        rate(rates.current),
        rate(rates.average_60s),
        number(device.temperature_celsius, "{:.0f} °C"),
        number(device.power_watts, "{:.0f} W"),
        UNKNOWN if efficiency is None else units.hash_rate(efficiency).replace("H/s", "H/J"),
        rate(rates.average_15m),
        rate(rates.highest),
        number(device.fan_ratio, "{:.0f} %", 100),
        number(device.sm_clock_hertz, "{:.0f} MHz", 1e-6),
        device.name,
    )


def workers(status: Status) -> Table:
    """Return the workers."""
    titles = ("WORKER", "DEVICE", "ENGINE", STATE, "RATE", "60 s", "15 min", "MAX", "HASHES")
    return table(titles, [], map(_worker, status.workers), len(status.workers))


def _worker(worker: WorkerStatus) -> tuple[str, ...]:
    states = {"failed": worker.failed, "stalled": worker.stalled, "paused": worker.paused, "mining": worker.busy}
    state = next((name for name, applies in states.items() if applies), "idle")
    return str(worker.index), worker.device, worker.engine, state, *_rates(worker.hash_rate), f"{worker.hashes:,}"


def shares(status: Status | HubStatus) -> Table:
    """Return the sources with what was sent to them."""
    titles = ("SOURCE", STATE, "SHARES", "LAST", "RATE", "DIFF", "LATENCY", "SENT", "LUCK")
    return table(titles, [], map(_shares, status.sources, _source_states(status)), len(status.sources))


def _shares(source: SourceStatus, state: str) -> tuple[str, ...]:
    return (
        short(source.name),
        state,
        f"{source.accepted:,}/{source.rejected:,}/{source.stale:,}",
        duration(source.accepted_age_seconds),
        rate(source.hash_rate.current),
        UNKNOWN if source.difficulty is None else units.difficulty(min(source.difficulty, MAX_DIFFICULTY)),
        number(source.latency_seconds, "{:.0f} ms", 1000),
        f"{source.sent:,}",
        number(source.luck, "{:.0f} %", 100),
    )


def connections(status: Status | HubStatus) -> Table:
    """Return the sources with how they are connected."""
    titles = ("SOURCE", STATE, "CONNECTS", "JOBS", "LATE", "LAST JOB", "LATENCY", "REASON")
    return table(titles, [], map(_connection, status.sources, _source_states(status)), len(status.sources))


def _connection(source: SourceStatus, state: str) -> tuple[str, ...]:
    return (
        short(source.name),
        state,
        f"{source.connects:,}",
        f"{source.jobs:,}",
        f"{source.late:,}",
        duration(source.job_age_seconds),
        number(source.latency_seconds, "{:.0f} ms", 1000),
        source.refusal or source.failing or UNKNOWN,
    )


def _source_states(status: Status | HubStatus) -> Iterator[str]:
    """Yield the state of each source. Those after the one that is mined need no connection."""
    needed = True
    for source in status.sources:
        states = {
            "refused": bool(source.refusal),
            "failing": source.connected and bool(source.failing),
            "mined": source.mined,
            "down": needed and not source.connected,
        }
        yield next((name for name, applies in states.items() if applies), "standby")
        needed = needed and not source.mined


def jobs(status: Status) -> Table:
    """Return the jobs of the job API."""
    return table(
        ("JOB", STATE, "RATE", "HASHES", "ENGINE"),
        [],
        map(_job, status.jobs),
        len(status.jobs) + max(status.jobs_left_out, 0),
    )


def _job(job: JobStatus) -> tuple[str, ...]:
    return job.job_id, job.status, rate(job.hash_rate), f"{job.hashes:,}", job.engine


def table(
    titles: tuple[str, ...],
    first: list[tuple[str, ...]],
    found: Iterable[tuple[str, ...]],
    count: int,
    most: int = MAX_ROWS,
) -> Table:
    """Return a table of ``first`` and up to ``most`` of ``found``. ``count``: how many of these there are."""
    rows = first + [tuple(map(cell, row)) for row, _ in zip(found, range(most), strict=False)]
    left_out = count - (len(rows) - len(first))
    if left_out or not rows:
        rows.append((cell(f"and {left_out:,} more") if left_out else "none", *[""] * (len(titles) - 1)))
    return Table(titles, rows)


# --- the status as plain text ---


def plain(status: Status) -> str:
    """Return everything, for a terminal without a view or a file."""
    tables = (devices(status), workers(status), shares(status), connections(status), jobs(status))
    return page([head(status), speed(status), totals(status)], faults(status), tables)


def page(lines: list[str], wrong: list[str], tables: Iterable[Table]) -> str:
    """Return lines, faults and tables as one text."""
    shown = [*lines, *(f"! {line}" for line in wrong)]
    return "\n".join(shown) + "\n" + "".join(f"\n{aligned(each)}" for each in tables)


def aligned(table: Table) -> str:
    """Return a table with spaces between its columns."""
    lines = [table.titles, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "".join(f"{line}\n" for line in padded)


# --- words ---


def cell(value: str) -> str:
    """Return a text of a miner in short, with control characters escaped."""
    text = printable(value[:MAX_CHARACTERS])
    return text if len(text) <= MAX_CHARACTERS and len(value) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def rate(hashes_per_second: float | None) -> str:
    """Return a hash rate with its unit."""
    return UNKNOWN if hashes_per_second is None else cell(units.hash_rate(hashes_per_second))


def _rates(rates: Rates) -> tuple[str, ...]:
    return rate(rates.current), rate(rates.average_60s), rate(rates.average_15m), rate(rates.highest)


def duration(seconds: float | None) -> str:
    """Return a time with its unit."""
    return UNKNOWN if seconds is None else cell(units.duration(seconds))


def number(value: float | None, form: str, factor: float = 1) -> str:
    """Return ``factor`` times ``value`` in ``form``."""
    return UNKNOWN if value is None else form.format(value * factor)
