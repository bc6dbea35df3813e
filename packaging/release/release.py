"""Build, audit and try what a release publishes, into dist/. Needs root for the bare systems."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
import time
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
"""Processors that are emulated, and the fastest kernel that each can run."""


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
    """Install the wheels on each of SYSTEMS and find a block there. Raises ReleaseError."""
    for suite, debian, python in SYSTEMS:
        name = f"{suite}-{debian}"
        architecture = {"amd64": "x86_64", "arm64": "aarch64"}[debian]
        wheelhouse.download(work / name, python, architecture, [])
        shutil.copy(wheels[architecture], work / name)
        if architecture == platform.machine():
            seconds = trial.in_fresh_system(ROOTS / name, work / name, trial.INSTALL)
            say(f"{name}: from the wheel to the first verified block in {seconds:.1f} s")
        else:
            trial.install(work / name, work / "packages", python, architecture)
            emulator = [f"qemu-{architecture}", "-L", str(ROOTS / name), f"{ROOTS / name}/usr/bin/python{python}"]
            seconds = trial.on_processor(emulator, work / "packages", Path(sys.executable), "neon")
            say(f"{name}, emulated: start to first verified block in {seconds:.1f} s, kernel neon")


def try_bundle(output: Path) -> None:
    """Install the bundle on each of SYSTEMS that it is for, and find a block there. Raises ReleaseError."""
    for suite, debian, _ in SYSTEMS:
        if debian == "amd64":
            seconds = trial.in_fresh_system(ROOTS / f"{suite}-{debian}", output, trial.INSTALL_BUNDLE)
            say(f"{suite}-{debian}: from the bundle to the first verified block in {seconds:.1f} s")


def try_musl(wheel: Path, work: Path) -> None:
    """Install ``wheel`` for Alpine and run its native core with musl. Raises ReleaseError."""
    wheelhouse.download(work / "alpine", "3.12", "x86_64", [], "musllinux")
    shutil.copy(wheel, work / "alpine")
    trial.install(work / "alpine", work / "on-alpine", "3.12", "x86_64", "musllinux")
    found = trial.with_musl(work / "on-alpine" / audit.CORE)
    say(f"with musl: {len(found.splitlines())} kernels find what they find with glibc")


def try_processors(installed: Path) -> None:
    """Find a block with the miner in ``installed`` on each of PROCESSORS. Raises ReleaseError."""
    for processor, kernel in PROCESSORS:
        emulator = ["qemu-x86_64", "-cpu", processor, str(Path(sys.executable).resolve())]
        seconds = trial.on_processor(emulator, installed, Path(sys.executable), kernel)
        say(f"{processor}, emulated: start to first verified block in {seconds:.1f} s, kernel {kernel}")


def release(commit: Source, work: Path) -> None:
    """Do everything. Raises ReleaseError."""
    with ThreadPoolExecutor(len(SYSTEMS)) as pool:
        roots = [
            pool.submit(artefacts.run, trial.HERE / "make-root", suite, debian, ROOTS / f"{suite}-{debian}")
            for suite, debian, _ in SYSTEMS
        ]
        made = build(commit, artefacts.ARCHITECTURES, work / "first", OUTPUT)
        compare(made, build(commit, artefacts.ARCHITECTURES, work / "second build", work / "second build" / "dist"))
        for done in roots:
            done.result()
    sdist, *built = made
    wheels = dict(zip(artefacts.ARCHITECTURES, built, strict=True))
    artefacts.run("twine", "check", "--strict", sdist)
    for wheel in built:
        audit.check_wheel(wheel)
        say(f"audited {wheel.name}")
    python = environment.make(wheels["x86_64"], work / "environment")
    environment.describe(python, commit, OUTPUT)
    bundle.make(commit, wheels[bundle.ARCHITECTURE], [], work / "bundle", OUTPUT)
    try_wheels(wheels, work)
    try_bundle(OUTPUT)
    try_musl(wheels["x86_64"], work)
    try_processors(next(python.parent.parent.glob("lib/python3*/site-packages")))


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
        with tempfile.TemporaryDirectory() as work:
            release(commit, Path(work))
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
