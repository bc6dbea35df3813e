"""Where workers sit: whole cores first, fast cores before slow ones, node by node."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from quantus_miner.host import cgroup
from quantus_miner.host.cpus import ROOT, parse_cpu_list

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SYSTEM: Final = "sys/devices/system"


class PhysicalCore(NamedTuple):
    """A physical core: its usable logical CPUs; ``performance`` compares with that of other cores; its NUMA node."""

    cpus: tuple[int, ...]
    performance: int
    node: int


def cores(cpus: Iterable[int], root: Path = ROOT) -> list[PhysicalCore]:
    """The cores that ``cpus`` belong to, best first: by performance, then by node, then by number.

    What sysfs does not say counts as one thread a core, equal cores, one node. ``root``: where ``/sys`` is.
    """
    usable = set(cpus)
    slow = cpu_list(root / "sys/devices/cpu_atom/cpus")
    nodes = {
        cpu: int(number)
        for folder in sorted((root / SYSTEM / "node").glob("node[0-9]*"))
        if re.fullmatch(r"[0-9]+", number := folder.name.removeprefix("node"))
        for cpu in cpu_list(folder / "cpulist")
    }
    found = []
    while usable:
        first = min(usable)
        folder = root / SYSTEM / f"cpu/cpu{first}"
        siblings = (cpu_list(folder / "topology/thread_siblings_list") & usable) | {first}
        usable -= siblings
        # aarch64 has a capacity, 1024 for the fastest; hybrid x86 processors list their efficient cores.
        capacity = cgroup.read(folder / "cpu_capacity") or ""
        performance = int(capacity) if re.fullmatch(r"[0-9]{1,9}", capacity) else int(first not in slow)
        found.append(PhysicalCore(tuple(sorted(siblings)), performance, nodes.get(first, 0)))
    return sorted(found, key=lambda core: (-core.performance, core.node, core.cpus))


def places(workers: int, cpus: Iterable[int], root: Path = ROOT) -> list[frozenset[int]]:
    """The CPUs that each of ``workers`` workers is to keep to; an empty list: wherever the scheduler puts them.

    With a worker for every CPU the machine is ours: one CPU each. With fewer, each keeps to a core, and a core gets
    a second worker only when all have one; where all cores are alike and have one thread there is nothing to gain
    over the scheduler, which knows what else runs.
    """
    known = cores(cpus, root)
    threads = max(len(core.cpus) for core in known)
    slots = [(core, thread) for thread in range(threads) for core in known if thread < len(core.cpus)]
    if workers >= len(slots):
        return [frozenset({core.cpus[thread]}) for core, thread in slots]
    if threads == 1 and len({core.performance for core in known}) == 1:
        return []
    return [frozenset(core.cpus) for core, _ in slots[:workers]]


def cpu_list(path: Path) -> frozenset[int]:
    """The CPUs in a sysfs file; none where it is missing or malformed."""
    try:
        return parse_cpu_list(cgroup.read(path) or "")
    except ValueError:
        return frozenset()
