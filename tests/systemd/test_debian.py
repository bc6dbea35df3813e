"""The Debian package: installed, upgraded, removed, purged. These tests of the container come first."""

from __future__ import annotations

import json

import pytest

from .conftest import CHECKOUT, UNIT, Machine

INSTALL = "apt-get install -q -y --no-install-recommends"
UPGRADE = "dpkg --force-confold --force-downgrade --install"
FOLDER = "/usr/lib/quantus-miner"


@pytest.fixture(scope="module")
def package() -> str:
    """Its path in the container."""
    (file,) = (CHECKOUT / "build/debian").glob("quantus-miner_*.deb")
    return f"/src/build/debian/{file.name}"


def test_installing_it_starts_the_service(bare: Machine, package: str) -> None:
    bare.before = bare.files()
    bare.run(f"{INSTALL} {package}")
    assert bare.run(f"systemctl is-enabled {UNIT}; systemctl is-active {UNIT}").split() == ["enabled", "active"]
    assert bare.run("pidof quantus-miner") == str(bare.pid)
    assert bare.run(f"ps -o user= -p {bare.pid}") == "quantus"
    assert bare.run("getent passwd quantus").endswith(":/var/lib/quantus-miner:/usr/sbin/nologin")
    assert bare.run("stat -c '%U:%G %a' /var/lib/quantus-miner /etc/default/quantus-miner").splitlines() == [
        "quantus:quantus 750",
        "root:root 600",
    ]
    assert bare.call("/health")["status"] == "ready"
    assert "WRONG" not in bare.run("quantus-miner doctor")


def test_it_mines(bare: Machine) -> None:
    cursor = bare.cursor()
    job = {"job_id": "1", "mining_hash": "07" * 32, "difficulty": "1000"}
    assert bare.call("/mine", job)["status"] == "accepted"
    bare.wait_for_message(cursor, "Job 1 completed")
    assert bare.call("/result/1")["status"] == "completed"


def test_the_files_are_where_programs_look_for_them(bare: Machine) -> None:
    assert bare.run("dpkg --verify quantus-miner") == ""
    assert "man:quantus-miner(1)" in bare.show("Documentation")
    assert ".TH QUANTUS" in bare.run("zcat /usr/share/man/man1/quantus-miner.1.gz")
    assert "complete " in bare.run("cat /usr/share/bash-completion/completions/quantus-miner")
    bare.run(
        "cd /usr/share/doc/quantus-miner && ls changelog.Debian.gz changelog.gz copyright systemd.md.gz operator.md.gz"
    )
    assert bare.run(f"find {FOLDER} -name '*.pyc' | head -n 1")  # compiled here, for the Python that is here


def test_an_upgrade_restarts_it_and_keeps_settings_and_state(bare: Machine, package: str) -> None:
    bare.write("/etc/default/quantus-miner", "MINER_PORT=9840\n")
    before = bare.pid
    newer = "/root/newer.deb"
    bare.run(
        f"dpkg-deb --raw-extract {package} /root/newer; sed -i 's/^Version: .*/&.1/' /root/newer/DEBIAN/control;"
        " echo >>/root/newer/etc/default/quantus-miner;"
        f" dpkg-deb --root-owner-group -Znone --build /root/newer {newer}; {UPGRADE} {newer}"
    )
    assert bare.pid not in (0, before)
    assert bare.run("cat /etc/default/quantus-miner") == "MINER_PORT=9840"
    result = json.loads(bare.run("curl -s http://127.0.0.1:9840/result/1"))
    assert result["status"] == "completed"


def test_an_upgrade_leaves_a_disabled_service_alone(bare: Machine, package: str) -> None:
    bare.run(f"systemctl disable --now {UNIT}; {UPGRADE} {package}")
    assert bare.run(f"systemctl is-enabled {UNIT}", check=False) == "disabled"
    assert bare.pid == 0
    bare.run(f"systemctl enable --now {UNIT}")


def test_removing_it_stops_the_service_and_keeps_settings_and_state(bare: Machine) -> None:
    bare.run("apt-get remove -q -y quantus-miner")
    assert bare.run("pidof quantus-miner", check=False) == ""
    assert bare.run(f"ls {FOLDER}", check=False).endswith("No such file or directory")
    assert bare.run("cat /etc/default/quantus-miner") == "MINER_PORT=9840"
    assert "jobs.db" in bare.run("ls /var/lib/quantus-miner")


def test_purging_it_leaves_nothing_but_the_account(bare: Machine) -> None:
    bare.run("apt-get purge -q -y quantus-miner")
    left = set(bare.files()) - set(bare.before)
    left -= {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")}
    assert {path for path in left if not path.startswith(("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/"))} == set()
    assert bare.run("id -un quantus") == "quantus"
    bare.run("userdel quantus")
