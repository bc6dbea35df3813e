"""Build, audit and try what a release publishes, into dist/. Needs root for the bare systems."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import artefacts
import audit
import bundle
import environment
import source
import trial
import wheelhouse
from source import ROOT, ReleaseError, Source

OUTPUT: Final = ROOT / "dist"
ROOTS: Final = ROOT / "build" / "roots"
SYSTEMS: Final = (("bookworm", "amd64", "3.11"), ("trixie", "amd64", "3.13"), ("bookworm", "arm64", "3.11"))
"""Suite, architecture and Python of the Debians in which wheels are tried. Ubuntu's glibc is between theirs."""
PROCESSORS: Final = (("core2duo", "scalar"), ("Nehalem", "scalar"), ("Haswell", "avx2"))
"""Processors that are emulated, and the kernel that each should choose."""


def build(commit: Source, architectures: tuple[str, ...], folder: Path, output: Path) -> list[Path]:
    """Build the sdist and the wheels of a commit in ``folder`` into ``output``."""
    artefacts.export(commit, folder / "checkout")
    made = [artefacts.build_sdist(commit, folder / "checkout", output)]
    for architecture in architectures:
        began = time.monotonic()
        made.append(artefacts.build_wheel(commit, made[0], architecture, folder / architecture, output))
        say(f"built {made[-1].name} in {time.monotonic() - began:.0f} s")
    return made


def compare(made: list[Path], again: list[Path]) -> None:
    """Raise ReleaseError if two builds are not the same bytes."""
    for first, second in zip(made, again, strict=True):
        if first.read_bytes() != second.read_bytes():
            raise ReleaseError(f"two builds of {first.name} differ: compare {first} with {second}")
        say(f"two builds of {first.name} are the same: {digest(first)}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def try_wheels(wheels: dict[str, Path], work: Path) -> None:
    """Install and run the wheels on everything that a release is for. Raises ReleaseError."""
    houses = {}
    for suite, debian, python in SYSTEMS:
        architecture = {"amd64": "x86_64", "arm64": "aarch64"}[debian]
        houses[suite, debian] = house = work / f"{suite}-{debian}"
        wheelhouse.download(house, python, f"{architecture}-manylinux_2_28", [])
        shutil.copy(wheels[architecture], house)
    for suite, debian, python in SYSTEMS:
        root = ROOTS / f"{suite}-{debian}"
        if debian == "amd64":
            seconds = trial.in_fresh_system(root, houses[suite, debian], trial.INSTALL)
            say(f"{root.name}: first verified block {seconds:.1f} s after the start of the installation")
        else:
            packages = work / "packages"
            tags = (
                "--platform=manylinux_2_28_aarch64 --platform=manylinux_2_17_aarch64 --platform=manylinux2014_aarch64"
            )
            trial.install(houses[suite, debian], packages, python, tags)
            emulator = ["qemu-aarch64", "-L", str(root), f"{root}/usr/bin/python{python}"]
            seconds = trial.on_processor(emulator, packages, Path(sys.executable), "neon")
            say(f"{root.name}: aarch64 emulated, kernel neon, first verified block after {seconds:.1f} s")


def release(commit: Source) -> None:
    """Do everything. Raises ReleaseError."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(prefix="elsewhere-") as second:
        with ThreadPoolExecutor(len(SYSTEMS)) as pool:
            roots = [
                pool.submit(artefacts.run, trial.HERE / "make-root", suite, debian, ROOTS / f"{suite}-{debian}")
                for suite, debian, _ in SYSTEMS
            ]
            made = build(commit, artefacts.ARCHITECTURES, Path(first), OUTPUT)
            compare(made, build(commit, artefacts.ARCHITECTURES, Path(second), Path(second) / "dist"))
            for done in roots:
                done.result()
        sdist, *built = made
        wheels = dict(zip(artefacts.ARCHITECTURES, built, strict=True))
        artefacts.run("twine", "check", "--strict", sdist)
        for wheel in built:
            audit.check_wheel(wheel)
            say(f"audited {wheel.name}")
        python = environment.make(wheels[platform.machine()], Path(first) / "environment")
        environment.describe(python, commit, OUTPUT)
        try_wheels(wheels, Path(first))
        bundle.make(commit, wheels[bundle.ARCHITECTURE], [], Path(first) / "bundle", OUTPUT)
        for suite, debian, _ in SYSTEMS:
            if debian == "amd64":
                seconds = trial.in_fresh_system(ROOTS / f"{suite}-{debian}", OUTPUT, trial.INSTALL_BUNDLE)
                say(f"{suite}-{debian}: from the bundle, first verified block after {seconds:.1f} s")
        with zipfile.ZipFile(wheels["x86_64"]) as archive:
            found = trial.with_musl(Path(archive.extract(audit.CORE, first)))
        say(f"musl's loader: {len(found.splitlines())} kernels find what they find with glibc")
        packages = next(python.parent.parent.glob("lib/python3*/site-packages"))
        for processor, kernel in PROCESSORS:
            emulator = ["qemu-x86_64", "-cpu", processor, str(Path(sys.executable).resolve())]
            seconds = trial.on_processor(emulator, packages, Path(sys.executable), kernel)
            say(f"{processor} emulated: kernel {kernel}, first verified block after {seconds:.1f} s")


def main() -> int:
    """Return the exit code."""
    try:
        commit = source.read()
        say(
            f"quantus-miner {commit.version}, commit {commit.commit}"
            + ("" if commit.tagged else ", a rehearsal: no tag")
        )
        shutil.rmtree(OUTPUT, ignore_errors=True)
        began = time.monotonic()
        release(commit)
        files = sorted(OUTPUT.iterdir())
        sums = "".join(f"{digest(path)}  {path.name}\n" for path in files)
        (OUTPUT / "SHA256SUMS").write_text(sums, encoding="utf-8")
        for path in files:
            say(f"{path.stat().st_size:>9,} bytes  dist/{path.name}")
        say(f"released into dist/ in {time.monotonic() - began:.0f} s")
    except ReleaseError as error:
        print(f"quantus-miner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
