"""Hostile clients, while the unit has little memory and few file descriptors."""

from __future__ import annotations

import json

import pytest
from benchmarks import attacks

from .conftest import UNIT, Machine
from .test_survival import ENDLESS

MEMORY = 200 * 2**20
MEMORY_FILES = (
    f"/sys/fs/cgroup/memory/system.slice/{UNIT}/memory.limit_in_bytes",
    (f"/sys/fs/cgroup/system.slice/{UNIT}/memory.max"),
)
SECONDS = 3


@pytest.mark.timeout(300)
def test_attacks_within_tight_limits_end_nothing(machine: Machine) -> None:
    if "memory" not in machine.controllers:
        pytest.skip("systemd cannot set MemoryMax= here: this machine's cgroup v2 has no controller memory")
    limits = f"[Service]\nMemoryMax={MEMORY}\nMemorySwapMax=0\nLimitNOFILE=256\n"
    machine.configure(env="MINER_METRICS_PORT=9900\n", drop_in=limits)
    # It is in force, not only asked for.
    assert machine.run(f"cat {' '.join(MEMORY_FILES)} 2>/dev/null || true") == str(MEMORY)
    before, cursor = machine.pid, machine.cursor()
    assert machine.run(f"awk '/^Max open files/ {{print $4, $5}}' /proc/{before}/limits") == "256 256"
    files = machine.run(f"ls /proc/{before}/fd | wc -l")
    assert machine.call("/mine", ENDLESS)["status"] == "accepted"
    for name in attacks.NAMES:
        done = json.loads(machine.run(f"python3 /src/benchmarks/attacks.py {name} --seconds={SECONDS}"))
        memory = machine.run(f"awk '/^VmHWM/ {{print $2}}' /proc/{before}/status")
        print(f"{name}: {done}, most memory so far {int(memory) / 1000:.1f} MB")
        # Each reaches more than the service can hold at once.
        assert max(done.values()) > 300
        assert (machine.pid, machine.show("NRestarts")) == (before, "0")
        assert machine.call("/health")["status"] == "ready"
    # A job of our own would have to wait for those that the attackers left behind.
    hashed = machine.call("/status")["hashes"]
    while machine.call("/status")["hashes"] == hashed:
        pass
    while machine.run(f"ls /proc/{before}/fd | wc -l") > files:
        pass
    complaints = [entry["MESSAGE"] for entry in machine.journal(cursor) if int(entry["PRIORITY"]) <= 4]
    print(complaints)
    assert len(complaints) < 100
