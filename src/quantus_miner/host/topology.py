"""Assign CPUs to workers: whole cores first, fast cores before slow ones, node by node."""

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
    """A physical core: its usable logical CPUs, its speed relative to other cores, and its NUMA node."""

    cpus: tuple[int, ...]
    performance: int
    node: int


def cores(cpus: Iterable[int], root: Path = ROOT) -> list[PhysicalCore]:
    """Return the cores that ``cpus`` belong to, best first: by performance, then by node, then by number.

    Without data in sysfs, each core has one thread, all cores are equal, and there is one node. ``root``: the folder
    with ``/sys``.
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


def affinity(workers: int, cpus: Iterable[int], root: Path = ROOT) -> list[frozenset[int]]:
    """Return the CPUs that each of ``workers`` workers is pinned to. If the list is empty, none is pinned.

    With a worker for every CPU, each gets one CPU. With fewer, each gets a core, and no core gets a second worker
    before all have one. If all cores are equal and have one thread, pinning gains nothing over the scheduler, which
    knows what else runs.
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
    """Return the CPUs in a sysfs file, or none if it is missing or malformed."""
    try:
        return parse_cpu_list(cgroup.read(path) or "")
    except ValueError:
        return frozenset()
