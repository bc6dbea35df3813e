"""``make install`` again, and ``make uninstall``: the last tests of the container."""

from __future__ import annotations

from .conftest import UNIT, Machine


def test_an_update_restarts_it_and_keeps_the_settings(machine: Machine) -> None:
    machine.configure(env="MINER_PORT=9840\n")
    before = machine.pid
    machine.run("cd /src && make --old-file=build/wheels.stamp install PYTHON=/usr/bin/python3")
    assert machine.pid != before
    assert machine.run("cat /etc/default/quantus-miner") == "MINER_PORT=9840"


def test_a_python_in_a_home_folder_is_refused(machine: Machine) -> None:
    machine.run("mkdir -p /root/py/lib && ln -s /usr/lib/python3.11 /root/py/lib/")
    machine.write("/root/python", '#!/bin/sh\nPYTHONHOME=/root/py exec python3 "$@"\n')
    machine.run("chmod +x /root/python")
    said = machine.run("cd /src && make --old-file=build/wheels.stamp install PYTHON=/root/python", check=False)
    assert "'/root/python' is in /root/py, which the service cannot see (ProtectHome=true)" in said


def test_uninstalling_leaves_the_state_folder_alone(machine: Machine) -> None:
    said = machine.run("cd /src && make uninstall")
    assert "/var/lib/quantus-miner" in said
    left = set(machine.files()) - set(machine.before)
    # Copies that useradd and userdel keep, and what systemd and the loader write for themselves.
    left -= {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")}
    assert {path for path in left if not path.startswith("/var/lib/quantus-miner")} == set()
    assert machine.run(f"systemctl cat {UNIT}", check=False).startswith("No files found")
    assert machine.run("id quantus", check=False).endswith("no such user")
    assert machine.run("pidof quantus-miner", check=False) == ""
