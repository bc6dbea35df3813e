"""Download the wheels of the locked dependencies for a Python and a platform that need not be this one's."""

from __future__ import annotations

import re
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from artefacts import run
from source import ROOT, ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")


def pins(python: str, platform: str, extras: list[str]) -> str:
    """Return what an installation with ``extras`` consists of, as requirements with the hashes of the lock.

    Raises ReleaseError if the lock does not have one of them.
    """
    lock = ROOT / "requirements" / ("gpu.txt" if extras else "run.txt")
    resolve = ("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraints", lock)
    target = ("--python-version", python, "--python-platform", platform)
    wanted = run(*resolve, *target, *(f"--extra={extra}" for extra in extras), ROOT / "pyproject.toml").split()
    # A block of the lock: NAME==VERSION, a marker, the hashes. uv has evaluated the markers for the target.
    blocks = re.findall(
        r"^(\S+==\S+)(?: ; .*)? \\\n((?: +--hash=.*\n?)+)", lock.read_text(encoding="utf-8"), re.MULTILINE
    )
    hashes = dict(blocks)
    if unlocked := [pin for pin in wanted if pin not in hashes]:
        raise ReleaseError(f"{lock.name} does not have {', '.join(unlocked)}; name the extra in `make lock` and run it")
    return "".join(f"{pin} \\\n{hashes[pin]}" for pin in wanted)


def platforms(architecture: str, libc: str) -> list[str]:
    """Return pip's options for a platform. ``libc``: manylinux or musllinux."""
    tags = {"manylinux": ("manylinux_2_28", "manylinux_2_17", "manylinux2014"), "musllinux": ("musllinux_1_2",)}[libc]
    return [f"--platform={tag}_{architecture}" for tag in tags]


def download(output: Path, python: str, architecture: str, extras: list[str], libc: str = "manylinux") -> None:
    """Download wheels into ``output``. ``libc``: manylinux or musllinux."""
    target = {"manylinux": "manylinux_2_28", "musllinux": "unknown-linux-musl"}[libc]
    wanted = pins(python, f"{architecture}-{target}", extras)
    _fetch(wanted, output, ("--python-version", python, *platforms(architecture, libc)))


def download_pip(output: Path) -> None:
    """Download the pip that is locked for releases, which runs as ``python pip-VERSION.whl/pip``."""
    lock = (ROOT / "requirements" / "release.txt").read_text(encoding="utf-8")
    (block,) = re.findall(r"^pip==\S+ \\\n(?: +--hash=.*\n?)+", lock, re.MULTILINE)
    _fetch(block, output, ())


def _fetch(requirements: str, output: Path, target: tuple[str, ...]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        run(*fetch, "--only-binary=:all:", *target, "--dest", output, "--requirement", file.name)
