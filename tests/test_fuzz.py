"""A short hunt on each fuzz target, the same in every run; a long one: ``python -m tests.fuzz``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .fuzz import hunt

ROOT = Path(__file__).parent.parent
RUNS = 100
guided = pytest.param(
    True, marks=pytest.mark.skipif(not hunt.GUIDED, reason="atheris has no wheel for this machine or Python")
)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("by_coverage", [guided, False])
def test_no_input_is_found_that_a_parser_cannot_cope_with(tmp_path: Path, by_coverage: bool) -> None:
    how = [] if by_coverage else ["--random"]
    ended = run("-m", "tests.fuzz", "--runs", str(RUNS), "--folder", str(tmp_path), *how)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = re.findall(r"^([a-z-]+) +([0-9,]+) +([0-9,]+) +([0-9,]+)$", ended.stdout, re.MULTILINE)
    assert [(name, inputs) for name, inputs, _, _ in rows] == [(name, f"{RUNS:,}") for name in hunt.NAMES]
    assert all((edges != "0") == by_coverage for _, _, _, edges in rows)


HUNT = """
import sys
from pathlib import Path
from tests.fuzz import hunt

def target(data):
    {flaw}

hunt.TIMEOUT_S = 1
result = hunt.hunt("cpu-list", target, Path(sys.argv[1]), hunt.Limit(runs=1000), guided={guided})
sys.exit(result.finding)
"""


@pytest.mark.parametrize("by_coverage", [guided, False])
@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ("int(data)", "ValueError: invalid literal for int"),
        ("while b'-' not in data: pass", "TimeoutError|libFuzzer: timeout"),
        ("bytearray(1 << 33)", "MemoryError"),
    ],
)
def test_a_flaw_is_found_and_its_input_kept(tmp_path: Path, flaw: str, says: str, by_coverage: bool) -> None:
    ended = run("-c", HUNT.format(flaw=flaw, guided=by_coverage), str(tmp_path))
    assert ended.returncode == 1
    assert re.search(says, ended.stderr), ended.stderr
    (kept,) = [path for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".log"]
    assert "-crash-" in kept.name or "-timeout-" in kept.name
