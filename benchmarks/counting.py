"""Cycles and instructions, counted: by the processor where it lets us, else by a calibrated clock and single steps.

A few lines of C (``counting.c``) are compiled into a temporary folder when they are first needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from benchmarks.ceilings import Form, parse_form
from quantus_miner import _native, native
from quantus_miner.model import MAX, Job, NonceRange
from quantus_miner.pow.order import fastest_order, last_position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LIBRARY: Final = Path(_native.__file__).with_name("_core.so")
HARDWARE: Final = 0  # PERF_TYPE_HARDWARE
CYCLES: Final = 0  # PERF_COUNT_HW_CPU_CYCLES
CHAIN: Final = 2**20
# A vector instruction calculates if it has a 256- or 512-bit register and neither moves nor copies.
VECTOR: Final = re.compile(r"%[yz]mm")
MOVES: Final = re.compile(r"v(mov|p?broadcast|extract|insert)")


class NotCountedError(Exception):
    """Counting is not possible on this machine; the text says what is missing."""


class Instructions(NamedTuple):
    """Instructions a nonce: all, and the vector instructions among them that calculate, by their forms."""

    total: float
    mix: Mapping[Form, float]

    @property
    def vector(self) -> float:
        """Vector instructions a nonce that calculate."""
        return sum(self.mix.values())


class Counting:
    """The compiled helper. Raises NotCountedError where there is no C compiler."""

    def __init__(self) -> None:
        compiler = os.environ.get("CC", "cc")
        if not shutil.which(compiler):
            raise NotCountedError(f"no C compiler {compiler!r}")
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "counting.so"
            source = Path(__file__).with_suffix(".c")
            include = source.parents[1] / "native" / "include"
            subprocess.run([compiler, "-O2", "-I", include, "-shared", "-fPIC", "-o", library, source], check=True)
            self._library = ctypes.CDLL(str(library))
        u64 = ctypes.c_uint64
        self._library.add_chain.argtypes = [u64, u64, u64]
        self._library.open_counter.argtypes = [ctypes.c_uint32, u64]
        self._counter = self._library.open_counter(HARDWARE, CYCLES)

    def clocked(self, run: Callable[[], float]) -> tuple[float, float]:
        """What ``run`` returns, and the core cycles in a second of this thread's own time.

        By the processor's counter, while it ran, or where there is none the fastest of ten chains of 2^20 dependent
        additions right after.
        """
        if self._counter >= 0:
            counted, began = self._cycles(), time.thread_time()
            result = run()
            return result, (self._cycles() - counted) / (time.thread_time() - began)
        result, times = run(), []
        for _ in range(10):
            began = time.perf_counter()
            self._library.add_chain(CHAIN // 64, 1, 3)
            times.append(time.perf_counter() - began)
        return result, CHAIN / min(times)

    def _cycles(self) -> int:
        return int.from_bytes(os.read(self._counter, 8), "little")

    def instructions(self, kernel: native.Kernel) -> Instructions:
        """Exact: two searches of different length, step by step, so that what ends a search cancels.

        Raises NotCountedError on processors other than x86-64 and where objdump is missing.
        """
        # Whole batches, and few of what takes long to step through.
        nonces = {"baseline": 1, "scalar": 2}.get(kernel.name, 32)
        steps, mixes = zip(*(self._step(kernel, count) for count in (nonces, 2 * nonces)), strict=True)
        mix = {form: (count - mixes[0][form]) / nonces for form, count in mixes[1].items() if count > mixes[0][form]}
        return Instructions((steps[1] - steps[0]) / nonces, mix)

    def _step(self, kernel: native.Kernel, count: int) -> tuple[int, Counter[Form]]:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NotCountedError("instructions are counted on x86-64 only")
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        step = self._library.step
        step.argtypes = [pointer, ctypes.c_int, pointer, ctypes.c_char_p, u64, pointer, u64, pointer]
        step.restype = ctypes.c_int64
        base, size = _mapped()
        seen = (ctypes.c_uint32 * size)()
        order = fastest_order(kernel.pow)
        job = native.prepare(Job("count", kernel.pow, bytes(range(32)), 0, (NonceRange(0, MAX),), order))
        ffi = _native.ffi
        search = int(ffi.cast("uintptr_t", ffi.addressof(cast("Any", _native.lib), "qm_search")))
        data = int(ffi.cast("uintptr_t", job.data))
        start = (last_position(order) // 2 + 2**20).to_bytes(64)  # far from the end of a span
        steps: int = step(search, kernel.index, data, start, count, base, size, seen)
        if steps < 0:
            raise NotCountedError("the search did not run to its end")
        mix: Counter[Form] = Counter()
        for address, form in _vector_instructions().items():
            mix[form] += seen[address]
        return steps, mix


def _mapped() -> tuple[int, int]:
    """Address and size of the native library in this process."""
    ranges = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines()
        if line.endswith(str(LIBRARY.resolve()))
    ]
    return ranges[0][0], ranges[-1][1] - ranges[0][0]


@cache
def _vector_instructions() -> Mapping[int, Form]:
    """The vector instructions of the native library that calculate, by their addresses."""
    if not shutil.which("objdump"):
        raise NotCountedError("no objdump")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(LIBRARY)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^ *([0-9a-f]+):\t(v\S+)(.*)$", listing, re.MULTILINE)
    return {
        int(address, 16): form
        for address, mnemonic, operands in lines
        if VECTOR.search(operands) and not MOVES.match(mnemonic) and (form := parse_form(mnemonic, operands))
    }
