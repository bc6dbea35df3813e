"""Memory and load of the machine, and the memory of this process."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantus_miner.host.cgroup import read
from quantus_miner.host.cpus import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resources:
    """Memory in bytes, 0 if the kernel does not tell. ``load``: averages over 1, 5 and 15 minutes."""

    free: int
    total: int
    own: int
    load: tuple[float, float, float]


def read_resources(root: Path = ROOT) -> Resources:
    """Return what the kernel says now."""
    sizes = dict(re.findall(r"^(\w+): +([0-9]{1,15}) kB$", read(root / "proc/meminfo") or "", re.MULTILINE))
    own = dict(re.findall(r"^(VmRSS):\s+([0-9]{1,15}) kB$", read(root / "proc/self/status") or "", re.MULTILINE))
    free, total, rss = (
        int(size) * 1024 for size in (sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0), own.get("VmRSS", 0))
    )
    try:
        load = os.getloadavg()
    except OSError:
        load = (0.0, 0.0, 0.0)
    return Resources(free, total, rss, load)
