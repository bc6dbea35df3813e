"""``quantus-miner dev-fleet``: a node, a hub, rigs and a stratum miner as real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="needs the extra hub")
if not (shutil.which("nats-server") or Path(sys.executable).with_name("nats-server").exists()):
    pytest.skip("needs nats-server (apt install nats-server)", allow_module_level=True)


def descendants(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = {int(child) for task in tasks for child in task.read_text().split()}
    return children.union(*map(descendants, children))


def test_blocks_come_from_each_and_ctrl_c_ends_all() -> None:
    command = [sys.executable, "-m", "quantus_miner", "dev-fleet", "--rigs=2", "--block-time=0.3", "--difficulty=2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)
    assert process.stdout is not None
    finders: set[str] = set()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if match := re.match(r"hub   \| .* (?:Rig|Miner) (\S+) has found a solution", line):
                finders.add(match[1])
            if finders == {"rig1", "rig2", "miner"} and line.startswith("node  | block "):
                break
        else:
            raise AssertionError("".join(lines))
        running = descendants(process.pid)
        assert len(running) == 5  # the hub, NATS, three miners
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == 0, rest
        # Ours: 2 s. The machine may be busy.
        assert time.monotonic() - began < 10
        assert re.search(r"^node  \| dev-node: \d+ blocks in .* 0 invalid", rest, re.MULTILINE), rest
        assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    prefixes = {line.partition(" | ")[0].strip() for line in lines}
    assert prefixes == {"node", "hub", "rig1", "rig2", "miner"}
