"""Drop-ins fitted to made-up machines."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from quantus_miner import drop_in
from quantus_miner.cli import cli
from quantus_miner.host.cpus import parse_cpu_list

from .test_topology import machine

if TYPE_CHECKING:
    from pathlib import Path


def values(lines: list[str]) -> dict[str, str]:
    """The last assignment of each name, as systemd takes them."""
    return dict(line.split("=", 1) for line in lines if not line.startswith(("#", "[")))


@pytest.mark.parametrize("text", ["0", "0-3", "0-3,6,8-11", "1,3,5", "7-8191"])
def test_cpu_lists_are_written_as_they_are_read(text: str) -> None:
    assert drop_in.format_cpu_list(parse_cpu_list(text)) == text


def test_a_shared_machine_keeps_its_first_core_for_the_node(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2, nodes=("0-1,4-5", "2-3,6-7"))
    lines = list(drop_in.shared(frozenset(range(8)), root))
    assert values(lines)["CPUAffinity"] == "1-3,5-7"
    assert "CPUAffinity=" in lines  # what other drop-ins listed is forgotten first
    assert "# NUMA node 0: cores 2, CPUs 0-1,4-5" in lines
    assert "# NUMA node 1: cores 2, CPUs 2-3,6-7" in lines
    assert "# Workers while MINER_WORKERS is unset: 3" in lines


def test_a_machine_with_one_core_shares_it(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0-1", "0-1"])
    assert values(list(drop_in.shared(frozenset({0, 1}), root)))["CPUAffinity"] == "0-1"


def test_a_dedicated_machine_gives_all_it_has(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0", "1", "2", "3"])
    shown = values(list(drop_in.dedicated(frozenset({0, 1, 3}), root)))
    assert shown["CPUAffinity"] == "0-1,3"
    assert shown["Environment"] == "MINER_WORKERS=3"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --shared and --dedicated is needed"),
        (["--shared", "--dedicated"], "only one of --shared and --dedicated is needed"),
        (["--dedicated", "--shared"], "only one of --shared and --dedicated is needed"),
    ],
)
def test_one_kind_has_to_be_named(flags: list[str], message: str) -> None:
    ended = CliRunner().invoke(cli, ["service", "print", *flags])
    assert ended.exit_code == 2
    assert f"Error: {message}" in ended.output


def test_the_group_alone_shows_its_help() -> None:
    command = [sys.executable, "-m", "quantus_miner", "service"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (2, "")
    assert ended.stdout.startswith("Usage: ")
    assert "  print  Print a drop-in" in ended.stdout
