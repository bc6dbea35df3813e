"""The pictures of the page in the documentation, from a real run.

    python -m benchmarks.pictures [--minutes 12] [--workers 2]

A miner with two development pools, of which the first is gone for a while, and two jobs over HTTP.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.browser import MISSING, browser, is_there, resize
from benchmarks.page import FILLED
from benchmarks.process import BenchmarkMiner, environment, wait_until
from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.web import server

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
SIZES = ((360, 780, False), (768, 1000, True), (1440, 900, False))
"""Width, height, dark."""


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with server.listen("127.0.0.1", 0, "--port") as sock:
        port: int = sock.getsockname()[1]
        return port


def start_pool(port: int) -> subprocess.Popen[bytes]:
    """A development pool with a share in 8 seconds on average."""
    flags = ("--share-time=8", "--share-difficulty=1000000", "--block-time=120", "--difficulty=100000000")
    return subprocess.Popen(
        [sys.executable, "-m", "quantus_miner", "dev-pool", f"--listen={port}", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def submit(miner: BenchmarkMiner, name: str, difficulty: int) -> None:
    """Post a job, which the workers search beside the work of the pools."""
    connection = miner.connect()
    job = {"job_id": name, "mining_hash": "5c" * 32, "difficulty": str(difficulty)}
    connection.request("POST", "/mine", json.dumps(job), {"content-type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()


def take(driver: Chrome, url: str) -> None:
    """Save the page in all sizes."""
    FOLDER.mkdir(exist_ok=True)
    for width, height, dark in SIZES:
        resize(driver, width, height, dark=dark)
        driver.get(url)
        wait_until("the page to be filled", partial(driver.execute_script, FILLED))
        path = FOLDER / f"page-{width}.webp"
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 80})
        path.write_bytes(base64.b64decode(picture["data"]))
        print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Runs it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not is_there():
        sys.exit(f"pictures: {MISSING}")
    minute = options.minutes * 60 / 12
    first, second = free_port(), free_port()
    pools = [start_pool(port) for port in (first, second)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            miner = BenchmarkMiner(
                Path(folder),
                *(f"--pool=stratum+tcp://127.0.0.1:{port}" for port in (first, second)),
                *(f"--wallet={DEV_WALLET}", f"--workers={options.workers}", "--priority=equal"),
            )
            try:
                time.sleep(3 * minute)
                submit(miner, "block-41", 10_000_000)
                time.sleep(2 * minute)
                pools[0].kill()
                time.sleep(2 * minute)
                pools[0].wait()
                pools[0] = start_pool(first)
                time.sleep(3 * minute)
                submit(miner, "block-42", 10_000_000)
                time.sleep(1.8 * minute)
                submit(miner, "block-43", 10**12)
                with browser() as driver:
                    take(driver, f"http://127.0.0.1:{miner.port}/")
            finally:
                miner.kill()
    finally:
        for pool in pools:
            pool.kill()
            pool.wait()


if __name__ == "__main__":
    main()
