"""The CPUs this process can really use, how many workers that makes, and how a worker's thread sits on them."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantus_miner.errors import printable
from quantus_miner.host import cgroup

LARGEST_CPU: Final = 8191
"""Linux's largest NR_CPUS is 8192; a list that names more is not one of ours, and must not cost memory."""
ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class EffectiveCpus:
    """What ``detect`` found.

    ``cpus``: usable logical CPUs. ``count``: how many of them the quota leaves, at least 1. ``mask``: the cpuset as
    the kernel wrote it, None without one. ``quota``: the tightest CPU quota in CPUs, None without one. ``warnings``:
    lines on what was ignored.
    """

    cpus: frozenset[int]
    count: int
    mask: str | None
    quota: float | None
    warnings: tuple[str, ...]


def parse_cpu_list(text: str) -> frozenset[int]:
    """CPUs of a list as the kernel writes it: ``0-3,6,8-11`` is 9 CPUs. Overlaps count once.

    Raises ValueError, in one line, where ``text`` is no such list, or is empty.
    """
    mask = 0  # as bits: thousands of ranges that overlap cost no time
    for item in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST_CPU:
            raise ValueError(f"{item[:40]!r} is no CPU or range of CPUs from 0 to {LARGEST_CPU}, such as 6 or 0-3")
        mask |= (2 << last) - (1 << first)
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def detect(root: Path = ROOT, affinity: frozenset[int] | None = None) -> EffectiveCpus:
    """CPUs that this process can use: its cgroup's cpuset and its affinity mask, limited by its cgroup's quota.

    ``root``: where ``/proc`` and ``/sys`` are. ``affinity``: the affinity mask, None for the calling thread's. What
    is missing does not limit; what is malformed is ignored with a warning. Never raises.
    """
    warnings: list[str] = []
    cpus = own_affinity() if affinity is None else affinity
    mask, cpuset = _cpuset(root, warnings)
    if cpuset is not None:
        if cpuset & cpus:
            cpus &= cpuset
        else:
            warnings.append(f"The cpuset {mask} holds no CPU of the affinity mask; using the affinity mask alone")
    quota = _quota(root, warnings)
    count = len(cpus) if quota is None else min(len(cpus), math.ceil(quota))
    return EffectiveCpus(cpus, max(1, count), mask, quota, tuple(warnings))


def default_workers(effective: int) -> int:
    """Workers where none are asked for: about half of ``effective`` CPUs, and one CPU left free where there are two."""
    return max(1, min(effective - effective // 2, effective - 1))


def pin_thread(cpus: frozenset[int]) -> bool:
    """Keep the calling thread on ``cpus``; False where that is refused (no such CPU, cpuset, system call filter)."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError, OverflowError):
        return False
    return True


def yield_priority() -> None:
    """Makes the calling thread give way to this process's other threads.

    Without this a request waits for its turn behind workers that never sleep. Ten steps of nice are enough for that.
    SCHED_IDLE would be too much: on a busy machine such a thread may not run for a second while it holds the GIL.
    In a service's own cgroup this orders only our own threads; the share against others is the cgroup's CPU weight.
    """
    with contextlib.suppress(OSError):
        os.nice(10)  # Linux: of the calling thread alone


def processor_name(root: Path = ROOT) -> str:
    """Model of the processor as the kernel names it, for people; the architecture where it has no name."""
    fields: dict[str, str] = {}
    for line in (cgroup.read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), " ".join(value.split()))
    if name := fields.get("model name"):
        return printable(name)  # a hypervisor may have written it
    # aarch64 kernels give only the numbers of the MIDR register.
    numbers = [f"{key} {fields[key]}" for key in ("CPU implementer", "CPU part") if fields.get(key)]
    return printable(", ".join([platform.machine(), *numbers]))


def own_affinity() -> frozenset[int]:
    """Return the CPUs that the calling thread may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:  # a system call filter
        return frozenset(range(os.cpu_count() or 1))


def _cpuset(root: Path, warnings: list[str]) -> tuple[str | None, frozenset[int] | None]:
    """Nearest well-formed cpuset, as text and as CPUs."""
    v2, v1 = cgroup.own_folders(root, "cpuset")
    files = [folder / "cpuset.cpus.effective" for folder in v2]
    files += [folder / name for folder in v1 for name in ("cpuset.cpus", "cpuset.effective_cpus")]
    for file in files:
        if text := cgroup.read(file):
            try:
                return text, parse_cpu_list(text)
            except ValueError as error:
                warnings.append(f"Ignoring the malformed cpuset in {file}: {error}")
    return None, None


def _quota(root: Path, warnings: list[str]) -> float | None:
    """Tightest quota of the cgroup and all above it, in CPUs: each of them limits on its own."""
    v2, v1 = cgroup.own_folders(root, "cpu")
    texts = {file: cgroup.read(file) for file in (folder / "cpu.max" for folder in v2)}
    for folder in v1:
        quota, period = (cgroup.read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        texts[folder / "cpu.cfs_quota_us"] = quota and f"{quota} {period}"
    tightest = math.inf
    for file, text in texts.items():
        if text is None or re.fullmatch(r"(max|-1)( .*)?", text):
            continue
        match = re.fullmatch(r"([1-9][0-9]{0,17}) ([1-9][0-9]{0,17})", text)
        if match:
            tightest = min(tightest, int(match[1]) / int(match[2]))
        else:
            warnings.append(f"Ignoring the malformed CPU quota in {file}: {text[:40]!r} is no quota and period")
    return None if tightest == math.inf else tightest
