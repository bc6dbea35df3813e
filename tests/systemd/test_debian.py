"""The Debian package: installed, upgraded, removed, purged. These tests of the container come first."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from ..terminal import press_when_drawn
from .conftest import CHECKOUT, UNIT, Machine

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "apt-get install -q -y --no-install-recommends"
UPGRADE = "dpkg --force-confold --force-downgrade --install"
FOLDER = "/usr/lib/quantus-miner"
SCHEMA = f"{FOLDER}/lib/python3*/site-packages/quantus_miner/store/schema.py"
STATE = "/var/lib/quantus-miner"
SETTINGS = "MINER_WORKERS=1\n"
# What a later version that keeps more in jobs.db has.
NEXT_FORMAT = 'STEPS = (*STEPS, f"PRAGMA user_version = {len(STEPS) + 1};")'


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


def test_the_files_are_where_programs_look_for_them(bare: Machine) -> None:
    assert bare.run("dpkg --verify quantus-miner") == ""
    assert "man:quantus-miner(1)" in bare.show("Documentation")
    assert ".TH QUANTUS" in bare.run("zcat /usr/share/man/man1/quantus-miner.1.gz")
    assert "complete " in bare.run("cat /usr/share/bash-completion/completions/quantus-miner")
    bare.run(
        "cd /usr/share/doc/quantus-miner && ls changelog.Debian.gz changelog.gz copyright systemd.md.gz operator.md.gz"
    )
    assert bare.run(f"find {FOLDER} -name '*.pyc' | head -n 1")  # compiled here, for the Python that is here


def test_what_0_1_0_left_is_taken_over(bare: Machine, tmp_path: Path) -> None:
    """It was killed with a job under way, which goes on."""
    with tarfile.open(CHECKOUT / "tests/state/0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    bare.write("/etc/default/quantus-miner", SETTINGS)
    bare.run(f"systemctl stop {UNIT}; rm -rf {STATE}")
    bare.run(f"cd /root && python3 -m tarfile -e /src/tests/state/0.1.0.tar.xz && mv state {STATE}")
    cursor = bare.cursor()
    bare.run(f"chown -R quantus: {STATE}; systemctl start {UNIT}")
    bare.wait_for_message(cursor, "Jobs restored from the last run: 3, still running: 1")
    assert {job_id: bare.call(f"/result/{job_id}") for job_id in results} == results
    goes_on(bare)


def goes_on(bare: Machine) -> dict[str, Any]:
    """Wait until more of the long job is done. Returns its result."""
    first = bare.call("/result/long")
    assert first["status"] == "running"
    while True:
        result: dict[str, Any] = bare.call("/result/long")
        if result["hash_count"] > first["hash_count"]:
            return result


def test_it_mines(bare: Machine) -> None:
    cursor = bare.cursor()
    job = {"job_id": "1", "mining_hash": "07" * 32, "difficulty": "1000"}
    assert bare.call("/mine", job)["status"] == "accepted"
    bare.wait_for_message(cursor, "Job 1 completed")
    assert bare.call("/result/1")["status"] == "completed"


def test_top_shows_it(bare: Machine) -> None:
    command = bare.command("TERM=xterm-256color exec quantus-miner top")
    assert press_when_drawn(command, "cpu-fast", "q") == 0


def test_an_upgrade_restarts_it_and_keeps_settings_and_state(bare: Machine, package: str) -> None:
    """To a later version, with another format of jobs.db. The job that is under way goes on."""
    cursor, before, done = bare.cursor(), bare.pid, goes_on(bare)["hash_count"]
    newer = "/root/newer.deb"
    bare.write("/root/next", f"/^VERSION: Final/i {NEXT_FORMAT}\n")
    bare.run(
        f"dpkg-deb --raw-extract {package} /root/newer; sed -i 's/^Version: .*/&.1/' /root/newer/DEBIAN/control;"
        f" sed -i -f /root/next /root/newer{SCHEMA};"
        " echo >>/root/newer/etc/default/quantus-miner;"
        f" dpkg-deb --root-owner-group -Znone --build /root/newer {newer}; {UPGRADE} {newer}"
    )
    assert bare.pid not in (0, before)
    assert bare.run("cat /etc/default/quantus-miner") == SETTINGS.strip()
    bare.wait_for_message(cursor, "Jobs restored from the last run: 4, still running: 1")
    assert bare.call("/result/1")["status"] == "completed"
    assert goes_on(bare)["hash_count"] > done


def test_going_back_leaves_a_disabled_service_alone(bare: Machine, package: str) -> None:
    bare.run(f"systemctl disable --now {UNIT}; {UPGRADE} {package}")
    assert bare.run(f"systemctl is-enabled {UNIT}", check=False) == "disabled"
    assert bare.pid == 0


def test_an_earlier_version_says_in_one_line_that_it_cannot_use_the_state(bare: Machine) -> None:
    cursor = bare.cursor()
    kept = bare.run(f"sha256sum {STATE}/jobs.db")
    bare.run(f"systemctl enable --now {UNIT}")
    assert bare.call("/result/1")["status"] == "not_found"
    job = {"job_id": "2", "mining_hash": "07" * 32, "difficulty": "1000"}
    assert bare.call("/mine", job)["status"] == "accepted"
    bare.wait_for_message(cursor, "Job 2 completed")
    (said,) = (entry["MESSAGE"] for entry in bare.journal(cursor) if "newer version" in entry["MESSAGE"])
    assert said.endswith("it is left as it is, jobs are kept in memory only")
    assert bare.run(f"sha256sum {STATE}/jobs.db") == kept


def test_removing_it_stops_the_service_and_keeps_settings_and_state(bare: Machine) -> None:
    bare.run("apt-get remove -q -y quantus-miner")
    assert bare.run("pidof quantus-miner", check=False) == ""
    assert bare.run(f"ls {FOLDER}", check=False).endswith("No such file or directory")
    assert bare.run("cat /etc/default/quantus-miner") == SETTINGS.strip()
    assert "jobs.db" in bare.run("ls /var/lib/quantus-miner")


def test_purging_it_leaves_nothing_but_the_account(bare: Machine) -> None:
    bare.run("apt-get purge -q -y quantus-miner")
    left = set(bare.files()) - set(bare.before)
    left -= {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")}
    assert {path for path in left if not path.startswith(("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/"))} == set()
    assert bare.run("id -un quantus") == "quantus"
    bare.run("userdel quantus")
