"""The CPUs found in fake trees of kernel files, and what a real thread may do with its own."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import threading
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.host import cgroup
from quantus_miner.host.cpus import (
    TURN_NS,
    EffectiveCpus,
    default_workers,
    detect,
    parse_cpu_list,
    pin_thread,
    processor_name,
    take_long_turns,
    yield_priority,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Result = TypeVar("Result")

MACHINE = frozenset(range(16))


def tree(root: Path, own: str, files: dict[str, str]) -> Path:
    """A machine: what /proc/self/cgroup says, and files under /sys/fs/cgroup."""
    for path, text in {"proc/self/cgroup": own, **{f"sys/fs/cgroup/{name}": t for name, t in files.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def in_thread(work: Callable[[], Result]) -> Result:
    """What ``work`` returns in a thread of its own, which takes its scheduling with it when it ends."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


# --- lists ---


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,6,8-11", {0, 1, 2, 3, 6, 8, 9, 10, 11}),
        (" 0 - 3 , 6\n", {0, 1, 2, 3, 6}),
        ("0-3,2-5,3", {0, 1, 2, 3, 4, 5}),
        ("8191", {8191}),
        ("007", {7}),
    ],
)
def test_cpu_list(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    "text",
    ["", ",", "0,", "a", "-1", "1-", "3-1", "0--3", "0-1-2", "0x1", "1 2", "٣", "8192", "0-99999999999", "0\x00"],
)
def test_malformed_cpu_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is no CPU or range of CPUs from 0 to 8191, such as 6 or 0-3$"):
        parse_cpu_list(text)


@given(st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 40)), min_size=1, max_size=20))
def test_cpu_list_agrees_with_a_plain_model(ranges: list[tuple[int, int]]) -> None:
    ends = [(first, min(first + more, 8191)) for first, more in ranges]
    text = ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in ends)
    assert parse_cpu_list(text) == {cpu for first, last in ends for cpu in range(first, last + 1)}


@given(st.one_of(st.text(), st.text("0123456789,- \n", max_size=12)))
def test_any_text_is_a_cpu_list_or_one_clear_line(text: str) -> None:
    try:
        cpus, line = parse_cpu_list(text), ""
    except ValueError as error:
        cpus, line = frozenset(), str(error)
    assert cpus <= set(range(8192))
    assert line.isprintable()


# --- cpuset ---


@pytest.mark.parametrize(
    ("own", "files", "cpus", "mask"),
    [
        pytest.param(
            "0::/system.slice/miner.service\n",
            {
                "cpuset.cpus.effective": "0-15",
                "system.slice/cpuset.cpus.effective": "0-7",
                "system.slice/miner.service/cpuset.cpus.effective": " 2-5 \n",
            },
            {2, 3, 4, 5},
            "2-5",
            id="v2 own cgroup",
        ),
        pytest.param(
            "0::/system.slice/miner.service\n",
            {"cpuset.cpus.effective": "0-15", "system.slice/cpuset.cpus.effective": "0-7"},
            set(range(8)),
            "0-7",
            id="v2 walks up",
        ),
        pytest.param(
            "0::/a/b\n",
            {"a/b/cpuset.cpus.effective": "\n", "cpuset.cpus.effective": "1"},
            {1},
            "1",
            id="empty is missing",
        ),
        pytest.param("0::/\n", {"cpuset.cpus.effective": "0-3"}, {0, 1, 2, 3}, "0-3", id="namespaced container"),
        pytest.param(
            "0::/../../other\n",
            {
                "cpuset.cpus.effective": "0-3",
                "other/cpuset.cpus.effective": "5",
                "../../other/cpuset.cpus.effective": "6",
            },
            {0, 1, 2, 3},
            "0-3",
            id="outside the namespace",
        ),
        pytest.param("0::/gone (deleted)\n", {"cpuset.cpus.effective": "4"}, {4}, "4", id="deleted cgroup"),
        pytest.param("", {"cpuset.cpus.effective": "0-1"}, {0, 1}, "0-1", id="no line of ours"),
        pytest.param(
            "0::/a\n", {"a/cpuset.cpus": "0-1", "a/cpuset.cpus.effective": "0"}, {0}, "0", id="v2 effective, not wanted"
        ),
        pytest.param(
            "4:cpuset:/docker/abc\n3:cpu,cpuacct:/\n",
            {"cpuset/cpuset.cpus": "0-15", "cpuset/docker/abc/cpuset.cpus": "0-3,6,8-11"},
            {0, 1, 2, 3, 6, 8, 9, 10, 11},
            "0-3,6,8-11",
            id="v1",
        ),
        pytest.param(
            "4:cpuset:/a\n",
            {"cpuset/a/cpuset.cpus": "", "cpuset/a/cpuset.effective_cpus": "3"},
            {3},
            "3",
            id="v1 effective",
        ),
        pytest.param(
            "4:cpuset:/docker/abc\n", {"cpuset/cpuset.cpus": "7"}, {7}, "7", id="v1 seen from inside a container"
        ),
        pytest.param(
            "4:cpuset,pids:/a\n", {"cpuset,pids/a/cpuset.cpus": "7"}, {7}, "7", id="v1 mounted with another controller"
        ),
        pytest.param(
            "5:cpuset:/\n1:name=systemd:/x\n0::/x\n",
            {"cpuset/cpuset.cpus": "0-1", "unified/x/cgroup.procs": "1"},
            {0, 1},
            "0-1",
            id="hybrid, cpuset in v1",
        ),
        pytest.param(
            "1:name=systemd:/x\n0::/x\n", {"unified/x/cpuset.cpus.effective": "9"}, {9}, "9", id="hybrid, cpuset in v2"
        ),
        pytest.param(
            "0::/\n",
            {"cgroup.controllers": "cpuset cpu", "unified/cpuset.cpus.effective": "1"},
            MACHINE,
            None,
            id="a v2 cgroup that is called unified",
        ),
        pytest.param("0::/a\n", {}, MACHINE, None, id="nothing there"),
        pytest.param(
            "0::/a\n", {"cpuset.cpus.effective": "10-99"}, set(range(10, 16)), "10-99", id="affinity limits too"
        ),
    ],
)
def test_cpuset(tmp_path: Path, own: str, files: dict[str, str], cpus: set[int], mask: str | None) -> None:
    found = detect(tree(tmp_path, own, files), MACHINE)
    assert found == EffectiveCpus(frozenset(cpus), len(cpus), mask, None, ())


def test_malformed_cpuset_is_ignored_with_a_warning(tmp_path: Path) -> None:
    own = tmp_path / "sys/fs/cgroup/a/cpuset.cpus.effective"
    tree(tmp_path, "0::/a\n", {"a/cpuset.cpus.effective": "0-99999999999", "cpuset.cpus.effective": "0-3"})
    found = detect(tmp_path, MACHINE)
    assert (found.count, found.mask) == (4, "0-3")
    (warning,) = found.warnings
    assert warning.startswith(f"Ignoring the malformed cpuset in {own}: '0-99999999999' is no CPU")


def test_cpuset_without_a_cpu_of_ours_leaves_the_affinity_mask(tmp_path: Path) -> None:
    found = detect(tree(tmp_path, "0::/\n", {"cpuset.cpus.effective": "4-7"}), frozenset({0, 1}))
    assert (sorted(found.cpus), found.count, found.mask) == ([0, 1], 2, "4-7")
    assert found.warnings == ("The cpuset 4-7 holds no CPU of the affinity mask; using the affinity mask alone",)


@pytest.mark.parametrize("own", ["", "0", "0::", "0::a\x00b\n", "::::\n\n", "0::/" + "x/" * 300, "0::/\udcff\n"])
def test_hostile_cgroup_files_are_survived(tmp_path: Path, own: str) -> None:
    for path, content in {
        "proc/self/cgroup": own.encode("utf-8", "surrogateescape"),
        "sys/fs/cgroup/cpu.max": b"\xff",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "sys/fs/cgroup/cpuset.cpus.effective").mkdir()  # no file at all
    found = detect(tmp_path, MACHINE)
    assert (found.count, found.mask, found.quota, len(found.warnings)) == (16, None, None, 1)


def test_no_tree_at_all_leaves_this_process_s_affinity(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert found == EffectiveCpus(frozenset(os.sched_getaffinity(0)), len(os.sched_getaffinity(0)), None, None, ())


def test_a_refused_affinity_mask_leaves_all_logical_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int) -> set[int]:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getaffinity", refused)
    assert detect(tmp_path).cpus == set(range(os.cpu_count() or 1))


def test_this_machine() -> None:
    found = detect()
    assert found.cpus
    assert found.cpus <= os.sched_getaffinity(0)
    assert 1 <= found.count <= len(found.cpus)
    one = min(found.cpus)
    assert in_thread(lambda: (pin_thread(frozenset({one})), sorted(detect().cpus))) == (True, [one])


# --- quota ---


@pytest.mark.parametrize(
    ("own", "files", "quota", "count"),
    [
        pytest.param("0::/a\n", {"a/cpu.max": "200000 100000"}, 2.0, 2, id="v2"),
        pytest.param("0::/a\n", {"a/cpu.max": "210000 100000\n"}, 2.1, 3, id="rounded up"),
        pytest.param("0::/a\n", {"a/cpu.max": "1000 1000000"}, 0.001, 1, id="at least one"),
        pytest.param("0::/a\n", {"a/cpu.max": "max 100000"}, None, 16, id="v2 no limit"),
        pytest.param("0::/a\n", {"a/cpu.max": "9900000 100000"}, 99.0, 16, id="more than there is"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0, 3, id="at parent"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "60000 20000"}, 3.0, 3, id="tightest"),
        pytest.param("1:name=systemd:/\n0::/a\n", {"unified/a/cpu.max": "20000 10000"}, 2.0, 2, id="hybrid"),
        pytest.param(
            "3:cpu,cpuacct:/a/b\n",
            {
                "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "450000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            4.5,
            5,
            id="v1",
        ),
        pytest.param(
            "3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 16, id="v1 no limit"
        ),
    ],
)
def test_quota(tmp_path: Path, own: str, files: dict[str, str], quota: float | None, count: int) -> None:
    assert detect(tree(tmp_path, own, files), MACHINE) == EffectiveCpus(MACHINE, count, None, quota, ())


@pytest.mark.parametrize(
    "text", ["0 100000", "100000 0", "100000", "-5 100000", "1e5 100000", "max100", "9" * 400 + " 1"]
)
def test_malformed_quota_is_ignored_with_a_warning(tmp_path: Path, text: str) -> None:
    found = detect(tree(tmp_path, "0::/a\n", {"a/cpu.max": text, "cpu.max": "500000 100000"}), MACHINE)
    assert (found.quota, found.count) == (5.0, 5)
    (warning,) = found.warnings
    assert warning.startswith(f"Ignoring the malformed CPU quota in {tmp_path}/sys/fs/cgroup/a/cpu.max: {text[:40]!r} ")


def test_v1_quota_without_its_period_is_malformed(tmp_path: Path) -> None:
    found = detect(tree(tmp_path, "3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000"}), MACHINE)
    assert (found.quota, len(found.warnings)) == (None, 1)


def test_quota_and_cpuset_limit_together(tmp_path: Path) -> None:
    files = {"a/cpuset.cpus.effective": "0-7", "a/cpu.max": "250000 100000"}
    found = detect(tree(tmp_path, "0::/a\n", files), MACHINE)
    assert found == EffectiveCpus(frozenset(range(8)), 3, "0-7", 2.5, ())


def test_unreadable_file_is_missing(tmp_path: Path) -> None:
    assert cgroup.read(tmp_path) is None
    assert cgroup.read(tmp_path / "missing") is None
    assert cgroup.read(tmp_path / "a\x00b") is None


# --- workers and their threads ---


@pytest.mark.parametrize(
    ("effective", "workers"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 4), (8, 4), (12, 6), (16, 8), (32, 16), (64, 32)],
)
def test_default_workers(effective: int, workers: int) -> None:
    assert default_workers(effective) == workers


def test_a_pinned_thread_stays_on_its_cpu_and_the_others_do_not() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    assert in_thread(lambda: (pin_thread(frozenset({cpu})), os.sched_getaffinity(0))) == (True, {cpu})
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("cpu", [-1, 8191, 10**30])
def test_a_cpu_that_is_not_there_is_refused(cpu: int) -> None:
    assert in_thread(lambda: pin_thread(frozenset({cpu}))) is False


def test_a_yielding_thread_is_nicer_and_the_others_are_not() -> None:
    def work() -> int:
        yield_priority()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_thread(work) == min(19, before + 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_refused_priority_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "nice", refuse)
    in_thread(yield_priority)


SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


def test_long_turns_are_those_of_one_thread_and_change_nothing_else() -> None:
    def attributes() -> tuple[int, ...]:
        """Policy, flags, nice, priority and nanoseconds of a turn of the calling thread."""
        found = ctypes.create_string_buffer(48)
        assert ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], 0, found, 48, 0) == 0
        _, *values, _, _ = struct.unpack("=IIQiIQQQ", found.raw)
        return tuple(values)

    def work() -> tuple[int, ...]:
        yield_priority()
        take_long_turns()
        return attributes()

    before = attributes()
    policy, flags, nice, priority, turn = in_thread(work)
    assert (policy, flags, nice, priority) == (before[0], before[1], min(19, before[2] + 10), before[3])
    kernel = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    assert turn == (TURN_NS if kernel >= (6, 12) else before[4])
    assert attributes() == before


@pytest.mark.parametrize("machine", ["riscv64", "x86_64"])
def test_long_turns_that_are_refused_are_no_error(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """A processor whose number of the call is not known, and a thread that is not scheduled by turns."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_FIFO if machine == "x86_64" else os.SCHED_OTHER)
    monkeypatch.setattr(ctypes, "CDLL", None)
    in_thread(take_long_turns)


# --- processor ---


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (
            "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC  9654: 96-Core\n\nmodel name\t: other\n",
            "AMD EPYC 9654: 96-Core",
        ),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", f"{platform.machine()}, CPU implementer 0x41, CPU part 0xd0c"),
        ("", platform.machine()),
    ],
)
def test_processor_name(tmp_path: Path, cpuinfo: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert processor_name(tmp_path) == name


def test_a_name_that_a_hypervisor_made_up_is_printable(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_bytes(b"model name\t: caf\xe9 \x1b[2J\n")
    assert processor_name(tmp_path) == r"caf\udce9 \x1b[2J"


def test_processor_name_of_a_machine_that_tells_none(tmp_path: Path) -> None:
    assert processor_name(tmp_path) == platform.machine()
