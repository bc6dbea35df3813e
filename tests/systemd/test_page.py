"""The commands of systemd/README.md, all of them, as they stand there."""

from __future__ import annotations

import re

from .conftest import CHECKOUT, DROP_INS, UNIT, Machine

PAGE = (CHECKOUT / "systemd/README.md").read_text()


def commands(title: str) -> str:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))


def follow(machine: Machine, title: str) -> str:
    """Runs them where the page says they are run, as root, so that sudo has little to do, and returns what they say."""
    as_user = 'user=$2; shift 2; runuser -u "$user" -- "$@"'
    sudo = f'sudo() {{ if [ "$1" = -u ]; then {as_user}; else "$@"; fi; }}; sudoedit() {{ :; }}'
    return machine.run(f"set -x; {sudo}; cd /src/systemd; {commands(title)}")


def test_installing_by_hand(machine: Machine) -> None:
    machine.run(
        f"systemctl disable --now {UNIT}; rm -r /etc/systemd/system/{UNIT} /var/lib/quantus-miner; userdel quantus"
    )
    follow(machine, "Install by hand")
    assert machine.run(f"systemctl is-enabled {UNIT}") == "enabled"
    assert machine.call("/health")["status"] == "ready"


def test_the_overrides(machine: Machine) -> None:
    follow(machine, "Overrides")
    assert machine.run(f"ls {DROP_INS}").split() == ["10-shared-hardware.conf", "20-dedicated-hardware.conf"]
    # Both are there: the later one counts, not the sum of both.
    assert machine.run(f"ps -o ni= -p {machine.pid}").strip() == "-5"
    assert machine.show("CPUAffinity") == "0-63"


def test_settings_and_looking_at_it(machine: Machine) -> None:
    machine.configure(env="MINER_METRICS_PORT=9900\n")
    follow(machine, "Settings")
    looks = commands("Look at it")
    if machine.run("ls /sys/fs/cgroup/cpuset.cpus.effective", check=False) != "/sys/fs/cgroup/cpuset.cpus.effective":
        looks = looks.replace("cat /sys/fs/cgroup/cpuset.cpus.effective\n", "")  # no cgroup v2 with cpusets
    shown = machine.run(looks)
    for text in ("Active: active (running)", "Server starting on", "current affinity list", "miner_effective_cpus"):
        assert text in shown


def test_a_secret_in_a_home_folder_is_handed_over(machine: Machine) -> None:
    (drop_in,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    machine.write("/root/api-token", "a-secret\n")
    machine.run("chmod 600 /root/api-token")
    machine.configure(drop_in=drop_in)
    cancel = "curl -s -o /dev/null -w '%{http_code}' -X POST http://127.0.0.1:9833/cancel/none"
    assert machine.run(cancel) == "401"
    assert machine.run(f"{cancel} -H 'authorization: Bearer a-secret'") == "404"
    said = machine.run("quantus-miner doctor")
    assert "WRONG" not in said
    assert "MINER_API_TOKEN_FILE" not in said
    assert "a-secret" not in machine.run(f"journalctl -u {UNIT}; systemctl show {UNIT}; ps -ef")


def test_no_command_is_left_out() -> None:
    titles = ("Install", "Install by hand", "Settings", "A hub", "Overrides", "Look at it")
    assert sum(len(commands(title)) for title in titles) == sum(
        map(len, re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    )
