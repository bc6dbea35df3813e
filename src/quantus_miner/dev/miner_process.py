"""What development nodes and pools have in common as processes: their own miner, signals, a temporary folder."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantus_miner.errors import MinerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

START_TIMEOUT_S: Final = 60.0
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LEFT_OUT: Final = re.compile(r" miner\.(?:http|live): (?:Job|new job|Solution|solution|accepted|rejected|stale) ")
"""Matches lines about jobs and shares: the node or pool prints the same."""
NOT_INHERITED: Final = (
    *("MINER_API_TOKEN", "MINER_AUTH_TOKEN", "MINER_TLS_CERT_SHA256"),
    *("MINER_NODE_ADDR", "MINER_POOL", "MINER_WALLET", "MINER_HUB"),
)
"""Prefixes of environment variables that our own miner must not see: other sources of work, and secrets."""


def on_stop_signal(stop: Callable[[], object]) -> None:
    """Have the first SIGINT, SIGTERM or SIGHUP call ``stop``, and the process ignore all that follow.

    Stopping takes seconds at most, and a second Ctrl-C must not leave a miner behind. Called from the main thread.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        ignore_stop_signals()
        stop()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


def ignore_stop_signals() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP: the process is about to end."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def temporary_folder() -> Path:
    """Make a folder that is removed when the process ends. Raises MinerError."""
    try:
        folder = tempfile.mkdtemp()
    except OSError as error:
        raise MinerError(
            f"cannot make a temporary folder: {error.strerror}; set TMPDIR to a folder that can be written"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def start_miner(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """Start a miner on a free port and copy its log to our stderr. Return process and URL. Raises MinerError."""
    # Its jobs and finds are separate from those of the user's miner, and are not kept.
    own = (f"--state-dir={temporary_folder()}", "--port=0", "--bind=127.0.0.1", "--log=info", "--log-format=text")
    process = subprocess.Popen(  # noqa: S603 - our own command
        # Flags win over the environment.
        [sys.executable, "-m", "quantus_miner", *own, *flags],
        env={name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # a terminal's Ctrl-C reaches only us, and we stop the miner
    )
    timer = threading.Timer(START_TIMEOUT_S, process.kill)
    timer.start()
    try:
        return process, _await_ready(process)
    except BaseException:
        stop_miner(process)
        raise
    finally:
        timer.cancel()


def _await_ready(process: subprocess.Popen[str]) -> str:
    """Return the URL of a miner once it has started, and copy its log from then on."""
    stderr = process.stderr
    if stderr is None:
        raise MinerError("the miner has no stderr")
    for line in stderr:
        sys.stderr.write(f"miner | {line}")
        if "Server starting on " in line:
            threading.Thread(target=_copy_log, args=(stderr,), daemon=True).start()
            return "http://" + line.split("Server starting on ")[1].strip()
    raise MinerError(f"the miner ended with exit code {process.wait()} before it was ready")


def _copy_log(stderr: Any) -> None:  # noqa: ANN401 - a text stream
    for line in stderr:
        if not LEFT_OUT.search(line):
            sys.stderr.write(f"miner | {line}")


def stop_miner(process: subprocess.Popen[str]) -> None:
    """Stop the miner, by force if it does not end within 5 seconds."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
