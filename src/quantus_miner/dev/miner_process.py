"""A miner that a development node or pool starts for itself."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any, Final

from quantus_miner.errors import MinerError

NOT_INHERITED: Final = (
    *("MINER_API_TOKEN", "MINER_AUTH_TOKEN", "MINER_TLS_CERT_SHA256"),
    *("MINER_NODE_ADDR", "MINER_POOL", "MINER_WALLET"),
)
"""Beginnings of the environment variables that a miner of our own is not to see: where else to mine, and secrets."""


def start_miner(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """A miner on a free port, its log lines on our stderr; the process and its URL. Raises MinerError."""
    # Its jobs and finds are not those of the user's miner, and not to be gone on with.
    state = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, state, ignore_errors=True)
    own = (f"--state-dir={state}", "--port=0", "--bind=127.0.0.1", "--log=info", "--log-format=text")
    process = subprocess.Popen(  # noqa: S603 - our own command
        # Flags win over whatever the environment says of what is relied on here.
        [sys.executable, "-m", "quantus_miner", *own, *flags],
        env={name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)},
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    stderr = process.stderr
    if stderr is None:
        raise MinerError("the miner has no stderr")
    for line in stderr:
        sys.stderr.write(f"miner | {line}")
        if "Server starting on " in line:
            threading.Thread(target=_copy_log, args=(stderr,), daemon=True).start()
            return process, "http://" + line.split("Server starting on ")[1].strip()
    raise MinerError(f"the miner ended with exit code {process.wait()} before it was ready")


def _copy_log(stderr: Any) -> None:  # noqa: ANN401 - a text stream
    # Jobs come and go as fast as blocks do; what the node prints says the same.
    for line in stderr:
        if not any(word in line for word in (" Job ", " for job ", " Share ")):
            sys.stderr.write(f"miner | {line}")


def stop_miner(process: subprocess.Popen[str]) -> None:
    """Ends the miner, if need be by force."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
