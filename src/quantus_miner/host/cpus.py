"""Detect the CPUs that this process can use, choose the number of workers, and pin their threads."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantus_miner.errors import printable
from quantus_miner.host import cgroup

LARGEST_CPU: Final = 8191
"""The largest NR_CPUS of Linux is 8192. A list with a larger number is malformed, and must not cost memory."""
ROOT: Final = Path("/")
TURN_NS: Final = 10_000_000
"""Nanoseconds that a worker may run at a time while others want its CPU. The kernel's default is 1.4 ms on two CPUs and
2.8 ms on eight or more. With still longer turns, others that are busy all the time would notice."""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""Number of a system call for which Python and the C library have no function."""


@dataclass(frozen=True, slots=True)
class EffectiveCpus:
    """The CPUs that ``detect`` found.

    ``cpus``: usable logical CPUs. ``count``: as many of them as the quota allows, at least 1. ``mask``: the cpuset as
    the kernel wrote it, or None. ``quota``: the lowest CPU quota, in CPUs, or None. ``warnings``: one line for each
    value that was ignored.
    """

    cpus: frozenset[int]
    count: int
    mask: str | None
    quota: float | None
    warnings: tuple[str, ...]


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the CPUs of a list as the kernel writes it: ``0-3,6,8-11`` has 9 CPUs. Overlaps count once.

    Raises ValueError, in one line, if ``text`` is empty or not such a list.
    """
    mask = 0  # in bits, so that thousands of overlapping ranges take no time
    for item in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST_CPU:
            raise ValueError(f"{item[:40]!r} is no CPU or range of CPUs from 0 to {LARGEST_CPU}, such as 6 or 0-3")
        mask |= (2 << last) - (1 << first)
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def detect(root: Path = ROOT, affinity: frozenset[int] | None = None) -> EffectiveCpus:
    """Return the CPUs in both its cgroup's cpuset and its affinity mask, and how many of them the CPU quota allows.

    ``root``: the folder with ``/proc`` and ``/sys``. ``affinity``: the affinity mask, None for that of the calling
    thread. A missing value limits nothing; a malformed one is ignored with a warning. Never raises.
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
    """Return the default number of workers: about half of ``effective`` CPUs, with one left free if there are two."""
    return max(1, min(effective - effective // 2, effective - 1))


def pin_thread(cpus: frozenset[int]) -> bool:
    """Pin the calling thread to ``cpus``. Return False if that is refused (no such CPU, cpuset, system call filter)."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError, OverflowError):
        return False
    return True


def yield_priority() -> None:
    """Give the other threads of this process precedence over the calling thread.

    Without this, a request waits behind workers that never sleep. Ten steps of nice are enough. SCHED_IDLE would be too
    much: on a busy machine, such a thread may not run for a second while it holds the GIL. In a cgroup of its own, a
    service only ranks its own threads with this; its share against others is the CPU weight of the cgroup.
    """
    with contextlib.suppress(OSError):
        os.nice(10)  # on Linux, of the calling thread only


def take_long_turns() -> None:
    """Ask the scheduler to let the calling thread run for TURN_NS at a time. Linux before 6.12 ignores it.

    The scheduler prefers a thread that wakes up to a running one with longer turns. With turns of equal length, the
    former often waits for the next tick, up to 4 ms. So does the kernel's thread that flushes the disk's cache, for
    which every commit waits.
    """
    number = SCHED_SETATTR.get(platform.machine())
    policy = os.sched_getscheduler(0)
    if number is None or policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, policy, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, TURN_NS, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # a system call filter may refuse it


def processor_name(root: Path = ROOT) -> str:
    """Return the processor's model as the kernel names it, for people, or the architecture if it has no name."""
    fields: dict[str, str] = {}
    for line in (cgroup.read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), " ".join(value.split()))
    if name := fields.get("model name"):
        return printable(name)  # a hypervisor may have written it
    # aarch64 kernels only show the numbers of the MIDR register.
    numbers = [f"{key} {fields[key]}" for key in ("CPU implementer", "CPU part") if fields.get(key)]
    return printable(", ".join([platform.machine(), *numbers]))


def own_affinity() -> frozenset[int]:
    """Return the CPUs that the calling thread may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:  # a system call filter
        return frozenset(range(os.cpu_count() or 1))


def _cpuset(root: Path, warnings: list[str]) -> tuple[str | None, frozenset[int] | None]:
    """Return the nearest well-formed cpuset, as text and as CPUs."""
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
    """Return the lowest quota of the cgroup and of all above it, in CPUs, or None. Each of them is a limit."""
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
