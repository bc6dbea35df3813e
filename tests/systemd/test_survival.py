"""How it ends and comes back."""

from __future__ import annotations

import shlex
import subprocess
import time

import pytest

from .conftest import UNIT, Machine

ENDLESS = {"job_id": "endless", "mining_hash": "ab" * 32, "difficulty": str(2**500)}


def test_it_comes_back_after_sigkill_with_its_results(machine: Machine) -> None:
    machine.configure()
    assert machine.call("/mine", ENDLESS | {"job_id": "easy", "difficulty": "1000"})["status"] == "accepted"
    while (result := machine.call("/result/easy"))["status"] == "running":
        pass
    assert result["status"] == "completed"
    assert machine.call("/mine", ENDLESS)["status"] == "accepted"
    before, cursor = machine.pid, machine.cursor()
    began = time.monotonic()
    machine.run(f"kill -KILL {before}")
    machine.wait_for_message(cursor, "Started quantus-miner.service")
    took = time.monotonic() - began
    print(f"back {took:.1f} s after SIGKILL")
    assert machine.pid != before
    assert machine.show("NRestarts") == "1"
    assert took < 15
    assert machine.call("/result/easy") == result
    assert machine.call("/result/endless")["status"] == "running"


def test_a_wedged_process_is_ended_and_started_again(machine: Machine) -> None:
    machine.configure(drop_in="[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    before, cursor = machine.pid, machine.cursor()
    machine.run(f"kill -STOP {before}")
    machine.wait_for_message(cursor, "Watchdog timeout")
    # Where it was stuck, for those who have to find out why.
    machine.wait_for_message(cursor, "Fatal Python error: Aborted")
    machine.wait_for_message(cursor, "Started quantus-miner.service")
    assert machine.pid != before
    assert machine.call("/health")["status"] == "ready"


HOLD = """
import ctypes, os, sys
ptrace, thread = ctypes.CDLL(None).ptrace, int(sys.argv[1])
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT: of this thread alone
    assert ptrace(request, thread, None, None) == 0
for _ in range(2):  # until it is held, and until it is gone
    os.waitpid(thread, 0x40000000)  # __WALL
    print("held or gone", flush=True)
"""


def test_one_worker_that_is_stuck_is_enough(machine: Machine) -> None:
    """All other threads go on: the API answers, and the event loop turns."""
    machine.configure(env="MINER_WORKERS=2\n", drop_in="[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    before, cursor = machine.pid, machine.cursor()
    assert machine.call("/mine", ENDLESS)["status"] == "accepted"
    threads = [line.split() for line in machine.run(f"ps -L -o tid=,ni= -p {before}").splitlines()]
    worker, _ = max(threads, key=lambda thread: int(thread[1]))  # workers give way to the others
    with subprocess.Popen(
        machine.command(f"exec python3 -c {shlex.quote(HOLD)} {worker}"), stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        assert machine.call("/health")["status"] == "ready"
        line = machine.wait_for_message(cursor, "has work and has not advanced for 10 s")
        assert line["PRIORITY"] == "3"
        machine.wait_for_message(cursor, "Watchdog timeout")
        machine.wait_for_message(cursor, "Started quantus-miner.service")
        assert holder.wait(30) == 0
    assert machine.pid != before


def test_the_watchdog_is_fed_while_it_mines(machine: Machine) -> None:
    machine.configure(drop_in="[Service]\nWatchdogSec=2\n")
    before = machine.pid
    assert machine.call("/mine", ENDLESS)["status"] == "accepted"
    first = int(machine.show("WatchdogTimestampMonotonic"))
    # Three times what the watchdog allows.
    while int(machine.show("WatchdogTimestampMonotonic")) < first + 6_000_000:
        assert machine.pid == before
    assert machine.show("NRestarts") == "0"
    assert machine.show("StatusText").startswith("speed 10s/60s/15m ")


def test_it_stops_within_a_second_with_a_job_under_way(machine: Machine) -> None:
    machine.configure()
    assert machine.call("/mine", ENDLESS)["status"] == "accepted"
    cursor = machine.cursor()
    machine.run(f"systemctl stop {UNIT}")
    messages = {entry["MESSAGE"]: int(entry["__REALTIME_TIMESTAMP"]) for entry in machine.journal(cursor)}
    begun = next(at for message, at in messages.items() if message.startswith("Stopping quantus-miner.service"))
    ended = next(at for message, at in messages.items() if message.startswith("Stopped quantus-miner.service"))
    print(f"stopped after {(ended - begun) / 1e6:.2f} s")
    assert ended - begun < 1_000_000
    assert any(message.startswith("miner: Stopped: ") for message in messages)
    assert machine.show("Result") == "success"
    assert machine.show("ExecMainStatus") == "0"


def fails(machine: Machine, env: str) -> None:
    machine.configure()
    machine.write("/etc/default/quantus-miner", env)


def test_a_comment_behind_a_value_is_none_of_it(machine: Machine) -> None:
    """As the operator page has it; systemd does not strip it."""
    machine.configure(env="MINER_METRICS_PORT=9900         # enable Prometheus exporter\nMINER_WORKERS=1   # half\n")
    assert machine.run("curl -s http://127.0.0.1:9900/metrics | grep ^miner_workers") == "miner_workers 1.0"


def test_a_wrong_setting_is_named_and_not_tried_again(machine: Machine) -> None:
    fails(machine, "MINER_PORT=ninety  # the API\n")
    cursor = machine.cursor()
    machine.run(f"systemctl restart {UNIT}", check=False)
    entry = machine.wait_for_message(cursor, "--port: 'ninety' (environment variable MINER_PORT)")
    assert entry["SYSLOG_IDENTIFIER"] == "quantus-miner"
    assert entry["PRIORITY"] == "3"  # so that journalctl -p warning shows it
    machine.wait_for_message(cursor, "Failed with result 'exit-code'")
    assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "2")
    assert machine.show("NRestarts") == "0"


def test_an_engine_that_cannot_run_here_is_named_and_not_tried_again(machine: Machine) -> None:
    fails(machine, "MINER_ENGINE=gpu-opencl\n")
    cursor = machine.cursor()
    machine.run(f"systemctl restart {UNIT}", check=False)
    assert machine.wait_for_message(cursor, "engine 'gpu-opencl' is not available")
    machine.wait_for_message(cursor, "Failed with result 'exit-code'")
    assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "5")
    assert machine.show("NRestarts") == "0"


@pytest.mark.parametrize("ends", [True, False])
def test_a_pool_that_refuses_us_ends_the_service_only_where_that_is_asked_for(machine: Machine, ends: bool) -> None:
    machine.run("systemd-run --quiet --unit=pool quantus-miner dev-pool --listen 3333 --misbehave refuse-login")
    try:
        machine.run("until journalctl -u pool --no-pager | grep -q 3333; do :; done")
        cursor = machine.cursor()
        asked = "MINER_EXIT_ON_REFUSAL=on\n" * ends
        machine.configure(env=f"MINER_POOL=stratum+tcp://127.0.0.1:3333\nMINER_WALLET=someone\n{asked}")
        machine.wait_for_message(cursor, "it refuses the login")
        if not ends:
            assert machine.call("/health")["status"] == "ready"
            return
        machine.wait_for_message(cursor, "Failed with result 'exit-code'")
        assert (machine.show("ActiveState"), machine.show("ExecMainStatus")) == ("failed", "3")
        assert machine.show("NRestarts") == "0"
        assert any("every live source refuses us" in entry["MESSAGE"] for entry in machine.journal(cursor))
    finally:
        machine.run("systemctl stop pool")


def test_a_taken_port_is_tried_until_it_is_free(machine: Machine) -> None:
    machine.configure(drop_in="[Service]\nRestartSec=100ms\n")
    machine.run(f"systemctl stop {UNIT}")
    machine.run("systemd-run --quiet --unit=squatter python3 -m http.server --bind 127.0.0.1 9833")
    machine.run("until curl -s http://127.0.0.1:9833 >/dev/null; do :; done")
    cursor = machine.cursor()
    machine.run(f"systemctl start --no-block {UNIT}")
    machine.wait_for_message(cursor, "--port: cannot listen on 127.0.0.1:9833: Address already in use")
    machine.run("systemctl stop squatter")
    machine.wait_for_message(cursor, "Started quantus-miner.service")
    assert machine.call("/health")["status"] == "ready"
