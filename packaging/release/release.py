"""Build, audit and try what a release publishes, into dist/. Needs root for the bare systems."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import artefacts
import audit
import bundle
import environment
import source
import trial
import wheelhouse
from source import ROOT, ReleaseError, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTPUT: Final = ROOT / "dist"
ROOTS: Final = ROOT / "build" / "roots"
DEBIANS: Final = ("bookworm", "trixie")
"""Where the wheel and the bundle are tried. Ubuntu's glibc is between theirs."""
ARM_SUITE: Final = "bookworm"
ARM_PYTHON: Final = "3.11"
MUSL_PYTHON: Final = "3.12"
OLDEST_PROCESSOR: Final = "core2duo"
PROCESSORS: Final = {OLDEST_PROCESSOR: "scalar", "Nehalem": "scalar", "Haswell": "avx2"}
"""Processors that are emulated, and the fastest kernel that each can run."""
BEGAN: Final = time.monotonic()


def say(line: str) -> None:
    """Print a line at once, after the seconds since the start."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {line}", flush=True)


def make_roots() -> None:
    """Make the bare systems that are not there yet. Raises ReleaseError."""
    debians = [(suite, "amd64") for suite in DEBIANS] + [(ARM_SUITE, "arm64")]
    commands = [(trial.HERE / "make-root", suite, debian, ROOTS / f"{suite}-{debian}") for suite, debian in debians]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(artefacts.run, *command) for command in commands]:
            done.result()
    say("bare systems are ready")


def download(work: Path) -> None:
    """Download the dependencies for all systems. Raises ReleaseError."""
    bundle.gather(work / "wheels", [])
    wheelhouse.download(work / "aarch64", ARM_PYTHON, "aarch64", [])
    wheelhouse.download(work / "musl", MUSL_PYTHON, "x86_64", [], "musllinux")
    say("dependencies are downloaded")


def build(commit: Source, folder: Path, output: Path) -> list[Path]:
    """Build the sdist and the wheels of a commit in ``folder`` into ``output``."""
    artefacts.export(commit, folder / "checkout")
    made = [artefacts.build_sdist(commit, folder / "checkout", output)]
    for architecture in artefacts.ARCHITECTURES:
        made.append(artefacts.build_wheel(commit, made[0], architecture, folder / architecture, output))
        say(f"built {made[-1].name}")
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


def try_wheel(system: str, wheels: Path) -> str:
    """Install from ``wheels`` on a bare system and find a block there. Raises ReleaseError."""
    seconds = trial.script_in_fresh_system(ROOTS / system, wheels, trial.INSTALL)
    return f"{system}: from the wheel to the first verified block in {seconds:.1f} s"


def try_bundle(system: str) -> str:
    """Install the bundle on a bare system and find a block there. Raises ReleaseError."""
    seconds = trial.script_in_fresh_system(ROOTS / system, OUTPUT, trial.INSTALL_BUNDLE)
    return f"{system}: from the bundle to the first verified block in {seconds:.1f} s"


def try_aarch64(wheels: Path, folder: Path) -> str:
    """Find a block with an emulated miner for aarch64. Raises ReleaseError."""
    trial.install(wheels, folder, ARM_PYTHON, "aarch64")
    root = ROOTS / f"{ARM_SUITE}-arm64"
    emulator = ["qemu-aarch64", "-L", str(root), f"{root}/usr/bin/python{ARM_PYTHON}"]
    seconds = trial.on_processor(emulator, folder, Path(sys.executable), "neon")
    return f"{root.name}, emulated: start to first verified block in {seconds:.1f} s, kernel neon"


def try_oldest_processor(installed: Path) -> str:
    """Find a block with the miner in ``installed`` on the oldest of PROCESSORS. Raises ReleaseError."""
    emulator = ["qemu-x86_64", "-cpu", OLDEST_PROCESSOR, str(Path(sys.executable).resolve())]
    seconds = trial.on_processor(emulator, installed, Path(sys.executable), PROCESSORS[OLDEST_PROCESSOR])
    return f"{OLDEST_PROCESSOR}, emulated: start to first verified block in {seconds:.1f} s"


def try_musl(wheels: Path, folder: Path) -> str:
    """Install for Alpine, and run the native core with musl. Raises ReleaseError."""
    trial.install(wheels, folder, MUSL_PYTHON, "x86_64", "musllinux")
    found = trial.with_musl(folder / audit.CORE)
    return f"with musl: {len(found.splitlines())} kernels find what they find with glibc"


def try_kernels(core: Path, work: Path) -> str:
    """Search with all kernels on each of PROCESSORS. Raises ReleaseError."""
    trial.kernels_on(PROCESSORS, core, work)
    return f"{', '.join(PROCESSORS)}, emulated: every kernel finds what it finds here"


def trials(installed: Path, work: Path) -> Iterator[Callable[[], str]]:
    """Return all trials, the longest first. Each returns a line that says what it has shown."""
    yield partial(try_aarch64, work / "aarch64", work / "on-aarch64")
    yield partial(try_oldest_processor, installed)
    for suite in DEBIANS:
        yield partial(try_wheel, f"{suite}-amd64", work / "wheels")
        yield partial(try_bundle, f"{suite}-amd64")
    yield partial(try_musl, work / "musl", work / "on-musl")
    yield partial(try_kernels, installed / audit.CORE, work)


def release(commit: Source, work: Path) -> None:
    """Do everything. Raises ReleaseError."""
    with ThreadPoolExecutor() as pool:  # what mostly waits for the network, beside the compilers
        prepared = [pool.submit(make_roots), pool.submit(download, work)]
        made = build(commit, work / "first", OUTPUT)
        compare(made, build(commit, work / "second build", work / "second build" / "dist"))
        for done in prepared:
            done.result()
    sdist, x86_64, aarch64 = made
    artefacts.run("twine", "check", "--strict", sdist)
    for wheel, folders in ((x86_64, ("wheels", "musl")), (aarch64, ("aarch64",))):
        audit.check_wheel(wheel)
        say(f"audited {wheel.name}")
        for folder in folders:
            shutil.copy(wheel, work / folder)
    python = environment.make(work / "wheels", work / "environment")
    environment.describe(python, commit, OUTPUT)
    bundle.make(commit, work / "wheels", [], work / "bundle", OUTPUT)
    say("made the bill of materials, the list of licences and the bundle")
    (installed,) = python.parent.parent.glob("lib/python3*/site-packages")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for ended in as_completed([pool.submit(attempt) for attempt in trials(installed, work)]):
            say(ended.result())


def main() -> int:
    """Return the exit code."""
    try:
        commit = source.read()
        say(
            f"quantus-miner {commit.version}, commit {commit.commit}"
            + ("" if commit.tagged else ", a rehearsal: no tag")
        )
        shutil.rmtree(OUTPUT, ignore_errors=True)
        with tempfile.TemporaryDirectory() as work:
            release(commit, Path(work))
        files = sorted(OUTPUT.iterdir())
        sums = "".join(f"{digest(path)}  {path.name}\n" for path in files)
        (OUTPUT / "SHA256SUMS").write_text(sums, encoding="utf-8")
        for path in files:
            say(f"{path.stat().st_size:>10,} bytes  dist/{path.name}")
    except ReleaseError as error:
        print(f"quantus-miner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
