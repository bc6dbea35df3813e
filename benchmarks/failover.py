"""A failover as it happens: the first of two pools dies and comes back; prints what the miner's log says, and when.

    python -m benchmarks.failover

Real processes: two development pools and the service. Takes about a minute and a half, most of it the minute for which
the first pool has to be well before the miner returns to it.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from typing import IO

WALLET = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"
SHOWN = re.compile(r"(Connected to|Lost|Leaving|Mining for|first job|refuses)")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(*arguments: str) -> subprocess.Popen[str]:
    """A ``quantus-miner`` process; what it prints is in its ``stderr``."""
    return subprocess.Popen(
        [sys.executable, "-m", "quantus_miner", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def pool(port: int) -> subprocess.Popen[str]:
    """A development pool with shares of about a second."""
    process = command("dev-pool", "--listen", str(port))
    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process


def main() -> None:
    """Runs it."""
    first, second = free_port(), free_port()
    names = {f"stratum+tcp://127.0.0.1:{first}": "FIRST", f"stratum+tcp://127.0.0.1:{second}": "SECOND"}
    pools = [pool(first), pool(second)]
    began = time.monotonic()

    def tell(text: str) -> None:
        for url, name in names.items():
            text = text.replace(url, name)
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    urls = [f"--pool={url}" for url in names]
    miner = command("serve", "--port=0", "--workers=1", f"--wallet={WALLET}", "--worker-name=rig", *urls)
    accepted: dict[str, int] = dict.fromkeys(names.values(), 0)
    returned = threading.Event()

    def follow(log: IO[str]) -> None:
        for line in log:
            if found := re.search(r"Share accepted by pool (\S+)", line):
                name = names[found[1]]
                accepted[name] += 1
                if accepted[name] == 1:
                    tell(f"the first share is accepted by {name}")
            elif SHOWN.search(line):
                tell(line.split(": ", 1)[1].strip())
                if "Leaving" in line:
                    returned.set()

    assert miner.stderr is not None
    threading.Thread(target=follow, args=(miner.stderr,), daemon=True).start()
    time.sleep(8)
    tell("--- the first pool dies")
    pools[0].kill()
    pools[0].wait()
    time.sleep(15)
    tell("--- the first pool is back")
    pools[0] = pool(first)
    if not returned.wait(120):
        tell("the miner did not return to the first pool")
    tell(f"shares accepted: {accepted}")
    for process in (miner, *pools):
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
