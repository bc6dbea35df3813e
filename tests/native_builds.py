"""Builds of the native core for tests, in ``build/``."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
AARCH64_COMPILER = "aarch64-linux-gnu-g++"
LIBRARY = "qm_core"
"""The target of the objects that the Python module is linked from."""


def _tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, f"{name} is not installed"
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr


def _make(folder: Path, target: str) -> Path:
    _run(_tool("cmake"), "--build", str(folder), "--target", target, "--parallel", "2")
    return folder / (f"lib{LIBRARY}.a" if target == LIBRARY else target)


def build(name: str, target: str, *options: str) -> Path:
    """What is built for ``target`` in ``build/NAME``, one process after the other."""
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = [f"-S{ROOT / 'native'}", f"-B{folder}", "-GNinja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"]
        _run(_tool("cmake"), *configure, "-DQM_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}", *options)
        return _make(folder, target)


def build_for_aarch64(target: str) -> Path:
    """The same, cross-built; needs AARCH64_COMPILER."""
    return build(
        "aarch64",
        target,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
        f"-DCMAKE_CXX_COMPILER={AARCH64_COMPILER}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )


def build_library() -> Path:
    """The objects of the Python module, from the folder in which ``make`` has built it, if there is one."""
    folder = ROOT / "build" / "native"
    return _make(folder, LIBRARY) if (folder / "CMakeCache.txt").exists() else build("release", LIBRARY)
