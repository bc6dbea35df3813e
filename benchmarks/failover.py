"""Failover as it happens: the first of two pools misbehaves; prints what the miner's log says, and when.

    python -m benchmarks.failover [SCENARIO …]

Real processes: two development pools and the service. Each scenario takes 45 to 110 s; the names are those of
``SCENARIOS``, without any all of them run.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from benchmarks.process import environment, wait_until

WALLET = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"
SHOWN = re.compile(r"(Connected to|Lost|Leaving|Mining for|refuses us|failing)")
MAX_LINES = 25
"""Lines of the log that are shown of one scenario."""


@dataclass(frozen=True)
class Scenario:
    """``first``: the flags of the first pool. ``then``: its flags from ``after_s`` on; None: it stays as it is."""

    what: str
    first: tuple[str, ...]
    after_s: float
    then: tuple[str, ...] | None
    end_s: float


EASY = ("--share-time=1",)
SCENARIOS = {
    "dies": Scenario("the first pool dies, and is back after 15 s", EASY, 8.0, EASY, 105.0),
    "refuses-logins": Scenario(
        "the first pool refuses logins for 20 s", ("--misbehave=refuse-login",), 20.0, EASY, 110.0
    ),
    "busy": Scenario("the first pool refuses one login: server busy", ("--misbehave=busy",), 0.0, None, 75.0),
    "refuses-shares": Scenario("the first pool refuses every share", ("--misbehave=refuse-shares",), 0.0, None, 45.0),
    "forgets": Scenario("the first pool loses our session again and again", ("--misbehave=forget",), 0.0, None, 45.0),
    "one-job": Scenario("the first pool sends one job and drops", ("--misbehave=one-job",), 0.0, None, 45.0),
    "quiet": Scenario(
        "the first pool has no new job, and sends the old one again every 30 s",
        ("--misbehave=quiet", "--block-time=30", "--share-difficulty=1000000000000", "--difficulty=1000000000000"),
        0.0,
        None,
        100.0,
    ),
}
DOWN_S = {"dies": 15.0}
"""Seconds until the first pool is back after its end."""


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(*arguments: str) -> subprocess.Popen[str]:
    """A ``quantus-miner`` process; its log is in its ``stderr``."""
    return subprocess.Popen(
        [sys.executable, "-m", "quantus_miner", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def pool(port: int, *flags: str) -> subprocess.Popen[str]:
    """A development pool."""
    process = command("dev-pool", "--listen", str(port), *flags)
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    with socket.socket() as probe:
        wait_until("a development pool to listen", lambda: not probe.connect_ex(("127.0.0.1", port)))
    return process


def play(name: str, scenario: Scenario, state: Path) -> None:
    """Run one scenario. ``state``: the state folder of the miner."""
    first, second = free_port(), free_port()
    names = {f"127.0.0.1:{first}": "FIRST", f"127.0.0.1:{second}": "SECOND"}
    pools = [pool(first, *scenario.first), pool(second, *EASY)]
    urls = [f"--pool=stratum+tcp://{address}" for address in names]
    print(f"\n{name}: {scenario.what}", flush=True)
    # At info, not every share has a line.
    flags = (
        "--port=0",
        "--workers=1",
        "--log=info,miner.live=debug",
        f"--state-dir={state}",
        f"--wallet={WALLET}",
        "--worker-name=rig",
    )
    miner = command("serve", *flags, *urls)
    assert miner.stderr is not None
    ready = threading.Event()
    counts: Counter[str] = Counter()
    shown = 0

    def tell(text: str) -> None:
        for address, pool_name in names.items():
            text = text.replace(f"pool stratum+tcp://{address}", pool_name)
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    def follow(log: IO[str]) -> None:
        nonlocal shown
        for line in log:
            if "Server starting" in line:
                ready.set()
            if found := re.search(r": (accepted|rejected|Connected to) .*?(127\.0\.0\.1:\d+)", line):
                share = f"share {found[1]} by" if found[1].endswith("ed") else "connected to"
                count = f"{share} {names[found[2]]}"
                counts[count] += 1
                if count.startswith("share") and counts[count] == 1:
                    tell(f"the first share is {count.removeprefix('share ')}")
            if SHOWN.search(line):
                shown += 1
                if shown <= MAX_LINES:
                    tell(line.split(": ", 1)[1].strip())

    began = time.monotonic()
    threading.Thread(target=follow, args=(miner.stderr,), daemon=True).start()
    wait_until("the service to be ready", ready.is_set)
    began = time.monotonic()
    if scenario.then is not None:
        time.sleep(scenario.after_s)
        pools[0].kill()
        pools[0].wait()
        if name in DOWN_S:
            tell("--- the first pool dies")
            time.sleep(DOWN_S[name])
        pools[0] = pool(first, *scenario.then)
        tell("--- the first pool is in order again")
    time.sleep(max(0.0, began + scenario.end_s - time.monotonic()))
    if shown > MAX_LINES:
        tell(f"… and {shown - MAX_LINES} more lines of this kind")
    tell(", ".join(f"{count} {number}" for count, number in sorted(counts.items())))
    for process in (miner, *pools):
        process.terminate()
        process.wait(10)


def main() -> None:
    """Runs the scenarios that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; none: all")
    parser.add_argument("--seconds", type=float, help="end each scenario sooner")
    options = parser.parse_args()
    chosen = options.scenarios or list(SCENARIOS)
    if unknown := set(chosen) - set(SCENARIOS):
        sys.exit(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    for name in chosen:
        scenario = SCENARIOS[name]
        with tempfile.TemporaryDirectory() as state:
            play(name, replace(scenario, end_s=options.seconds or scenario.end_s), Path(state))


if __name__ == "__main__":
    main()
