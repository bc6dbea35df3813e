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


def make(commit: Source, wheel: Path, extras: list[str], work: Path, output: Path) -> Path:
    """Make the bundle with ``wheel`` and what it needs with ``extras``, and return its path.

    It has wheels for every Python of ``wheelhouse.PYTHONS``, and pip itself, because Debian's Python comes without.
    """
    name = "-".join(["quantus-miner", commit.version, "linux", ARCHITECTURE, *extras])
    folder = work / name
    for python in wheelhouse.PYTHONS:
        wheelhouse.download(folder / "wheels", python, ARCHITECTURE, extras)
    wheelhouse.download_pip(folder / "wheels")
    shutil.copy(wheel, folder / "wheels")
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
    extras = sorted(extra for extra in " ".join(sys.argv[1:]).replace(",", " ").split())
    try:
        commit = source.read()
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            artefacts.export(commit, work / "checkout")
            sdist = artefacts.build_sdist(commit, work / "checkout", work)
            wheel = artefacts.build_wheel(commit, sdist, ARCHITECTURE, work / "build", work)
            made = make(commit, wheel, extras, work, ROOT / "dist")
        print(f"{made.stat().st_size:,} bytes in {made.relative_to(ROOT)}")
    except ReleaseError as error:
        print(f"quantus-miner: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
