"""What the unit promises, while it runs: log, settings, CPUs, hardening."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import CHECKOUT, DROP_INS, UNIT, Machine


def test_it_is_installed_enabled_and_running_under_its_own_name(machine: Machine) -> None:
    machine.configure()
    assert machine.run(f"systemctl is-enabled {UNIT}") == "enabled"
    assert machine.run(f"systemctl is-active {UNIT}") == "active"
    assert machine.run("pidof quantus-miner") == str(machine.pid)
    assert machine.run(f"ps -o user= -p {machine.pid}") == "quantus"
    assert machine.run("getent passwd quantus").endswith(":/usr/sbin/nologin")
    assert machine.run("stat -c '%U:%G %a' /var/lib/quantus-miner") == "quantus:quantus 750"
    assert re.search(
        r'Status: "idle: no source has work: no node or pool is set; jobs come over HTTP \| up \d+ \w+"',
        machine.run(f"systemctl status {UNIT}"),
    )
    assert machine.call("/health")["status"] == "ready"


def test_it_is_ready_when_systemctl_start_returns(machine: Machine) -> None:
    machine.run(f"systemctl restart {UNIT} && curl -sf http://127.0.0.1:9833/health")


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Machine) -> None:
    said = machine.run(f"systemd-analyze verify /etc/systemd/system/{UNIT}").splitlines()
    too_new = ("Unknown key 'RestartSteps'", "Unknown key 'RestartMaxDelaySec'", "Unknown key name 'Restart")
    assert not [line for line in said if not any(text in line for text in too_new)]


def test_lines_come_to_the_journal_with_their_priority_and_nothing_of_a_terminal(machine: Machine) -> None:
    cursor = machine.cursor()
    machine.configure(env="RUST_LOG=info,miner=debug\nMINER_WORKERS=0\n")
    entries = [entry for entry in machine.journal(cursor) if entry.get("SYSLOG_IDENTIFIER") == "quantus-miner"]
    priorities = {entry["MESSAGE"]: entry["PRIORITY"] for entry in entries if isinstance(entry["MESSAGE"], str)}
    assert len(priorities) == len(entries)
    expected = {
        "Starting external miner service...": "6",
        "Using engine: cpu-fast": "6",
        "Metrics disabled (no --metrics-port provided)": "6",
        "Server starting on 127.0.0.1:9833": "6",
        "--workers must be at least 1, got 0; using": "4",
        "etected cpuset mask": "7",
    }
    for text, priority in expected.items():
        assert [found for message, found in priorities.items() if text in message] == [priority], text
    assert all(message.startswith("miner") for message in priorities)


def test_entries_of_the_journal_have_fields(machine: Machine) -> None:
    machine.configure()
    cursor = machine.cursor()
    job = {"job_id": "a\nPRIORITY=0", "mining_hash": "07" * 32, "difficulty": "1000"}
    assert machine.call("/mine", job)["status"] == "accepted"
    entry = machine.wait_for_message(cursor, "completed")
    assert entry["MESSAGE"].startswith("miner.http: Job a\\nPRIORITY=0 completed: nonce ")
    assert {name: entry[name] for name in ("JOB", "SOURCE", "DIFFICULTY", "PRIORITY", "LOGGER")} == {
        "JOB": "a\nPRIORITY=0",
        "SOURCE": "http",
        "DIFFICULTY": "1000",
        "PRIORITY": "6",
        "LOGGER": "miner.http",
    }
    assert (entry["SYSLOG_IDENTIFIER"], entry["_SYSTEMD_UNIT"], entry["_TRANSPORT"]) == (
        "quantus-miner",
        UNIT,
        "journal",
    )
    found = machine.run(f"journalctl -u {UNIT} -o json -q JOB=\"$(printf 'a\\nPRIORITY=0')\"").splitlines()
    assert {json.loads(line)["JOB"] for line in found} == {"a\nPRIORITY=0"}


def test_the_last_words_are_found_under_the_unit(machine: Machine) -> None:
    """journald asks for the unit of the process, which is about to end, when it reads an entry."""
    for _ in range(5):
        machine.configure()
        cursor = machine.cursor()
        machine.run(f"systemctl stop {UNIT}")
        last = [entry["MESSAGE"] for entry in machine.journal(cursor) if entry.get("LOGGER")][-1]
        assert last.startswith("miner: Stopped: ")


def test_both_environment_files_count_and_the_second_wins(machine: Machine) -> None:
    machine.configure(env="MINER_METRICS_PORT=\nMINER_PROGRESS_CHUNK_MS=1111\nMINER_PORT=9834\n")
    machine.write("/etc/sysconfig/quantus-miner", "MINER_PORT=9835\n")
    cursor = machine.cursor()
    machine.run(f"systemctl restart {UNIT}")
    (config,) = [entry["MESSAGE"] for entry in machine.journal(cursor) if "Effective config" in entry["MESSAGE"]]
    assert "port=9835," in config
    assert "metrics_port" not in config  # the default
    assert "progress_chunk_ms=1111" in config


def test_the_shipped_settings_are_the_defaults(machine: Machine) -> None:
    cursor = machine.cursor()
    machine.configure(env=(CHECKOUT / "systemd/quantus-miner.env").read_text())
    machine.configure()
    first, second = [entry["MESSAGE"] for entry in machine.journal(cursor) if "Effective config" in entry["MESSAGE"]]
    assert first == second


def test_extra_flags_reach_the_command_line_word_by_word(machine: Machine) -> None:
    cursor = machine.cursor()
    machine.configure(env='EXTRA_MINER_FLAGS="--workers 1 --engine cpu-baseline"\n')
    assert machine.wait_for_message(cursor, "Using engine: cpu-baseline")
    assert machine.run(f"tr '\\0' ' ' </proc/{machine.pid}/cmdline").endswith("--workers 1 --engine cpu-baseline")


# --- CPUs ---


def cpu_count(machine: Machine) -> int:
    return int(machine.run("nproc --all"))


def test_affinity_is_what_taskset_shows_and_what_the_miner_counts(machine: Machine) -> None:
    machine.configure(env="MINER_METRICS_PORT=9900\n", drop_in="[Service]\nCPUAffinity=0\n")
    assert machine.run('taskset -cp "$(pidof quantus-miner)"').endswith("affinity list: 0")
    assert machine.metric("miner_effective_cpus") == 1


def test_the_shared_example_leaves_the_first_cpu_alone(machine: Machine) -> None:
    if cpu_count(machine) < 2:
        pytest.skip("a machine with one CPU")
    machine.configure(
        env="MINER_METRICS_PORT=9900\n", drop_in=(CHECKOUT / "systemd/overrides/10-shared-hardware.conf").read_text()
    )
    shown = machine.run(f"awk '/^Cpus_allowed_list/ {{print $2}}' /proc/{machine.pid}/status")
    assert shown == ("1" if cpu_count(machine) == 2 else f"1-{min(3, cpu_count(machine) - 1)}")
    assert machine.metric("miner_effective_cpus") == min(3, cpu_count(machine) - 1)
    assert machine.run(f"ps -o ni= -p {machine.pid}").strip() == "10"


def test_the_dedicated_example_takes_all_and_each_worker_keeps_to_a_cpu(machine: Machine) -> None:
    """So sched_setaffinity passes the system call filter."""
    count = cpu_count(machine)
    cursor = machine.cursor()
    machine.configure(
        env=f"MINER_METRICS_PORT=9900\nMINER_WORKERS={count}\n",
        drop_in=(CHECKOUT / "systemd/overrides/20-dedicated-hardware.conf").read_text(),
    )
    assert machine.metric("miner_effective_cpus") == count
    allowed = machine.run(f"awk '/^Cpus_allowed_list/ {{print $2}}' /proc/{machine.pid}/task/*/status").split()
    assert {str(cpu) for cpu in range(count)} <= set(allowed)
    assert machine.run(f"ps -o ni= -p {machine.pid}").strip() == "-5"
    assert "5" in machine.run(f"ps -L -o ni= -p {machine.pid}").split()  # a worker: 10 above
    assert not [
        entry
        for entry in machine.journal(cursor)
        if int(entry["PRIORITY"]) <= 4
        and "miner" in entry["MESSAGE"]
        and entry.get("SYSLOG_IDENTIFIER") == "quantus-miner"
    ]


def test_too_many_workers_are_reduced_with_a_warning(machine: Machine) -> None:
    cursor = machine.cursor()
    machine.configure(env="MINER_WORKERS=99\n", drop_in="[Service]\nCPUAffinity=0\n")
    text = "Requested 99 workers exceeds available logical CPUs in cpuset (1). Clamping to 1."
    assert machine.wait_for_message(cursor, text)["PRIORITY"] == "4"


@pytest.mark.parametrize(("limit", "controller"), [("AllowedCPUs=0", "cpuset"), ("CPUQuota=100%", "cpu")])
def test_limits_that_the_unit_sets_are_counted(machine: Machine, limit: str, controller: str) -> None:
    if cpu_count(machine) < 2:
        pytest.skip("a machine with one CPU")
    if controller not in machine.controllers:
        pytest.skip(f"systemd cannot set {limit} here: this machine's cgroup v2 has no controller {controller}")
    machine.configure(env="MINER_METRICS_PORT=9900\n", drop_in=f"[Service]\n{limit}\n")
    assert machine.metric("miner_effective_cpus") == 1


def test_a_cpuset_above_is_counted_and_told(machine: Machine) -> None:
    if cpu_count(machine) < 2:
        pytest.skip("a machine with one CPU")
    cursor = machine.cursor()
    with machine.confined("1"):
        machine.configure(env="MINER_METRICS_PORT=9900\nMINER_WORKERS=2\nRUST_LOG=info,miner=debug\n")
        assert machine.metric("miner_effective_cpus") == 1
    assert machine.wait_for_message(cursor, "Detected cpuset mask: 1")["PRIORITY"] == "7"
    text = "Requested 2 workers exceeds available logical CPUs in cpuset (1). Clamping to 1."
    assert machine.wait_for_message(cursor, text)["PRIORITY"] == "4"


def test_a_drop_in_fitted_to_this_machine_starts(machine: Machine) -> None:
    for kind, workers in (("--shared", ""), ("--dedicated", cpu_count(machine))):
        machine.configure(env="MINER_METRICS_PORT=9900\n", drop_in=machine.run(f"quantus-miner service print {kind}"))
        shared = max(1, cpu_count(machine) - 1)
        assert machine.metric("miner_effective_cpus") == (workers or shared)
        if workers:
            assert machine.metric("miner_workers") == workers


# --- the doctor ---

DOCTORS = {
    "root": "quantus-miner doctor",
    "account": "runuser -u quantus -- quantus-miner doctor",
}


@pytest.mark.parametrize("who", DOCTORS)
def test_the_doctor_finds_nothing_wrong(machine: Machine, who: str) -> None:
    machine.configure(env="MINER_METRICS_PORT=9900\n")
    said = machine.run(DOCTORS[who])
    assert "WRONG" not in said
    assert "ok     state folder: /var/lib/quantus-miner can be written" in said
    assert "ok     job API: a miner answers on 127.0.0.1:9833" in said


def test_the_doctor_works_inside_the_unit(machine: Machine) -> None:
    machine.configure()
    for port, verdict in (
        ("9833", "ok     job API: 127.0.0.1:9833 is free"),
        ("many", "WRONG  settings: --port: 'many'"),
    ):
        cursor = machine.cursor()
        machine.write(f"{DROP_INS}/doctor.conf", "[Service]\nExecStartPre=/usr/local/bin/quantus-miner doctor\n")
        machine.write("/etc/default/quantus-miner", f"MINER_PORT={port}\n")
        machine.run(f"systemctl daemon-reload; systemctl stop {UNIT}; systemctl start --no-block {UNIT}")
        assert machine.wait_for_message(cursor, verdict)
    machine.run(f"systemctl stop {UNIT}")


@pytest.mark.parametrize(
    ("drop_in", "env", "verdict"),
    [
        ("User=ghost", "", "WRONG  user: ghost does not exist"),
        ("ExecStart=\nExecStart=/usr/local/bin/quantus-minre", "", "WRONG  program: /usr/local/bin/quantus-minre is"),
        ("CPUAffinity=4000", "", "WRONG  CPUs: CPUAffinity= of the unit names no CPU that the service may use"),
        ("WorkingDirectory=/srv", "", "WRONG  working folder: /srv cannot be written by the service"),
        (
            "",
            "MINER_API_TOKEN_FILE=/root/token\n",
            "WRONG  MINER_API_TOKEN_FILE: /root/token: the service sees no home folders (ProtectHome=)",
        ),
        ("", "MINER_STATE_DIR=/srv\n", "WRONG  state folder: /srv cannot be written by the service"),
        ("", "MINER_ENGINE=gpu-cuda\n", "WRONG  engine: engine 'gpu-cuda' is not available"),
    ],
)
def test_the_doctor_finds_each_pitfall_of_the_page(machine: Machine, drop_in: str, env: str, verdict: str) -> None:
    machine.configure()
    machine.write(f"{DROP_INS}/test.conf", f"[Service]\n{drop_in}\n")
    machine.write("/etc/default/quantus-miner", env)
    machine.run("systemctl daemon-reload")
    assert verdict in machine.run("quantus-miner doctor", check=False)
    assert machine.run("quantus-miner doctor >/dev/null 2>&1 || echo $?", check=False) == "1"


# --- hardening ---


def test_the_hardening_is_in_force(machine: Machine) -> None:
    machine.configure()
    status = dict(
        line.split(":\t", 1) for line in machine.run(f"cat /proc/{machine.pid}/status").splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    inside = f"nsenter --mount --target={machine.pid} sh -c"
    for folder in ("/usr", "/etc", "/opt", "/var/lib"):
        assert "Read-only file system" in machine.run(f"{inside} 'touch {folder}/x'", check=False), folder
    assert machine.run(f"{inside} 'ls -A /home /root'", check=False).count("/") == 2  # the two names, nothing in them
    assert machine.run(f"{inside} 'ls /dev'").split().count("null") == 1
    assert "mem" not in machine.run(f"{inside} 'ls /dev'").split()


def test_nothing_is_executed_from_where_the_service_may_write(machine: Machine) -> None:
    machine.configure()
    inside = f"nsenter --mount --target={machine.pid} sh -c"
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/var/lib/quantus-miner"):  # noqa: S108
        copy = f"cp /bin/true {folder}/true && {folder}/true && echo executed"
        assert "Permission denied" in machine.run(f"{inside} '{copy}'", check=False), folder
    assert machine.run(f"{inside} '/usr/bin/true && echo executed'") == "executed"


def test_a_run_tries_no_system_call_that_is_filtered(machine: Machine) -> None:
    """Here one is fatal, which otherwise fails: the service starts, mines, answers and stops without any."""
    cursor = machine.cursor()
    machine.configure(
        env="MINER_METRICS_PORT=9900\nMINER_WORKERS=2\n", drop_in="[Service]\nSystemCallErrorNumber=kill\n"
    )
    job = json.dumps({"job_id": "1", "mining_hash": "07" * 32, "difficulty": "1000"})
    machine.run(f"curl -sf http://127.0.0.1:9833/mine -H 'content-type: application/json' -d '{job}'")
    machine.wait_for_message(cursor, "Job 1 completed")
    assert machine.call("/result/1")["status"] == "completed"
    assert machine.metric("miner_effective_cpus") >= 1
    machine.run(f"systemctl stop {UNIT}")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    assert machine.show("NRestarts") == "0"


def test_the_unit_has_what_the_page_lists(machine: Machine) -> None:
    expected = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "PrivateMounts": "yes",
        "PrivateIPC": "yes",
        "TasksMax": "4096",
        "MemoryMax": str(1 << 30),
        "LockPersonality": "yes",
        "RestrictSUIDSGID": "yes",
        "User": "quantus",
        "Group": "quantus",
        "StateDirectory": "quantus-miner",
        "WorkingDirectory": "/var/lib/quantus-miner",
        "StandardOutput": "journal",
        "Type": "notify",
        "Restart": "on-failure",
        "NRestarts": "0",
    }
    shown = dict(line.partition("=")[::2] for line in machine.run(f"systemctl show {UNIT}").splitlines())
    assert {name: shown[name] for name in expected} == expected
    assert shown["RestrictNamespaces"] in ("", "yes", "0")  # shown as the set that is allowed: none
    allowed = set(shown["SystemCallFilter"].split())
    assert {"read", "futex", "sched_setaffinity", "sched_setattr", "setpriority"} <= allowed
    assert not {"mount", "reboot", "chown", "setrlimit", "ptrace", "bpf"} & allowed
    assert not {"keyctl", "shmget", "memfd_create", "setgid", "io_uring_setup"} & allowed


def test_the_exposure_is_that_of_the_page(machine: Machine) -> None:
    page = (CHECKOUT / "systemd/README.md").read_text()
    match = re.search(r"an exposure of ([0-9.]+), with `30-gpu.conf` ([0-9.]+), in systemd ([0-9]+)", page)
    assert match
    assert machine.run("systemctl --version").startswith(f"systemd {match[3]} ")
    for drop_in, exposure in (("", match[1]), ((CHECKOUT / "systemd/overrides/30-gpu.conf").read_text(), match[2])):
        machine.configure(drop_in=drop_in)
        said = machine.run(f"systemd-analyze security --no-pager {UNIT}").splitlines()[-1]
        assert f"Overall exposure level for {UNIT}: {exposure} OK" in said


def test_the_gpu_drop_in_is_understood(machine: Machine) -> None:
    text = (CHECKOUT / "systemd/overrides/30-gpu.conf").read_text()
    machine.configure(drop_in=text)
    assert machine.show("PrivateDevices") == "no"
    assert machine.show("MemoryDenyWriteExecute") == "no"
    assert machine.show("MemoryMax") == "infinity"
    assert {"mbind", "memfd_create", "io_setup"} <= set(machine.show("SystemCallFilter").split())
    assert machine.run(f"systemd-analyze verify /etc/systemd/system/{UNIT} 2>&1 | grep -c test.conf || true") == "0"
    assert machine.run(f"ls {DROP_INS}") == "test.conf"
    assert machine.call("/health")["status"] == "ready"


# --- settings that change ---


def test_systemctl_reload_applies_the_config_file_and_nothing_restarts(machine: Machine) -> None:
    machine.write("/etc/quantus-miner.toml", "workers = 1\n")
    machine.configure(env='EXTRA_MINER_FLAGS="--config /etc/quantus-miner.toml"\n')
    before = machine.pid
    cursor = machine.cursor()
    machine.write("/etc/quantus-miner.toml", "job-expiry-s = 7\nlog = 'info,miner.http=warn'\n")
    machine.run(f"systemctl reload {UNIT}")
    assert machine.wait_for_message(cursor, "Reloaded: workers, job_expiry_s, log")
    machine.write("/etc/quantus-miner.toml", "workers = 'x'\n")
    cursor = machine.cursor()
    machine.run(f"systemctl reload {UNIT}")
    assert machine.wait_for_message(cursor, "Reloaded no settings: --workers: 'x'")
    assert machine.pid == before
    assert machine.run(f"systemctl is-active {UNIT}") == "active"
    assert machine.show("NRestarts") == "0"
    assert machine.call("/health")["status"] == "ready"
    machine.run("rm /etc/quantus-miner.toml")
