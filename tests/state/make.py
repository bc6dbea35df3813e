"""Record the state folder that this version leaves when it is killed at work: python -m tests.state.make [FOLDER].

Part of every release: ``tests/test_upgrade.py`` opens what all earlier versions left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from quantus_miner import __version__
from quantus_miner.model import MAX
from tests.conftest import MinerProcess

HEADER: Final = bytes(range(32)).hex()


def arguments(state: Path) -> tuple[str, ...]:
    """An engine that keeps a count in the state folder, too."""
    return ("--port=0", "--metrics-port=0", "--workers=1", "--engine=cpu-chain-manipulator", f"--state-dir={state}")


def main() -> None:
    output = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parent) / f"{__version__}.tar.xz"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        with MinerProcess(*arguments(folder / "state"), "--progress-chunk-ms=50") as miner:
            for job_id, difficulty in (("solved", 1000), ("cancelled", MAX), ("long", MAX)):
                job = {"job_id": job_id, "mining_hash": HEADER, "difficulty": str(difficulty)}
                assert miner.call("POST", "/mine", job)[0] == 200
            results = {"solved": miner.result("solved")}
            miner.call("POST", "/cancel/cancelled")
            results["cancelled"] = miner.result("cancelled")
            # Progress is written once a second.
            while miner.call("GET", "/result/long")[1]["elapsed_time"] < 2.5:
                pass
            miner.stop(signal.SIGKILL)
        (folder / "results.json").write_text(json.dumps(results))
        with tarfile.open(output, "w:xz") as archive:
            for entry in ("state", "results.json"):
                archive.add(folder / entry, entry)
    print(output)


if __name__ == "__main__":
    main()
