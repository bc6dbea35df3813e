"""``make check``: one line that names what a machine lacks, and the README's line that installs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECK = ROOT / "requirements" / "check"


def check(tools: Path, python: str = "python3", **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs it with nothing but ``tools`` on PATH."""
    return subprocess.run(
        ["/bin/sh", str(CHECK), python], capture_output=True, text=True, check=False, env={"PATH": str(tools)} | environ
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with a Python and compilers that work; the real ones are left out of it."""
    for name, script in {
        "python3": "exit 0",
        "cc": "read line; exit 0",
        "c++": "read line; exit 0",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_nothing_is_said_of_a_machine_that_has_all(tools: Path) -> None:
    done = check(tools)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "script", "expected"),
    [
        ("python3", None, "'python3', Python 3.11 or later"),
        ("python3", 'case "$2" in *venv*) exit 1 ;; esac', "Python's venv"),
        ("cc", None, "the compiler 'cc'"),
        ("c++", None, "the compiler 'c++'"),
        ("cc", "exit 1", "the headers of the compiler 'cc'"),
        ("c++", "exit 1", "the headers of the compiler 'c++'"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tools: Path, name: str, script: str | None, expected: str) -> None:
    (tools / name).unlink()
    if script is not None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    done = check(tools)
    assert done.returncode == 1
    assert re.fullmatch(rf"quantus-miner: this machine has no: {re.escape(expected)}\. To install: \S.*\n", done.stderr)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    done = check(tmp_path, CC="clang")
    assert "'python3', Python 3.11 or later, the compiler 'clang', the compiler 'c++'. To install: " in done.stderr


def test_an_old_python_is_named_and_what_to_write(tools: Path) -> None:
    (tools / "python3").write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1 ;; esac\n')
    done = check(tools)
    assert done.returncode == 1
    assert done.stderr == "quantus-miner: 'python3' is older than 3.11; name a newer one: make PYTHON=python3.12\n"


def test_it_says_what_the_readme_says() -> None:
    said = re.findall(r'install="(sudo [^"]+)"', CHECK.read_text())
    written = re.findall(r"^(sudo (?:apt|dnf|apk) .*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert said == written
    assert len(said) == 3


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make; on Debian and Ubuntu: apt install make")
def test_make_stops_there() -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "check", "PYTHON=no-such-python"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "quantus-miner: this machine has no: 'no-such-python', Python 3.11 or later. To install: " in done.stderr
