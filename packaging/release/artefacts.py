"""Build what is published: the sdist, and from it one wheel for each architecture.

The native core needs no shared library and knows no Python, so a wheel serves glibc and musl and every Python from 3.11
on, free-threaded ones included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

import sbom
from source import ROOT, ReleaseError, Source

ARCHITECTURES: Final = ("x86_64", "aarch64")


def export(source: Source, folder: Path) -> None:
    """Put the files of the commit into ``folder``."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    run("git", "-C", ROOT, "archive", "--output", archive, source.commit)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def build_sdist(source: Source, checkout: Path, output: Path) -> Path:
    """Build the sdist of an exported commit into ``output`` and return its path."""
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", output, checkout, epoch=source.epoch)
    return output / f"quantus_miner-{source.version}.tar.gz"


def build_wheel(source: Source, sdist: Path, architecture: str, folder: Path, output: Path) -> Path:
    """Build the wheel for ``architecture`` in ``folder`` into ``output`` and return its path."""
    compiler = f"{architecture}-linux-gnu-g++"
    if not shutil.which(compiler):
        raise ReleaseError(f"'{compiler}' is missing; on Debian: apt install g++ g++-aarch64-linux-gnu")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    described = folder / f"{architecture}.cdx.json"
    described.write_text(sbom.of_wheel(source, compiler), encoding="utf-8")
    tags = f"py3-none-manylinux_2_17_{architecture}.musllinux_1_2_{architecture}"
    options = {
        "wheel.tags": tags,
        f"wheel.force-include.{described}": "${SKBUILD_METADATA_DIR}/sboms/quantus-miner.cdx.json",
        "cmake.define.CMAKE_SYSTEM_NAME": "Linux",
        "cmake.define.CMAKE_SYSTEM_PROCESSOR": architecture,
        "cmake.define.CMAKE_C_COMPILER": compiler.replace("g++", "gcc"),
        "cmake.define.CMAKE_CXX_COMPILER": compiler,
    }
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    settings = [f"--config-setting={name}={value}" for name, value in options.items()]
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel")
    run(*build, *settings, "--outdir", output, unpacked, epoch=source.epoch)
    return output / f"quantus_miner-{source.version}-{tags}.whl"


def run(*command: str | os.PathLike[str], epoch: int | None = None) -> str:
    """Run a command and return what it prints. ``epoch``: the time in files that it makes. Raises ReleaseError."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # cmake and ninja, audit tools
    environ = os.environ | {"PATH": path} | ({} if epoch is None else {"SOURCE_DATE_EPOCH": str(epoch)})
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise ReleaseError(
            f"{' '.join(str(word) for word in command[:4])} failed with code {done.returncode}, see above"
        )
    return done.stdout
