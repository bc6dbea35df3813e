"""The archives for rig systems, unpacked in an old Debian: the tests of the scripts with the program of the archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from ..rig_stand_ins import Pool, Rig
from ..test_rig_systems import (
    FOLDERS,
    Install,
    test_hive_configures_runs_reads_and_stops,
    test_hive_stops_by_signals,
    test_mmp_runs_reads_and_stops,
    test_rave_configures_runs_reads_and_stops,
    test_simplemining_reads_cgminer_s_answers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).parent.parent.parent
ARCHIVES: Final = {
    "hiveos": "quantus-miner-[0-9]*.tar.gz",
    "mmpos": "quantus-miner-mmpos-*.tar.gz",
    "raveos": "quantus-miner-*.zip",
    "smos": "teamredminer-quantus-*.tar.gz",
}
__all__ = [
    "test_hive_configures_runs_reads_and_stops",
    "test_hive_stops_by_signals",
    "test_mmp_runs_reads_and_stops",
    "test_rave_configures_runs_reads_and_stops",
    "test_simplemining_reads_cgminer_s_answers",
]


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        yield pool


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Unpacks an archive as its system does, in a copy of the old Debian that is forgotten at the end."""
    lower = CHECKOUT / "build/rig-root"
    if os.geteuid() != 0 or not lower.exists():
        pytest.fail("run these as root with `make test-packages`, which makes what they need")
    upper, work, root = (tmp_path / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, root], check=True)  # noqa: S607
    # A /proc of its own for each command, in a mount namespace that ends with it.
    script = f'mount -t proc proc {root}/proc && exec chroot {root} "$@"'

    def unpack(system: str) -> Rig:
        (archive,) = (CHECKOUT / "build/packages").glob(ARCHIVES[system])
        rig = Rig(root, FOLDERS[system], ("unshare", "--mount", "sh", "-c", script, "sh"))
        folder = rig.file(rig.folder)
        folder.mkdir(parents=True)
        if archive.suffix == ".zip":
            # As a program does that does not know of modes.
            shutil.unpack_archive(archive, folder)
        else:
            subprocess.run(["tar", "-xzf", archive, "-C", folder, "--strip-components=1"], check=True)  # noqa: S607
        for file in folder.glob("*.conf"):
            file.write_text(file.read_text().replace("9833", str(rig.port)))  # another miner may run here
        modules = rig.file("/ravinos/lib")
        modules.mkdir(parents=True)
        shutil.copy(CHECKOUT / "tests/rig_stand_ins/ravinos.py", modules)
        rig.modules = "/ravinos/lib"
        return rig

    try:
        yield unpack
    finally:
        subprocess.run(["umount", root], check=True)  # noqa: S607


def test_pidof_finds_it(install: Install) -> None:
    rig = install("hiveos")
    with rig.start(f"{rig.folder}/quantus-miner", f"--port={rig.port}") as running:
        running.wait_for("Server starting on ")
        assert str(running.process.pid) in rig.run("pidof", "quantus-miner").split()


def test_top_has_what_it_needs(install: Install) -> None:
    rig = install("hiveos")
    program = f"{rig.folder}/usr/bin/run"
    assert rig.run(program, "-Ic", "import nats, nkeys, textual; print(textual.__name__)") == "textual\n"
