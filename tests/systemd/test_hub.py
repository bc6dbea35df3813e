"""The hub's unit, with a node, a rig and what can happen to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from .conftest import CHECKOUT, UNIT, Machine
from .test_page import follow

if TYPE_CHECKING:
    from collections.abc import Iterator

HUB: Final = "quantus-hub.service"
NODE: Final = "dev-node.service"
HUB_DROP_IN: Final = f"/etc/systemd/system/{HUB}.d/test.conf"
FOLDER: Final = "/run/node/chains/dev"


@pytest.fixture(scope="module")
def hub(machine: Machine) -> Iterator[Machine]:
    """The hub's service, set up for a development node."""
    command = "quantus-miner dev-node --quic --listen=9850 --base-path=/run/node --difficulty=1000 --block-time=0.5"
    machine.run(f"systemctl stop {UNIT}; systemd-run --quiet --unit={NODE} {command}")
    machine.run(f"until [ -s {FOLDER}/miner-tls-cert-sha256 ]; do sleep 0.05; done")
    machine.write(
        "/etc/default/quantus-hub",
        "MINER_NODE_ADDR=127.0.0.1:9850\nMINER_NATS_PORT=4222\nMINER_STRATUM_PORT=3333\n"
        f"MINER_AUTH_TOKEN={machine.run(f'cat {FOLDER}/miner-auth-token')}\n"
        f"MINER_TLS_CERT_SHA256={machine.run(f'cat {FOLDER}/miner-tls-cert-sha256')}\n"
        'EXTRA_HUB_FLAGS="--config /etc/quantus-hub.toml"\n',
    )
    machine.write("/etc/quantus-hub.toml", "stratum-share-time = 5\n")
    machine.write(HUB_DROP_IN, "[Service]\nRestartSec=100ms\n")
    machine.run(f"systemctl daemon-reload; systemctl start {HUB}")
    yield machine
    machine.run(f"systemctl disable --now {HUB}; systemctl stop {NODE}")
    machine.run(f"rm -r /etc/quantus-hub.toml /etc/systemd/system/{HUB}.d /var/lib/quantus-hub")


def test_the_hub_and_its_nats_server_run_within_the_hardening(hub: Machine) -> None:
    assert hub.run(f"systemctl is-active {HUB}; systemctl is-enabled {HUB} || true").split() == ["active", "disabled"]
    listening = hub.run("awk '$4 == \"0A\" { print $2 }' /proc/net/tcp").split()
    assert {f"0100007F:{port:04X}" for port in (3333, 4222, 9834)} <= set(listening)
    pids = hub.run(
        f"cat /sys/fs/cgroup/*/system.slice/{HUB}/cgroup.procs /sys/fs/cgroup/system.slice/{HUB}/cgroup.procs "
        "2>/dev/null | sort -un",
        check=False,
    ).split()
    names = hub.run(f"ps -o user=,comm= -p {','.join(pids)}").split()
    assert sorted(names) == ["nats-server", "quantus", "quantus", "quantus-miner"]
    for pid in pids:
        status = dict(line.split(":\t", 1) for line in hub.run(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
        files = re.search(r"Max open files +(\d+) +(\d+)", hub.run(f"cat /proc/{pid}/limits"))
        assert files
        assert files[1] == files[2]  # as much as this container may have
    assert hub.show("LimitNOFILE", HUB) == "65536"
    exposure = re.search(r"in systemd 252 its exposure is ([0-9]\.[0-9])", (CHECKOUT / "systemd/README.md").read_text())
    assert exposure
    said = hub.run(f"systemd-analyze security --no-pager {HUB}").splitlines()[-1]
    assert f"Overall exposure level for {HUB}: {exposure[1]} OK" in said


def test_a_rig_mines_through_the_hub_also_after_its_death(hub: Machine) -> None:
    url = re.findall(r"tls://\S+", follow(hub, "A hub"))[0].replace("192.168.1.10", "127.0.0.1")
    assert hub.run(f"systemctl is-enabled {HUB}") == "enabled"
    cursor = hub.cursor()
    hub.configure(env=f"MINER_HUB={url}\nMINER_WORKERS=1\n")
    hub.wait_for_message(cursor, "Rig rig7 is here", HUB)
    hub.wait_for_message(cursor, "Rig rig7 has found a solution", HUB)
    hub.wait_for_message(cursor, "block ", NODE)
    cursor = hub.cursor()
    hub.run(f"systemctl kill --kill-whom=main --signal=KILL {HUB}")
    hub.wait_for_message(cursor, "Rigs can connect to port 4222", HUB)
    cursor = hub.cursor()
    hub.wait_for_message(cursor, "Rig rig7 has found a solution", HUB)
    assert hub.show("NRestarts", HUB) == "1"
    assert hub.show("NRestarts") == "0"


def test_a_reload_is_applied_and_a_stop_leaves_nothing(hub: Machine) -> None:
    cursor = hub.cursor()
    hub.write("/etc/quantus-hub.toml", "stratum-share-time = 7\n")
    hub.run(f"systemctl reload {HUB}")
    hub.wait_for_message(cursor, "Reloaded: stratum_share_time", HUB)
    hub.run(f"systemctl stop {HUB}")
    assert (hub.show("Result", HUB), hub.show("ExecMainStatus", HUB)) == ("success", "0")
    assert hub.run("pgrep nats-server", check=False) == ""
