"""The scripts for rig systems against stand-ins of those systems, with a real pool and a real miner."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .rig_stand_ins import (
    WALLET,
    WORKER,
    Pool,
    Rig,
    Running,
    cgminer,
    free_port,
    hive_configure,
    hive_stats,
    mmp_stats,
    rave_task,
)

SCRIPTS = Path(__file__).parent.parent / "packaging/rigs"
FOLDERS = {
    "hiveos": "/hive/miners/custom/quantus-miner",
    "mmpos": "/opt/mmp/miners/custom-a1b2c",
    "raveos": "/ravinos/miners/quantus-miner",
    "smos": "/root/miner/teamredminer-quantus",
}
VERSION = "1.2.3"
GPU = {"type": "NVIDIA", "pci_id": 1, "hash_rate1": 5.0}
CPU = {"type": "CPU", "pci_id": 0, "hash_rate1": 0.0}
Install = Callable[[str], Rig]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Unpacks the files for a system, with the program under test in place of the archive's own."""
    if missing := [tool for tool in ("bash", "curl", "jq", "setsid", "xargs") if not shutil.which(tool)]:
        pytest.skip(f"rig systems have these, this machine has not: {', '.join(missing)}")

    def unpack(system: str) -> Rig:
        rig = Rig(tmp_path, FOLDERS[system], python=sys.executable)
        folder = Path(rig.folder)
        shutil.copytree(SCRIPTS / system, folder)
        for file in [*folder.glob("*.conf"), *folder.glob("RAVINOS/manifest.json")]:
            text = file.read_text().replace("@VERSION@", VERSION).replace("9833", str(rig.port))
            file.write_text(text.replace("=/", f"={tmp_path}/"))
        program = shlex.quote(sys.executable)
        for name, command in (
            ("quantus-miner", f'exec {program} -m quantus_miner "$@"'),
            ("usr/bin/run", f'shift; exec {program} "$@"'),  # without -I, which would hide the checkout
            ("usr/libexec/quantus-miner", ""),
        ):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(f"#!/bin/sh\n{command}\n")
            path.chmod(0o755)
        return rig

    return unpack


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        yield pool


def accepted(pool: Pool) -> None:
    """Wait for the next share."""
    pool.wait_for("share ")


# --- HiveOS ---


def test_hive_configures_runs_reads_and_stops(install: Install, pool: Pool) -> None:
    rig = install("hiveos")
    arguments = hive_configure(rig, f"{pool.url}\nstratum+tcp://127.0.0.1:1", "--workers 1 --log 'info,miner=debug'")
    assert arguments == [
        f"--port={rig.port}",
        f"--pool={pool.url}",
        "--pool=stratum+tcp://127.0.0.1:1",
        f"--wallet={WALLET}",
        f"--worker-name={WORKER}",
        "--workers",
        "1",
        "--log",
        "info,miner=debug",
    ]
    assert hive_stats(rig) == ("0", None)  # not yet there
    with rig.start(f"{rig.folder}/h-run.sh") as running:
        accepted(pool)
        khs, stats = hive_stats(rig)
        assert float(khs) > 0
        assert stats["hs_units"] == "khs"
        assert stats["bus_numbers"] == [None]
        assert len(stats["hs"]) == len(stats["temp"]) == len(stats["fan"]) == 1
        assert stats["ar"][0] >= 1
        assert stats["algo"] == "qpow-poseidon2"
        running.hang_up()
        assert running.process.wait(20) == 0
    log = rig.file("/var/log/miner/quantus-miner/quantus-miner.log").read_text()
    assert "Received SIGTERM: stopping" in log
    assert "Stopped: " in log


@pytest.mark.parametrize("stop", [Running.interrupt, Running.terminate])
def test_hive_stops_by_signals(install: Install, pool: Pool, stop: Callable[[Running], None]) -> None:
    rig = install("hiveos")
    hive_configure(rig, pool.url, "--workers=1")
    with rig.start(f"{rig.folder}/h-run.sh") as running:
        accepted(pool)
        stop(running)
        assert running.process.wait(20) == 0
    assert b"Stopped: " in running.output


def test_hive_shows_what_is_wrong_with_a_flight_sheet(install: Install) -> None:
    rig = install("hiveos")
    hive_configure(rig, "pool.example:3333", "--workers=many")
    with rig.start(f"{rig.folder}/h-run.sh") as running:
        assert running.process.wait(20) == 2
        running.hang_up()
    assert b"--workers: 'many'" in running.output
    assert b"Traceback" not in running.output


# --- mmpOS ---


def test_mmp_runs_reads_and_stops(install: Install, pool: Pool) -> None:
    rig = install("mmpos")
    own = ("--pool", pool.url, "--user", f"{WALLET}.{WORKER}", "--password", "x", "--api-port", str(rig.port))
    with rig.start(f"{rig.folder}/mmp-launch.sh", *own, "--workers", "1", "--algo") as running:
        accepted(pool)
        stats = mmp_stats(rig)
        shares = stats.pop("air")
        (rate,) = stats.pop("hash")
        version = stats.pop("miner_version")
        assert rate > 0
        assert int(shares[0]) >= 1
        assert [share.isdigit() for share in shares] == [True] * 3
        assert version
        assert stats == {"busid": ["cpu"], "units": "khs", "miner_name": "quantus-miner"}
        running.terminate()
        assert running.process.wait(20) == 0
    assert b"workers=1" in running.output
    assert f"worker_name={WORKER}".encode() in running.output


# --- RaveOS ---


def test_rave_configures_runs_reads_and_stops(install: Install, pool: Pool) -> None:
    rig = install("raveos")
    scripts = f"{rig.folder}/RAVINOS"
    manifest = json.loads(rig.file(f"{FOLDERS['raveos']}/RAVINOS/manifest.json").read_text())
    assert manifest["package"] == f"{manifest['name']}-{manifest['version']}"
    pools = [{"url": pool.url, "user": WALLET, "password": "x"}, {"url": "stratum+tcp://127.0.0.1:1", "user": WALLET}]
    environ = rave_task(rig, pools, "--workers 1", [GPU, CPU])
    with rig.start(rig.python, f"{scripts}/start.py", **environ) as running:
        accepted(pool)
        stats = json.loads(rig.run(rig.python, f"{scripts}/stats.py", **environ))
        gpu, cpu = stats["mpu"]
        assert gpu["hash_rate1"] == 0
        assert cpu["hash_rate1"] > 1000
        assert stats["shares"]["accepted"] >= 1
        # On a busy machine, shares may come too late.
        assert stats["shares"].keys() == {"accepted", "invalid", "rejected"}
        running.terminate()
        assert running.process.wait(20) == 0
    assert b"worker_name=of-the-task" in running.output


# --- SimpleMining ---


def test_simplemining_reads_cgminer_s_answers(install: Install, pool: Pool) -> None:
    rig = install("smos")
    port = free_port()
    arguments = (f"--rig-cgminer-port={port}", f"--port={rig.port}", f"--pool={pool.url}", f"--wallet={WALLET}")
    with rig.start(f"{rig.folder}/quantus-miner", *arguments) as running:
        accepted(pool)
        reply = cgminer(port, "devs+summary+devs2+summary2")
        (summary,) = reply["summary"]["SUMMARY"]
        (device,) = reply["devs"]["DEVS"]
        assert summary["Accepted"] >= 1
        assert summary["Rejected"] >= 0
        assert summary["KHS 30s"] > 0
        assert device["KHS 30s"] > 0
        running.terminate()
        assert running.process.wait(20) == 0
