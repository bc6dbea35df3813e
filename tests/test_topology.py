"""Affinity of workers on made-up machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quantus_miner.host.topology import affinity, cores

if TYPE_CHECKING:
    from pathlib import Path


def machine(
    root: Path,
    siblings: list[str],
    *,
    slow: str = "",
    capacity: dict[int, int] | None = None,
    nodes: tuple[str, ...] = (),
) -> Path:
    """A sysfs with one entry a CPU in ``siblings``, which are their thread sibling lists."""
    for cpu, text in enumerate(siblings):
        folder = root / "sys/devices/system/cpu" / f"cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(text + "\n")
        if capacity:
            (folder / "cpu_capacity").write_text(f"{capacity[cpu]}\n")
    for number, text in enumerate(nodes):
        folder = root / "sys/devices/system/node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text + "\n")
    if slow:
        (root / "sys/devices/cpu_atom").mkdir(parents=True)
        (root / "sys/devices/cpu_atom/cpus").write_text(slow + "\n")
    return root


def test_malformed_files_count_for_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0", "1-"], capacity={0: 1, 1: 1}, nodes=("0-1",))
    for text in ("²", "9" * 5000):
        (root / "sys/devices/system/cpu/cpu0/cpu_capacity").write_text(text)
        (root / f"sys/devices/system/node/node1{text[0]}x").mkdir()
        assert [core.cpus for core in cores(range(2), root)] == [(0,), (1,)]


def sets(found: list[frozenset[int]]) -> list[list[int]]:
    return [sorted(pinned) for pinned in found]


def test_whole_cores_are_filled_first(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert sets(affinity(1, range(4), root)) == [[0, 2]]
    assert sets(affinity(2, range(4), root)) == [[0, 2], [1, 3]]
    assert sets(affinity(3, range(4), root)) == [[0, 2], [1, 3], [0, 2]]
    assert sets(affinity(4, range(4), root)) == [[0], [1], [2], [3]]


def test_performance_cores_come_before_efficient_ones(tmp_path: Path) -> None:
    # Two performance cores with two threads, two efficient ones.
    root = machine(tmp_path, ["0-1", "0-1", "2-3", "2-3", "4", "5"], slow="4-5")
    assert sets(affinity(3, range(6), root)) == [[0, 1], [2, 3], [4]]
    assert sets(affinity(6, range(6), root)) == [[0], [2], [4], [5], [1], [3]]


def test_big_cores_of_an_arm_processor_come_first(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0", "1", "2", "3"], capacity={0: 400, 1: 400, 2: 1024, 3: 1024})
    assert sets(affinity(2, range(4), root)) == [[2], [3]]


def test_cores_go_node_by_node(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2, nodes=("0,2,4,6", "1,3,5,7"))
    assert [core.cpus for core in cores(range(8), root)] == [(0, 4), (2, 6), (1, 5), (3, 7)]


def test_only_usable_cpus_are_used(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert sets(affinity(2, {2, 3}, root)) == [[2], [3]]
    assert sets(affinity(2, {0, 2, 3}, root)) == [[0, 2], [3]]


def test_equal_cores_are_left_to_the_scheduler_unless_all_are_ours(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0", "1", "2", "3"])
    assert affinity(2, range(4), root) == []
    assert sets(affinity(4, range(4), root)) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("text", ["", "nonsense", "0-99999999"])
def test_a_sysfs_that_says_nothing_is_one_thread_a_core(tmp_path: Path, text: str) -> None:
    assert affinity(1, range(2), machine(tmp_path, [text, text])) == []
    assert sets(affinity(2, range(2), tmp_path)) == [[0], [1]]
    assert sets(affinity(2, range(2), tmp_path / "nothing")) == [[0], [1]]
