"""The doctor: a planted fault of each kind, on this machine or a made-up one."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantus_miner.doctor import TIME_ERROR, Finding, Host, examine, service_environment
from quantus_miner.gpu import drivers
from quantus_miner.settings import Settings, load

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ME = pwd.getpwuid(os.geteuid()).pw_name


def plant(root: Path, **properties: str) -> Host:
    """A host on which all is well, but for ``properties`` of its unit."""
    command = root / "usr/local/bin/quantus-miner"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    unit = {"User": ME, "Group": "root", "ActiveState": "active", "WorkingDirectory": str(root)} | properties
    return Host({}, {"ExecStart": "{ path=/usr/local/bin/quantus-miner ; argv[]=… }"} | unit, root, lambda: 0)


def findings(host: Host, *flags: str, **environ: str) -> list[Finding]:
    def settings() -> Settings:
        return load(dict(flag.split("=", 1) for flag in flags), {"MINER_PORT": "0"} | environ, None)

    return list(examine(host, settings))


def complaints(found: list[Finding]) -> dict[str, str]:
    return {finding.about: finding.found for finding in found if finding.advice}


def test_nothing_is_wrong_where_all_is_well(tmp_path: Path) -> None:
    found = findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path))
    assert complaints(found) == {}
    assert {"unit", "program", "user", "group", "CPUs", "clock", "settings", "state folder", "engine", "job API"} <= {
        finding.about for finding in found
    }


def test_a_gpu_engine_in_a_unit_that_hides_the_devices(tmp_path: Path) -> None:
    host = plant(tmp_path, PrivateDevices="yes")
    assert complaints(findings(host, MINER_STATE_DIR=str(tmp_path))) == {}
    found = complaints(findings(host, "engine=gpu-cuda", MINER_STATE_DIR=str(tmp_path)))
    assert found["GPU"] == "the unit hides all devices (PrivateDevices=)"


def test_no_unit_is_no_fault(tmp_path: Path) -> None:
    found = findings(Host({}, {}, tmp_path, lambda: 0), MINER_STATE_DIR=str(tmp_path / "new/state"))
    assert [finding for finding in found if finding.advice and finding.wrong] == []
    assert complaints(found) == {"unit": "systemd does not know quantus-miner.service"}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: path.chmod(0o644)], ids=["missing", "no x"])
def test_a_program_that_cannot_be_started(tmp_path: Path, break_it: Callable[[Path], None]) -> None:
    host = plant(tmp_path)
    break_it(tmp_path / "usr/local/bin/quantus-miner")
    assert complaints(findings(host, MINER_STATE_DIR=str(tmp_path))) == {
        "program": "/usr/local/bin/quantus-miner is missing or not executable"
    }


def test_an_account_that_is_not_there(tmp_path: Path) -> None:
    host = plant(tmp_path, User="quantus-nobody", Group="quantus-nobody")
    found = complaints(findings(host, MINER_STATE_DIR=str(tmp_path)))
    assert found["user"] == found["group"] == "quantus-nobody does not exist"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"CPUAffinity": "4000"}, "names no CPU it can have"),
        ({"CPUAffinity": "0", "AllowedCPUs": "4000"}, "names no CPU it can have"),
        ({"CPUAffinity": "0-1", "AllowedCPUs": "1"}, "[0] outside AllowedCPUs="),
        ({"CPUAffinity": "many"}, "'many' is no CPU"),
    ],
)
def test_an_affinity_outside_the_cpuset(tmp_path: Path, properties: dict[str, str], expected: str) -> None:
    online = tmp_path / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.write_text("0-1\n")
    found = complaints(findings(plant(tmp_path, **properties), MINER_STATE_DIR=str(tmp_path)))
    assert expected in found["CPUs"]
    assert list(found) == ["CPUs"]


def test_a_malformed_list_of_what_is_online_is_ignored(tmp_path: Path) -> None:
    online = tmp_path / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.write_text("0-\n")
    assert complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path))) == {}


def test_a_quota_is_worth_a_note(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n")
    (note,) = [finding for finding in findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path)) if finding.advice]
    assert (note.about, note.wrong) == ("CPU quota", False)
    assert note.found.startswith("0.5 CPUs for ")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other accounts can reach, which pytest's are not; for root, who can look for another account."""
    if os.geteuid() != 0:
        pytest.skip("only root can look for another account")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("about", ["state folder", "working folder"])
def test_a_folder_that_the_account_cannot_write(public: Path, about: str) -> None:
    closed, own = public / "closed", public / "own"
    closed.mkdir(0o755)
    own.mkdir(0o700)
    os.chown(own, *pwd.getpwnam("nobody")[2:4])
    state, work = (closed, own) if about == "state folder" else (own, closed)
    host = plant(public / "root", User="nobody", WorkingDirectory=str(work))
    assert complaints(findings(host, MINER_STATE_DIR=str(state))) == {
        about: f"{closed} cannot be written by the service"
    }


def test_a_state_folder_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert "state folder" in complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(missing)))


def test_a_port_that_another_has_and_one_that_a_miner_has(tmp_path: Path) -> None:
    host = plant(tmp_path)
    with MinerProcess("--port=0", "--metrics-port=0") as miner:
        for name, port, about in (
            ("MINER_PORT", miner.port, "job API"),
            ("MINER_METRICS_PORT", miner.metrics_port, "metrics"),
        ):
            well = findings(host, **{"MINER_STATE_DIR": str(tmp_path), name: str(port)})
            assert complaints(well) == {}
            assert f"a miner answers on 127.0.0.1:{port}" in [found.found for found in well if found.about == about]
    with closing(socket.create_server(("127.0.0.1", 0))) as squatter:
        port = squatter.getsockname()[1]
        assert complaints(findings(host, MINER_STATE_DIR=str(tmp_path), MINER_PORT=str(port))) == {
            "job API": f"cannot listen on 127.0.0.1:{port}: Address already in use"
        }


def test_an_engine_that_cannot_run_here(tmp_path: Path) -> None:
    found = complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path), MINER_ENGINE="gpu-opencl"))
    assert found["engine"].startswith("engine 'gpu-opencl' is not available")


@pytest.mark.usefixtures("opencl_on_cpu")
def test_a_card_that_is_broken_beside_an_engine_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opencl = drivers.load("gpu-opencl")
    (cpu, *_) = (device for device in opencl.devices() if device.kind == "cpu")
    monkeypatch.setattr(opencl, "source", lambda _: "nonsense")
    environ = {"MINER_ENGINE": "gpu-opencl,cpu-fast", "MINER_GPU_DEVICES": str(cpu.index)}
    found = complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path), **environ))
    assert found["engine"].startswith(f"gpu-opencl on device {cpu.index}, {cpu.name}: OpenCL: ")


def test_a_clock_that_nothing_keeps_in_time_is_worth_a_note(tmp_path: Path) -> None:
    host = plant(tmp_path)
    late = Host(host.environ, host.unit, host.root, lambda: TIME_ERROR)
    (note,) = [finding for finding in findings(late, MINER_STATE_DIR=str(tmp_path)) if finding.advice]
    assert (note.about, note.found, note.wrong) == ("clock", "not synchronised", False)


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    found = complaints(findings(plant(tmp_path), MINER_WORKERS="many"))
    assert found == {
        "settings": "--workers: 'many' (environment variable MINER_WORKERS) is not allowed; "
        "allowed: a whole number from 0 to 1000000"
    }


def test_a_secret_that_the_account_cannot_read(public: Path) -> None:
    host = plant(public / "root", User="nobody")
    for mode, complaint in ((0o600, True), (0o644, False)):
        token = public / f"token-{mode:o}"
        token.touch()
        token.chmod(mode)
        secret = Host({"MINER_API_TOKEN_FILE": str(token)}, host.unit, host.root, host.clock_state)
        found = complaints(findings(secret, MINER_STATE_DIR=str(public)))
        assert (found.get("MINER_API_TOKEN_FILE") == f"{token} is not readable for the service") is complaint


def test_live_sources_that_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as listening:
        closed.bind(("127.0.0.1", 0))
        refused, there = closed.getsockname()[1], listening.getsockname()[1]
        found = findings(
            plant(tmp_path),
            MINER_STATE_DIR=str(tmp_path),
            MINER_POOL=f"stratum+tcp://127.0.0.1:{refused},stratum+tcp://127.0.0.1:{there}",
            MINER_WALLET="someone",
            MINER_NODE_ADDR=f"127.0.0.1:{refused}",
            MINER_AUTH_TOKEN="0" * 64,
            MINER_TLS_CERT_SHA256="0" * 64,
        )
    assert complaints(found) == {
        "node": f"127.0.0.1:{refused} cannot be reached: Connection refused",
        "pool": f"127.0.0.1:{refused} cannot be reached: Connection refused",
    }
    assert f"127.0.0.1:{there} can be reached" in [finding.found for finding in found]


def test_a_name_that_no_resolver_can_be_asked_for(tmp_path: Path) -> None:
    found = findings(
        plant(tmp_path), MINER_STATE_DIR=str(tmp_path), MINER_POOL="stratum+tcp://a..b:1", MINER_WALLET="someone"
    )
    assert complaints(found)["pool"].startswith("a..b:1 cannot be reached: ")


def test_the_environment_is_that_of_the_service(tmp_path: Path) -> None:
    for folder, text in (
        ("etc/default", "# a comment\nMINER_PORT=1\nMINER_BIND='::1'\nMINER_LOG=warn  # kept\nnonsense\n"),
        ("etc/sysconfig", 'MINER_PORT=2\nEXTRA_MINER_FLAGS="--workers 1"\n'),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "quantus-miner").write_text(text)
    assert service_environment({"MINER_BIND": "127.0.0.2"}, {"StateDirectory": "quantus-miner"}, tmp_path) == {
        "MINER_PORT": "2",
        "MINER_BIND": "127.0.0.2",
        "MINER_LOG": "warn  # kept",
        "EXTRA_MINER_FLAGS": "--workers 1",
        "STATE_DIRECTORY": "/var/lib/quantus-miner",
    }


def test_an_engine_that_is_left_out_is_a_note(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quantus_miner", "doctor", "--state-dir", str(tmp_path), "--port", "0"]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MINER_")}
    command += ["--engine", "gpu-opencl,cpu-baseline", "--gpu-devices", "77"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert "note   engine: gpu-opencl is left out: " in ended.stdout
    assert "ok     engine: cpu-baseline passed the self test" in ended.stdout
    assert " WARN miner.gpu: Engine gpu-opencl is left out: " in ended.stderr


def test_the_command_ends_with_1_if_something_is_wrong(tmp_path: Path) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MINER_")}
    command = [sys.executable, "-m", "quantus_miner", "doctor", "--state-dir", str(tmp_path), "--port", "0"]
    for extra, code, text in (
        ("", 0, "ok     engine: cpu-fast passed the self test"),
        ("--engine gpu-cuda", 1, "WRONG  engine: engine 'gpu-cuda' is not available"),
        ("--workers many", 1, "WRONG  settings: --workers: 'many' (command line) is not allowed"),
        ("--log 'info", 1, "WRONG  settings: EXTRA_MINER_FLAGS: No closing quotation"),
    ):
        ended = subprocess.run(
            command,
            env=environ | {"EXTRA_MINER_FLAGS": extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (code, "")
        assert text in ended.stdout
