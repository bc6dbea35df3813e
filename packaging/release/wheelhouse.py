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
SOURCES: Final = ("nkeys",)
"""Dependencies in pure Python that are published without wheels."""
EPOCH: Final = 315_532_800
"""The time in wheels that are built here: the first that an archive can have, in seconds since 1970."""


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
    blocks = re.split(r"^(?=\S)", pins(python, f"{architecture}-{target}", extras), flags=re.MULTILINE)
    built = [block for block in blocks if block.startswith(tuple(f"{name}==" for name in SOURCES))]
    wheels = "".join(block for block in blocks if block not in built)
    _fetch(
        wheels, output, "download", "--only-binary=:all:", "--python-version", python, *platforms(architecture, libc)
    )
    if built and not any(output.glob(f"{SOURCES[0]}-*.whl")):
        _fetch("".join(built), output, "wheel")


def download_pip(output: Path) -> None:
    """Download the pip that is locked for releases, which runs as ``python pip-VERSION.whl/pip``."""
    lock = (ROOT / "requirements" / "release.txt").read_text(encoding="utf-8")
    (block,) = re.findall(r"^pip==\S+ \\\n(?: +--hash=.*\n?)+", lock, re.MULTILINE)
    _fetch(block, output, "download", "--only-binary=:all:")


def _fetch(requirements: str, output: Path, command: str, *options: str) -> None:
    """Put what is required into ``output`` with pip's ``download`` or ``wheel``."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        pip = (sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--require-hashes", *options)
        to = "--dest" if command == "download" else "--wheel-dir"
        run(*pip, to, output, "--requirement", file.name, epoch=EPOCH)
