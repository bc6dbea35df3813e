"""Try wheels where they will run: bare systems without a compiler or a network, other processors, musl."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import wheelhouse
from artefacts import run
from source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
FOUND: Final = 1
"""QM_FOUND of the native core."""

INSTALL: Final = """
python3 -m venv venv
venv/bin/pip install --quiet --no-index --find-links /artefacts --no-compile --only-binary :all: quantus-miner
venv/bin/quantus-miner dev-node --quic --blocks 1
"""

INSTALL_BUNDLE: Final = """
rm -r /usr/lib/python3*/ensurepip # as without Debian's python3-venv
tar xf /artefacts/quantus-miner-*.tar.gz
quantus-miner-*/install miner
miner/bin/quantus-miner dev-node --quic --blocks 1
miner/bin/python -c 'import nats, nkeys, textual'
miner/bin/nats-server --version
quantus-miner-*/install --service
test -e /etc/systemd/system/quantus-miner.service
quantus-miner devices
"""


def script_in_fresh_system(root: Path, artefacts: Path, script: str) -> float:
    """Run a shell script like a command of ``in_fresh_system``, in root's home, until the first command that fails."""
    return in_fresh_system(root, artefacts, "sh", "-euc", f"export HOME=/root; cd\n{script}")


def in_fresh_system(root: Path, artefacts: Path, *command: str) -> float:
    """Run ``command`` in a throw-away copy of ``root`` without network, with ``artefacts`` at /artefacts.

    Returns the seconds until the first verified block of dev-node. Raises ReleaseError.
    """
    nspawn = (
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe"),
        *("--volatile=overlay", "--private-network", f"--directory={root}", f"--bind-ro={artefacts}:/artefacts"),
    )
    # nspawn wants a /run of its own kind, which not every container or CI machine has.
    own_run = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")
    return first_block([*own_run, *nspawn, *command], root.name)


def first_block(command: list[str], name: str) -> float:
    """Return the seconds until ``command`` prints the first block of dev-node. Raises ReleaseError."""
    began, seconds, printed = time.monotonic(), None, []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            printed.append(line)
            if seconds is None and re.match(r"block +1 ", line):
                seconds = time.monotonic() - began
    if process.returncode or seconds is None:
        print("".join(printed), file=sys.stderr)
        raise ReleaseError(f"{name}: no block from dev-node, exit code {process.returncode}, see above")
    return seconds


@contextmanager
def emulated(emulator: list[str], packages: Path, kernel: str) -> Iterator[str]:
    """Run a miner with ``emulator``, which ends with an interpreter; yields its URL."""
    with tempfile.TemporaryDirectory() as state:
        settings = ("--port", "0", "--metrics-port", "0", "--workers", "1", "--kernel", kernel, "--state-dir", state)
        with subprocess.Popen(
            [*emulator, "-m", "quantus_miner", *settings],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield _started(process)
            finally:
                process.terminate()


def _started(process: subprocess.Popen[str]) -> str:
    printed = []
    for line in process.stdout or ():
        printed.append(line)
        if found := re.search(r"Server starting on (\S+)", line):
            return f"http://{found[1]}"
    print("".join(printed), file=sys.stderr)
    raise ReleaseError("the miner did not start, see above")


def on_processor(emulator: list[str], packages: Path, python: Path, kernel: str) -> float:
    """Have an emulated miner find a block with ``kernel``, which a dev-node that is not emulated checks.

    Returns the seconds until the block. Raises ReleaseError.
    """
    began = time.monotonic()
    with emulated(emulator, packages, kernel) as url:
        node = [python, "-m", "quantus_miner", "dev-node", "--miner", url, "--difficulty", "2000", "--blocks", "1"]
        first_block([str(word) for word in node], " ".join(emulator))
    return time.monotonic() - began


def install(wheels: Path, folder: Path, python: str, architecture: str, libc: str = "manylinux") -> None:
    """Install from ``wheels`` into ``folder`` for another system than this one. ``libc``: manylinux or musllinux."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", wheels, "--no-compile")
    target = ("--only-binary=:all:", "--python-version", python, "--target", folder)
    run(*pip, *target, *wheelhouse.platforms(architecture, libc), "quantus-miner")


def kernels_on(processors: dict[str, str], core: Path, work: Path) -> None:
    """Search with every kernel of ``core`` here and on emulated processors, which have to find the same.

    ``processors``: the fastest kernel of each. Raises ReleaseError.
    """
    program = work / "load"
    run("gcc", f"-I{HERE.parent.parent / 'native/include'}", HERE / "load.c", "-o", program)
    here = run(program, core).splitlines()
    for processor, fastest in processors.items():
        found = run("qemu-x86_64", "-cpu", processor, program, core).splitlines()
        _, kernel, outcome, _ = found[-1].split()
        if not set(found) <= set(here) or (kernel, int(outcome)) != (fastest, FOUND):
            raise ReleaseError(f"with the processor {processor}, kernels find {found}; here, they find {here}")


def with_musl(core: Path) -> str:
    """Load the core with musl's own loader and search with every kernel; glibc has to give the same.

    Returns what was found. Raises ReleaseError.
    """
    if not shutil.which("musl-gcc"):
        raise ReleaseError("'musl-gcc' is missing; on Debian: apt install musl-tools")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "load"
        for compiler in ("musl-gcc", "gcc"):
            run(compiler, f"-I{HERE.parent.parent / 'native/include'}", HERE / "load.c", "-o", program)
            found.append(run(program, core))
    if found[0] != found[1] or f" {FOUND} " not in found[0]:
        raise ReleaseError(f"With musl the kernels find {found[0]!r}, with glibc {found[1]!r}")
    return found[0]
