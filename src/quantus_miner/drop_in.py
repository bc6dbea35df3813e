"""``quantus-miner service print``: a systemd drop-in fitted to this host's CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner.host import cpus, topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def format_cpu_list(numbers: Iterable[int]) -> str:
    """Return a CPU list as systemd and the kernel write it: ``0-3,6``."""
    runs: list[list[int]] = []
    for cpu in sorted(numbers):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def shared(available: frozenset[int], root: Path = cpus.ROOT) -> Iterator[str]:
    """Yield the drop-in for a host that also runs a node. With two cores or more, the node keeps a fast one."""
    known = topology.cores(available, root)
    kept, ours = (known[:1], known[1:]) if len(known) > 1 else ([], known)
    count = sum(len(core.cpus) for core in ours)
    yield "# For this machine, with a node: /etc/systemd/system/quantus-miner.service.d/10-shared-hardware.conf"
    yield from _comments(known)
    yield "[Service]"
    yield "CPUAffinity="
    if kept:
        yield f"# CPU {format_cpu_list(kept[0].cpus)} stays with the node and the system."
    yield f"CPUAffinity={format_cpu_list(cpu for core in ours for cpu in core.cpus)}"
    yield "CPUWeight=20"
    yield "IOWeight=20"
    yield "Nice=10"
    yield f"# Workers while MINER_WORKERS is unset: {cpus.default_workers(count)}"


def dedicated(available: frozenset[int], root: Path = cpus.ROOT) -> Iterator[str]:
    """Yield the drop-in for a host that only mines: all its CPUs, and a worker on each."""
    yield "# For this machine, for mining alone: /etc/systemd/system/quantus-miner.service.d/20-dedicated-hardware.conf"
    yield from _comments(topology.cores(available, root))
    yield "[Service]"
    yield "CPUAffinity="
    yield f"CPUAffinity={format_cpu_list(available)}"
    yield "CPUWeight=1000"
    yield "IOWeight=100"
    yield "Nice=-5"
    yield "# What /etc/default/quantus-miner says of it wins."
    yield f"Environment=MINER_WORKERS={len(available)}"


def _comments(known: list[topology.PhysicalCore]) -> Iterator[str]:
    """Yield a comment for each NUMA node, with its cores and CPUs."""
    for node in sorted({core.node for core in known}):
        here = [core for core in known if core.node == node]
        numbers = format_cpu_list(cpu for core in here for cpu in core.cpus)
        yield f"# NUMA node {node}: cores {len(here)}, CPUs {numbers}"
