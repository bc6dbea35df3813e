"""Build every package, and print its size and how soon it mines on a bare system, as a table: measure.py [EXTRAS]."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import artefacts
import bundle
import release
import source
import trial
from source import ROOT, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD: Final = ROOT / "build"
BLOCK: Final = "dev-node --quic --blocks 1"
DEBIAN: Final = f"dpkg --install /artefacts/*.deb; quantus-miner {BLOCK}"
RIG: Final = f"tar -xzf /artefacts/%s; ./*/quantus-miner {BLOCK}"
RIGS: Final = {
    "HiveOS archive": ("quantus-miner-[0-9]*.tar.gz", RIG),
    "mmpOS archive": ("quantus-miner-mmpos-*.tar.gz", RIG),
    "SimpleMining archive": ("teamredminer-quantus-*.tar.gz", RIG),
    "RaveOS archive": (
        "quantus-miner-*.zip",
        f"python3 -m zipfile -e /artefacts/%s .; chmod -R u+x .; ./quantus-miner {BLOCK}",
    ),
}


def python_packages(extras: list[str], work: Path) -> Iterator[tuple[str, Path, float, str, float]]:
    """Yield the rows of the wheel and the bundle."""
    commit = source.read()
    artefacts.export(commit, work / "checkout")
    sdist = artefacts.build_sdist(commit, work / "checkout", work)
    began = time.monotonic()
    wheel = artefacts.build_wheel(commit, sdist, bundle.ARCHITECTURE, work / "build", work / "wheels")
    built = time.monotonic() - began
    bundle.gather(work / "wheels", extras)
    for suite in release.DEBIANS:
        seconds = trial.script_in_fresh_system(release.ROOTS / f"{suite}-amd64", work / "wheels", trial.INSTALL)
        yield "wheel", wheel, built, suite, seconds
    began = time.monotonic()
    made = bundle.make(commit, work / "wheels", extras, work, work / "bundle")
    built += time.monotonic() - began
    for suite in release.DEBIANS:
        seconds = trial.script_in_fresh_system(release.ROOTS / f"{suite}-amd64", made.parent, trial.INSTALL_BUNDLE)
        yield "bundle", made, built, suite, seconds


def system_packages(variant: str, work: Path) -> Iterator[tuple[str, Path, float, str, float]]:
    """Yield the rows of the Debian package, the image and the archives for rig systems."""
    built = make("deb", BUILD / f"debian{variant}.stamp")
    (package,) = (BUILD / f"debian{variant}").glob("*.deb")
    seconds = trial.script_in_fresh_system(BUILD / "systemd-root", package.parent, DEBIAN)
    yield "Debian package", package, built, "bookworm with systemd", seconds
    built = make("packages", BUILD / f"packages{variant}.stamp")
    for name, (pattern, script) in RIGS.items():
        (archive,) = (BUILD / f"packages{variant}").glob(pattern)
        seconds = trial.script_in_fresh_system(BUILD / "rig-root", archive.parent, script % archive.name)
        yield name, archive, built, "bullseye", seconds
    built = make("image")
    image = BUILD / f"oci/quantus-miner{variant}.tar"
    began = time.monotonic()
    root, entry = unpack(image, work / "image")
    unpacked = time.monotonic() - began
    yield "image", image, built, "nothing", unpacked + trial.in_fresh_system(root, work, *entry, *BLOCK.split())


def make(target: str, *stamps: Path) -> float:
    """Make ``target`` again and return the seconds that it took. Raises ReleaseError."""
    for stamp in stamps:
        stamp.unlink(missing_ok=True)
    began = time.monotonic()
    artefacts.run("make", target, f"EXTRAS={','.join(sys.argv[1:])}")
    return time.monotonic() - began


def unpack(image: Path, folder: Path) -> tuple[Path, list[str]]:
    """Unpack an image into ``folder``. Returns its root and its entry point."""
    with tarfile.open(image) as archive:
        archive.extractall(folder, filter="data")
    (manifest,) = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    root = folder / "root"
    root.mkdir()
    for layer in manifest["Layers"]:
        artefacts.run("tar", "-xpf", folder / layer, "-C", root)
    return root, json.loads((folder / manifest["Config"]).read_text(encoding="utf-8"))["config"]["Entrypoint"]


def main() -> int:
    """Return the exit code."""
    extras = [extra for extra in ",".join(sys.argv[1:]).split(",") if extra]
    variant = "".join(f"-{name}" for name in sys.argv[1:])
    try:
        print(f"load average {os.getloadavg()[0]:.1f}\n")
        print("| artefact | MB | built in, s | installed on | to the first verified block, s |")
        print("| --- | --- | --- | --- | --- |")
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            for rows in (python_packages(extras, work), system_packages(variant, work)):
                for artefact, path, built, system, seconds in rows:
                    size = path.stat().st_size / 1e6
                    print(f"| {artefact} | {size:.1f} | {built:.0f} | {system} | {seconds:.1f} |", flush=True)
    except ReleaseError as error:
        print(f"quantus-miner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
