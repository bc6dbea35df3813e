"""Take the screens in docs/top.md anew, from a real run: ``python -m tests.captures``. It takes two minutes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .conftest import MinerProcess
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent.parent / "docs" / "top.md"
WALLET = "qzkaf7S8qqUuRKYxAiqZ1dAkZ2uQhr1Nx6DpFeFpLxVFgk5M"


@contextlib.contextmanager
def pool() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A development pool: its URL and its process."""
    command = [sys.executable, "-m", "quantus_miner", "dev-pool", "--listen=0", "--share-time=5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"stratum\+tcp://\S+", process.stdout.readline())
            assert found is not None
            yield found[0], process
        finally:
            process.kill()


def screens(folder: Path) -> Iterator[str]:
    """Yield the screens in the order of the page."""
    with pool() as (first, process), pool() as (second, _):
        settings = ("--port=0", "--workers=1", f"--wallet={WALLET}", f"--pool={first}", f"--pool={second}")
        with MinerProcess(*settings, MINER_STATE_DIR=str(folder)) as miner:
            url = f"http://127.0.0.1:{miner.port}"
            with Terminal(folder, "-m", "quantus_miner", "top", url, f"--state-dir={folder}") as terminal:
                yield terminal.until(r"60 s [0-9]", 120)
                process.kill()
                terminal.press("c")
                yield terminal.until(r"! mining for .* instead(?:.*\n)*.* down ", 120)


def main() -> None:
    """Write the screens into the page."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = name
        shown = screens(Path(name))
        text = PAGE.read_text(encoding="utf-8")
        text = re.sub(
            r"^```text\n.*?^```$", lambda _: f"```text\n{next(shown)}```", text, flags=re.MULTILINE | re.DOTALL
        )
        shown.close()  # type: ignore[attr-defined]  # a generator
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
