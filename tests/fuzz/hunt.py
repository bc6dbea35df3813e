"""Hunts for inputs that a target cannot cope with: by coverage with atheris, or at random if that is not installed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

SEEDS: Final = Path(__file__).parent / "corpus"
NAMES: Final = sorted(path.name for path in SEEDS.iterdir())
MAX_BYTES: Final = 65_536
"""Of an input."""
TIMEOUT_S: Final = 5
"""Seconds for one input; more is a finding."""
MEMORY: Final = 1 << 31
"""Bytes of a process's address space; to want more is a finding."""
SEED: Final = 1
"""Of a hunt that ends after so many inputs, which is the same each time."""
GUIDED: Final = importlib.util.find_spec("atheris") is not None
"""Whether a hunt can be guided by coverage."""

Target = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Limit:
    """When a hunt ends: after ``runs`` inputs; None: after so many seconds."""

    runs: int | None
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """``inputs`` tried; ``files`` of the corpus and ``edges`` of the code that they cover, 0 at random.

    ``finding``: what is known of one; empty: nothing was found.
    """

    inputs: int
    files: int
    edges: int
    finding: str


def load_targets(*, guided: bool) -> dict[str, Target]:
    """All by name, made ready for coverage guidance where they are to be ``guided``."""
    instrument: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if guided:
        import atheris

        instrument = atheris.instrument_imports(include=["quantus_miner"])
    with contextlib.redirect_stderr(io.StringIO()), instrument:  # it names every module
        targets: dict[str, Target] = importlib.import_module("tests.fuzz.targets").TARGETS
    assert sorted(targets) == NAMES, "each target has seeds, and each folder of seeds a target"
    return targets


def hunt(name: str, target: Target, folder: Path, limit: Limit, *, guided: bool) -> Result:
    """In a process of its own. Its log, the corpus that it gathers and a finding's input go into ``folder``."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    # Files of a moment are for memory, where that can be had as a folder.
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as temporary:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            tempfile.tempdir = temporary
            _be_child(name, target, folder, limit, log, guided)
        _, status = os.waitpid(child, 0)
    said = log.read_text(encoding="utf-8", errors="backslashreplace")

    def most(pattern: str) -> int:
        return max(map(int, re.findall(pattern, said, re.MULTILINE)), default=0)

    # Without what atheris says of each step.
    words = [line for line in said.splitlines() if line and not line.startswith(("#", "INFO:", "WARNING:"))]
    finding = "\n".join([f"{name} ended with {os.waitstatus_to_exitcode(status)}:", *words[-100:]]) if status else ""
    return Result(most(r"^#(\d+)\b"), most(r" corp: (\d+)/"), most(r" cov: (\d+) "), finding)


def _be_child(name: str, target: Target, folder: Path, limit: Limit, log: Path, guided: bool) -> NoReturn:
    code = 1

    def keeping(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            (folder / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if guided:
            _by_coverage(name, keeping, folder, limit)
        else:
            _at_random(name, keeping, limit)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _by_coverage(name: str, target: Target, folder: Path, limit: Limit) -> None:
    import atheris

    options = (
        f"-max_total_time={limit.seconds}" if limit.runs is None else f"-runs={limit.runs}",
        *(f"-seed={0 if limit.runs is None else SEED}", f"-max_len={MAX_BYTES}", f"-timeout={TIMEOUT_S}"),
        f"-artifact_prefix={folder}/{name}-",
    )
    # New inputs go into the first folder.
    atheris.Setup([name, *options, str(folder / name), str(SEEDS / name)], target)
    atheris.Fuzz()


def _at_random(name: str, target: Target, limit: Limit) -> None:
    """The seeds, then changed ones."""
    signal.signal(signal.SIGALRM, _too_long)
    end = time.monotonic() + limit.seconds
    rng = random.Random(None if limit.runs is None else SEED)
    seeds = [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]
    done = 0
    while done < limit.runs if limit.runs is not None else time.monotonic() < end:
        data = seeds[done] if done < len(seeds) else _changed(seeds, rng)
        signal.alarm(TIMEOUT_S)
        target(data)
        signal.alarm(0)
        done += 1
    print(f"#{done} DONE")


def _too_long(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"more than {TIMEOUT_S} s for one input")


def _changed(seeds: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 4, 32)))
        other = rng.choice(seeds)
        place = rng.randrange(len(other) + 1)
        data[start:end] = rng.choice(
            (b"", rng.randbytes(1), rng.randbytes(4), other[place : place + rng.randrange(64)], data[start:end] * 9)
        )
    return bytes(data[:MAX_BYTES])
