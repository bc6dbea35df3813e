"""What ``doctor`` can find from inside the running service, without disturbing its work.

The engines are not started a second time and the sources are not connected to again: their state is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner import doctor, logs, units
from quantus_miner.doctor import Finding
from quantus_miner.wire.events import FindingMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantus_miner.mining.stats import MinerStats
    from quantus_miner.monitor import Snapshot
    from quantus_miner.settings import Settings
    from quantus_miner.unit import Host


def examine(host: Host, settings: Settings, snapshot: Snapshot) -> list[FindingMessage]:
    """Return all findings, the worst first. It may take seconds. ``host``: without a unit."""
    found = [*doctor.examine_running(host, settings), *_state(snapshot)]
    found.sort(key=lambda finding: ("wrong", "note", "ok").index(finding.verdict))
    return [FindingMessage(each.verdict, each.about, each.found, each.advice) for each in found]


def _state(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.miner is not None:
        yield from _workers(snapshot.miner)
    mined = [source.mined for source in snapshot.sources]
    for number, source in enumerate(snapshot.sources):
        if source.refusal:
            yield Finding(source.name, f"refuses the miner: {source.refusal}", "Correct its token, wallet or pin")
        elif source.failing:
            yield Finding(source.name, f"is failing: {source.failing}", "The log says more; the next source is used")
        elif source.connected:
            yield Finding(source.name, "is connected")
        elif any(mined[:number]):
            yield Finding(source.name, "is not connected, because it is not needed")
        else:
            found = f"is not connected for {units.duration(source.state_age_s)}"
            yield Finding(source.name, found, "Check its address and the network; it is tried again and again")
    if snapshot.store_ok is False:
        advice = "The log says why; make room on the disk, or correct the permissions of the state folder"
        yield Finding("store", "jobs are kept in memory only", advice)
    if dropped := logs.dropped():
        yield Finding(
            "log",
            f"{dropped:,} lines were dropped: nobody reads them, or the disk is full",
            "Check stderr",
            wrong=False,
        )


def _workers(miner: MinerStats) -> Iterator[Finding]:
    for gpu in miner.gpus:
        if not gpu.up:
            yield Finding(gpu.name, f"{gpu.id} is lost", "It is opened again while there is work; the log says why")
        elif gpu.false_positives:
            found = f"{gpu.id} has reported {gpu.false_positives:,} false positives"
            yield Finding(gpu.name, found, "Lower its clocks: its arithmetic is not reliable", wrong=False)
        else:
            yield Finding(gpu.name, f"{gpu.id} works")
    for numbers, what in ((miner.failed, "ended with an error"), (miner.stalled, "have work but do not advance")):
        if numbers:
            yield Finding("workers", f"{', '.join(map(str, numbers))} {what}", "The log says why; restart the miner")
