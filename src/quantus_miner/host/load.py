"""How much of the CPUs other processes use."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from quantus_miner.host.cpus import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FIELDS: Final = (1, 2, 3, 6, 7)
"""Columns of /proc/stat that are work of this machine: user, nice, system, irq, softirq."""


def others_cpu_time(cpus: frozenset[int], root: Path = ROOT) -> float | None:
    """Return the seconds of CPU time that all other processes have used on ``cpus`` since boot. None if unknown.

    All of this process's time counts as spent on ``cpus``.
    """
    own = time.process_time()
    names = {f"cpu{number}" for number in cpus}
    try:
        text = (root / "proc/stat").read_text(encoding="ascii")
        lines = (line.split() for line in text.splitlines() if line.startswith("cpu"))
        ticks = sum(int(words[field]) for words in lines if words[0] in names for field in FIELDS)
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK") - own
