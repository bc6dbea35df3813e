"""The Debian package, as Debian's own checker sees it. tests/systemd installs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def test_lintian_finds_nothing() -> None:
    if not shutil.which("lintian"):
        pytest.skip("lintian is missing; on Debian and Ubuntu: apt install lintian")
    (package,) = (Path(__file__).parent.parent.parent / "build/debian").glob("*.deb")
    command = ["lintian", "--allow-root", "--fail-on=error,warning", str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
