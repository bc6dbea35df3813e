"""Make one file to install the miner from on machines without internet, in dist/: bundle.py [EXTRAS]."""

from __future__ import annotations

import gzip
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import artefacts
import source
import wheelhouse
from source import ROOT, ReleaseError

if TYPE_CHECKING:
    from source import Source

ARCHITECTURE: Final = "x86_64"
FILES: Final = ("LICENSE", "systemd")
INCLUDED: Final = ("hub", "top")
"""Extras that every bundle has."""


def gather(wheels: Path, extras: list[str]) -> None:
    """Download what a bundle with ``extras`` consists of into ``wheels``, all but the miner itself.

    That is wheels for every Python of ``wheelhouse.PYTHONS``, and pip, because Debian's Python comes without.
    """
    for python in wheelhouse.PYTHONS:
        wheelhouse.download(wheels, python, ARCHITECTURE, [*INCLUDED, *extras])
    wheelhouse.download_pip(wheels)


def make(commit: Source, wheels: Path, extras: list[str], work: Path, output: Path) -> Path:
    """Make the bundle of ``wheels``, which were made for INCLUDED and ``extras``, and return its path."""
    name = "-".join(["quantus-miner", commit.version, "linux", ARCHITECTURE, *extras])
    folder = work / name
    shutil.copytree(wheels, folder / "wheels")
    for entry in FILES:
        artefacts.run("cp", "-r", ROOT / entry, folder)
    script = (ROOT / "packaging" / "bundle" / "install").read_text(encoding="utf-8")
    known = {"EXTRAS": ",".join(extras), "PYTHONS": ", ".join(wheelhouse.PYTHONS), "ARCHITECTURE": ARCHITECTURE}
    for word, value in known.items():
        script = script.replace(f"@{word}@", value)
    (folder / "install").write_text(script, encoding="utf-8")
    (folder / "install").chmod(0o755)
    made = output / f"{name}.tar.gz"
    pack(folder, made, commit.epoch)
    return made


def pack(folder: Path, output: Path, epoch: int) -> None:
    """Write ``folder`` as a .tar.gz whose bytes depend only on what is in the files."""

    def normalize(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = epoch, 0, 0, "root", "root"
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    output.parent.mkdir(exist_ok=True)
    with (
        output.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(folder, folder.name, filter=normalize)  # sorted by name


def main() -> int:
    """Return the exit code."""
    extras = sorted({*" ".join(sys.argv[1:]).replace(",", " ").split()} - {*INCLUDED})
    try:
        commit = source.read()
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            artefacts.export(commit, work / "checkout")
            sdist = artefacts.build_sdist(commit, work / "checkout", work)
            artefacts.build_wheel(commit, sdist, ARCHITECTURE, work / "build", work / "wheels")
            gather(work / "wheels", extras)
            made = make(commit, work / "wheels", extras, work, ROOT / "dist")
        print(f"{made.stat().st_size:,} bytes in {made.relative_to(ROOT)}")
    except ReleaseError as error:
        print(f"quantus-miner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
