"""The doctor: a planted fault of each kind, on this machine or a made-up one."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from quantus_miner import doctor
from quantus_miner.doctor import TIME_ERROR, Finding, _files, examine
from quantus_miner.errors import SettingError
from quantus_miner.gpu import drivers
from quantus_miner.settings import Settings, load
from quantus_miner.unit import CREDENTIALS, Host, service_environment

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


def test_an_account_that_is_not_there_is_all_that_is_wrong(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    host = plant(tmp_path, User="quantus-nobody", Group="quantus-nobody", ProtectHome="yes")
    for environ in ({}, {"MINER_API_TOKEN_FILE": str(token)}):
        told = Host(environ, host.unit, host.root, host.clock_state)
        found = findings(told, MINER_STATE_DIR=str(tmp_path))
        # Whom a file or folder is readable for cannot be said without one.
        assert complaints(found) == dict.fromkeys(["user", "group"], "quantus-nobody does not exist")
        assert not any("chmod" in finding.advice or "chgrp" in finding.advice for finding in found)


def test_the_workers_are_those_that_the_service_will_have(tmp_path: Path) -> None:
    host = plant(tmp_path)
    one = Host({}, {**host.unit, "CPUAffinity": str(min(os.sched_getaffinity(0)))}, host.root, host.clock_state)
    count = len(os.sched_getaffinity(0))
    cpus = f"{count} effective CPU" + "s" * (count > 1)
    default = max(1, min(count - count // 2, count - 1))
    for where, asked, expected, advised in (
        (host, {}, f"{default} worker{'s' * (default > 1)} on {cpus}, none are set", False),
        (host, {"MINER_WORKERS": "0"}, f"{default} worker{'s' * (default > 1)} on {cpus}, none are set", False),
        (host, {"MINER_WORKERS": "1"}, f"1 worker on {cpus}, as set", False),
        (host, {"MINER_WORKERS": str(count)}, f"{count} worker{'s' * (count > 1)} on {cpus}, as set", False),
        (host, {"MINER_WORKERS": "8192"}, f"{count} worker{'s' * (count > 1)} on {cpus}, 8192 are set", True),
        (one, {}, "1 worker on 1 effective CPU, none are set", False),
    ):
        (workers,) = [f for f in findings(where, MINER_STATE_DIR=str(tmp_path), **asked) if f.about == "workers"]
        assert (workers.found, bool(workers.advice)) == (expected, advised)


def test_no_temporary_folder_is_no_fault_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    host = plant(tmp_path)
    for engine in ("cpu-fast", "cpu-chain-manipulator"):
        found = findings(host, MINER_STATE_DIR=str(tmp_path), MINER_ENGINE=engine)
        assert complaints(found) == {}
        assert f"{engine} passed the self test" in [finding.found for finding in found]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"CPUAffinity": "4000"}, "names no CPU that the service may use"),
        ({"CPUAffinity": "0", "AllowedCPUs": "4000"}, "names no CPU that the service may use"),
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
    opencl = drivers.load("opencl")
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
        "allowed: a whole number from 0 to 8192"
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


HANDED_OVER = """Let systemd hand it over: sudo systemctl edit quantus-miner.service, with the lines
  [Service]
  LoadCredential=auth-token:{path}
  Environment=MINER_AUTH_TOKEN_FILE=%d/auth-token
and take {told_by} out of /etc/default/quantus-miner and /etc/sysconfig/quantus-miner, which win over them"""


@pytest.mark.parametrize(
    ("environ", "told_by"),
    [
        ({"MINER_AUTH_TOKEN_FILE": "{}"}, "MINER_AUTH_TOKEN_FILE"),
        ({"EXTRA_MINER_FLAGS": "--workers 1 --auth-token-file {} --port 0"}, "--auth-token-file"),
        ({"EXTRA_MINER_FLAGS": "--auth-token-file={}"}, "--auth-token-file"),
        ({"EXTRA_MINER_FLAGS": "--config \0 --auth-token-file={} --config"}, "--auth-token-file"),
    ],
)
def test_a_token_in_a_home_folder_is_to_be_handed_over(tmp_path: Path, environ: dict[str, str], told_by: str) -> None:
    link = tmp_path / "link"
    link.symlink_to("/root")
    for path in ("/root/base/token", "/home/me/token", f"{link}/token"):
        told = {name: text.format(path) for name, text in environ.items()}
        for protect, hidden in (("yes", True), ("tmpfs", True), ("no", False), ("read-only", False)):
            host = Host(told, plant(tmp_path / protect / path.strip("/"), ProtectHome=protect).unit, tmp_path)
            found = [finding for finding in _files(host) if finding.advice]
            assert bool(found) is hidden
            if hidden:
                assert found[0].found == f"{path}: the service sees no home folders (ProtectHome=)"
                assert found[0].advice == HANDED_OVER.format(path=path, told_by=told_by)
                assert all(line.startswith("       ") for line in list(found[0].lines())[1:])


def test_what_else_the_service_does_not_see_in_a_home_folder(tmp_path: Path) -> None:
    host = plant(tmp_path, ProtectHome="yes", ExecStart="{ path=/home/me/venv/bin/quantus-miner ; argv[]=… }")
    config = Host({"EXTRA_MINER_FLAGS": "--config /root/miner.toml"}, host.unit, host.root, host.clock_state)
    found = findings(config, MINER_STATE_DIR="/home/me/state")
    hidden = "the service sees no home folders (ProtectHome=)"
    assert complaints(found) == {
        "program": f"/home/me/venv/bin/quantus-miner: {hidden}",
        "--config": f"/root/miner.toml: {hidden}",
        "state folder": f"/home/me/state: {hidden}",
    }
    assert "Move it to where every account can read it, such as /etc/miner.toml" in [f.advice for f in found]


@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        ({"ProtectSystem": "strict"}, True),
        ({"ProtectSystem": "full"}, False),
        ({"ProtectSystem": "strict", "ReadWritePaths": "/srv {}"}, False),
    ],
)
def test_a_state_folder_that_the_unit_keeps_read_only(tmp_path: Path, properties: dict[str, str], fault: bool) -> None:
    host = plant(tmp_path, **{name: text.format(tmp_path) for name, text in properties.items()})
    state = tmp_path / "state"
    state.mkdir()
    found = complaints(findings(host, MINER_STATE_DIR=str(state)))
    expected = {"state folder": f"{state} is read-only for the service (ProtectSystem=strict)"}
    assert found == (expected if fault else {})


def test_what_systemd_hands_over_is_looked_for_where_it_comes_from(tmp_path: Path) -> None:
    token = tmp_path / "token"
    host = plant(
        tmp_path,
        ProtectHome="yes",
        LoadCredential=f"api-token:{token}",
        Environment=f'EXTRA_MINER_FLAGS= "MINER_API_TOKEN_FILE={CREDENTIALS}api-token"',
    )
    environ = service_environment({}, host.unit, tmp_path)
    assert environ["MINER_API_TOKEN_FILE"] == str(token)
    told = Host(environ, host.unit, host.root, host.clock_state)
    missing = [finding for finding in _files(told) if finding.advice]
    if os.geteuid() == 0:  # who else could know
        assert [finding.found for finding in missing] == [f"{token}, which systemd hands over, is not there"]
    token.write_text("s3cret")
    token.chmod(0o600)
    assert complaints(findings(told, **environ, MINER_STATE_DIR=str(tmp_path))) == {}


def test_a_file_that_only_root_can_look_for_is_no_traceback(public: Path) -> None:
    closed = public / "closed"
    closed.mkdir(0o700)
    host = Host({"MINER_API_TOKEN_FILE": str(closed / "token")}, plant(public / "root", User="nobody").unit, public)

    def refuse() -> Settings:
        raise SettingError("--api-token-file: cannot read it")

    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        found = list(examine(host, refuse))
    finally:
        os.seteuid(0)
    (settings,) = [finding for finding in found if finding.about == "settings"]
    assert (settings.advice, settings.wrong) == ("Run this with sudo", False)


def test_every_address_of_a_name_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server cannot be had here; the connections are real."""
    stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        pool = {"MINER_POOL": f"stratum+tcp://two.example:{port}", "MINER_WALLET": "someone"}
        for addresses, complains, expected in (
            (["127.0.0.2", "127.0.0.1"], False, "can be reached; not 127.0.0.2: Connection refused"),
            (["127.0.0.1", "127.0.0.2"], False, "can be reached"),
            (
                ["127.0.0.2", "127.0.0.3"],
                True,
                "cannot be reached: 127.0.0.2: Connection refused; 127.0.0.3: Connection refused",
            ),
        ):
            answer = [(*stream, (address, port)) for address in addresses]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, answer=answer, **__: answer)
            found = findings(plant(tmp_path / "".join(addresses)), MINER_STATE_DIR=str(tmp_path), **pool)
            (pool_finding,) = [finding for finding in found if finding.about == "pool"]
            assert pool_finding.found == f"two.example:{port} {expected}"
            assert bool(pool_finding.advice) is complains


def test_a_family_that_this_machine_has_not_is_one_more_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = [(99, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    environ = {"MINER_POOL": "stratum+tcp://six.example:1", "MINER_WALLET": "someone"}
    found = complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path), **environ))
    assert found["pool"] == "six.example:1 cannot be reached: ::1: Address family not supported by protocol"


def test_a_name_server_that_never_answers_is_waited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = threading.Event()
    monkeypatch.setattr(doctor, "LOOKUP_TIMEOUT_S", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait())
    environ = {"MINER_POOL": "stratum+tcp://slow.example:1", "MINER_WALLET": "someone"}
    found = complaints(findings(plant(tmp_path), MINER_STATE_DIR=str(tmp_path), **environ))
    end.set()
    assert found["pool"] == "slow.example:1 cannot be reached: no answer within 0.01 s"


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
        ("--nonsense", 1, "WRONG  settings: EXTRA_MINER_FLAGS: No such option '--nonsense'."),
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


def test_a_port_that_gives_a_byte_now_and_then_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CONNECT_TIMEOUT_S", 0.5)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            for _ in ("/health", "/metrics"):
                with listening.accept()[0] as client, contextlib.suppress(OSError):
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    for _ in range(200):
                        client.sendall(b"x")
                        done.wait(0.1)

        serving = threading.Thread(target=serve)
        serving.start()
        found = complaints(findings(plant(tmp_path), f"port={port}", MINER_STATE_DIR=str(tmp_path)))
        assert serving.is_alive()  # it was not waited for
        done.set()
        serving.join()
    assert found["job API"] == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_json_says_the_same(tmp_path: Path) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MINER_")}
    command = [sys.executable, "-m", "quantus_miner", "doctor", "--json", "--port", "0", "--workers", "many"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout.count("\n")) == (1, "", 1)
    report = msgspec.json.decode(ended.stdout, type=doctor.DoctorReport)
    by_verdict = {finding.verdict: finding for finding in report.findings}
    assert by_verdict["ok"].advice == ""
    assert (by_verdict["wrong"].about, by_verdict["wrong"].advice != "") == ("settings", True)
    assert by_verdict["wrong"].found.startswith("--workers: 'many' (command line) is not allowed")
