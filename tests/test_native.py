"""The native core: its own test program under sanitizers, and the Python face on every kernel."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import threading
import types
from hashlib import sha3_256, sha3_512
from typing import TYPE_CHECKING, Any

import pytest

from quantus_miner import _native, native
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow, target_from_difficulty
from quantus_miner.pow import evaluate, sha3
from quantus_miner.pow.order import last_position, nonce_at

from .conftest import vectors
from .native_builds import AARCH64_COMPILER, build, build_for_aarch64

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = [kernel for kernel in native.kernels() if kernel.supported]
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.pow}-{kernel.name}")
HEADER = bytes(range(32))


def job(pow_: Pow, target: int, header: bytes = HEADER, order: Order = Order.COUNTING) -> native.NativeJob:
    return native.prepare(Job("test", pow_, header, target, (NonceRange(0, MAX),), order))


def search(kernel: native.Kernel, task: native.NativeJob, start: int, count: int) -> native.Outcome:
    control = native.NativeControl()
    outcome = native.search(kernel, task, start, count, control)
    assert control.hashes == outcome.tested
    return outcome


def searches() -> list[Any]:
    """All search vectors of both proofs of work: (pow, header, target, start, count, first valid nonce or None)."""
    cases = [
        (
            Pow.POSEIDON2,
            case["header_hex"],
            target_from_difficulty(int(case["difficulty"])),
            int(case["nonce_start"], 16),
            case["length"],
            case["chain_first_nonce"],
        )
        for case in vectors("qpow_poseidon2_search")["cases"]
    ] + [
        (
            Pow.SHA3,
            case["header_hex"],
            int(case["distance_threshold"]),
            int(case["nonce_start"], 16),
            case["length"],
            case["first_nonce"],
        )
        for case in vectors("qpow_sha3_search")["cases"]
    ]
    return [(*case[:5], None if case[5] is None else int(case[5], 16)) for case in cases]


def program_input() -> str:
    """The golden vectors as lines for native/tests/kernel_check.cpp."""
    lines = [
        ("permutation", *case["state_in"], *case["state_out"])
        for case in vectors("qpow_poseidon2_permutation")["cases"]
    ]
    lines += [
        ("poseidon2-hash", case["header_hex"], case["nonce_hex"], case["hash_hex"])
        for case in vectors("qpow_poseidon2_hash")["cases"]
    ]
    lines += [
        ("sha3-distance", *(case[f"{name}_hex"] for name in ("header", "m", "n", "nonce", "y", "distance")))
        for case in vectors("qpow_sha3_distance")["cases"]
    ]
    for pow_, header, target, start, count, first in searches():
        ring = [f"{number:x}" for number in sha3.modulus(bytes.fromhex(header))] if pow_ is Pow.SHA3 else []
        kind = "sha3-search" if pow_ is Pow.SHA3 else "poseidon2-search"
        lines.append(
            (kind, header, *ring, f"{target:x}", f"{start:x}", str(count), "-" if first is None else f"{first:x}")
        )
    return "".join(" ".join(line) + "\n" for line in lines)


@pytest.fixture(scope="session")
def program() -> Path:
    """The native test program under ASan and UBSan."""
    return build("sanitize", "kernel_check", "-DQM_SANITIZE=ON")


def run_program(*command: str | Path, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=lines, capture_output=True, text=True, check=False)


@pytest.mark.timeout(400)
def test_every_kernel_under_sanitizers(program: Path) -> None:
    lines = program_input()
    done = run_program(program, lines=lines)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(KERNELS)} kernels, {lines.count(chr(10))} vectors, 0 mismatches\n"


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not (shutil.which(AARCH64_COMPILER) and shutil.which("qemu-aarch64")),
    reason="needs an aarch64 cross compiler and emulator; on Debian: apt install g++-aarch64-linux-gnu qemu-user",
)
def test_every_kernel_on_aarch64() -> None:
    """Cross-built, under user-mode emulation: baseline and scalar of both proofs of work, and neon."""
    lines = program_input()
    done = run_program("qemu-aarch64", build_for_aarch64("kernel_check"), lines=lines)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"5 kernels, {lines.count(chr(10))} vectors, 0 mismatches\n"


def test_the_program_names_what_does_not_match(program: Path) -> None:
    case = vectors("qpow_poseidon2_hash")["cases"][0]
    line = f"poseidon2-hash {case['header_hex']} 1 {case['hash_hex']}"
    done = run_program(program, "vectors-alone", lines=line + "\nnonsense\npermutation 1 2\n")
    assert done.returncode == 1
    assert f"poseidon2 baseline: line 1: {line}" in done.stdout
    assert "line 2: nonsense: no such kind of vector" in done.stdout
    assert "line 3: permutation 1 2: cut short" in done.stdout


@each_kernel
def test_search_vectors(kernel: native.Kernel) -> None:
    for pow_, header, target, start, count, first in searches():
        if pow_ is not kernel.pow:
            continue
        begin = start
        if kernel.name == "baseline":  # slow: the last part before the hit
            count = count if first is None else first - start + 1
            begin = max(start, start + count - 2000)
            count = start + count - begin
        expected = count if first is None else first - begin + 1
        assert search(kernel, job(pow_, target, bytes.fromhex(header)), begin, count) == (expected, first)


@each_kernel
def test_a_value_is_exact(kernel: native.Kernel) -> None:
    for turn in range(5):
        header, nonce = sha3_256(bytes([turn])).digest(), int.from_bytes(sha3_512(bytes([turn])).digest())
        value = evaluate(kernel.pow, header, nonce)
        assert search(kernel, job(kernel.pow, value, header), nonce, 1) == (1, nonce)
        assert search(kernel, job(kernel.pow, value - 1, header), nonce, 1) == (1, None)


@each_kernel
def test_a_value_of_a_walk_is_exact(kernel: native.Kernel) -> None:
    position = int.from_bytes(sha3_512(b"walk").digest()) >> 229
    nonce = nonce_at(Order.WALK, position)
    value = evaluate(kernel.pow, HEADER, nonce)
    task, below = (job(kernel.pow, target, order=Order.WALK) for target in (value, value - 1))
    if kernel.pow is Pow.SHA3:
        with pytest.raises(ValueError, match="walk order not supported for qpow-sha3"):
            search(kernel, task, position, 1)
        return
    assert search(kernel, task, position, 1) == (1, nonce)
    assert search(kernel, below, position, 1) == (1, None)
    with pytest.raises(ValueError, match="passes position 0x7"):
        search(kernel, task, last_position(Order.WALK), 2)


@each_kernel
def test_zero_is_never_valid_and_the_last_nonce_is_reached(kernel: native.Kernel) -> None:
    every = job(kernel.pow, MAX)
    assert search(kernel, every, 0, 1) == (1, None)
    assert search(kernel, every, 0, 2) == (2, 1)
    assert search(kernel, every, MAX, 1) == (1, MAX)
    none = job(kernel.pow, 0)
    assert search(kernel, none, 0, 100) == (100, None)
    assert search(kernel, none, MAX - 99, 100) == (100, None)


@each_kernel
def test_a_stop_from_another_thread_ends_a_search(kernel: native.Kernel) -> None:
    task, control = job(kernel.pow, 0), native.NativeControl()
    outcomes: list[native.Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(native.search(kernel, task, 1, 2**64 - 1, control)))
    thread.start()
    seen: list[int] = []
    while len(seen) < 3:  # this thread runs and sees progress while the other one searches
        if (hashes := control.hashes) > (seen[-1] if seen else 0):
            seen.append(hashes)
    assert not outcomes
    control.stop()
    thread.join()
    assert outcomes == [(control.hashes, None)]
    assert control.hashes >= seen[-1]

    assert native.search(kernel, task, 1, 10, control) == (0, None)
    control.reset()
    assert control.hashes == 0
    assert native.search(kernel, task, 1, 10, control) == (10, None)
    assert native.search(kernel, task, 11, 10, control) == (10, None)
    assert control.hashes == 20


@each_kernel
@pytest.mark.parametrize(("start", "count"), [(1, 0), (1, -1), (1, 2**64), (-1, 1), (MAX, 2), (MAX + 1, 1)])
def test_a_slice_outside_the_nonces_is_refused(kernel: native.Kernel, start: int, count: int) -> None:
    with pytest.raises(ValueError, match="slice"):
        native.search(kernel, job(kernel.pow, MAX), start, count, native.NativeControl())


def test_a_kernel_of_the_other_proof_of_work_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot search a job of qpow-sha3"):
        native.search(native.find_kernel(Pow.POSEIDON2, None), job(Pow.SHA3, MAX), 1, 1, native.NativeControl())


@pytest.mark.parametrize(("header", "target"), [(b"", 1), (bytes(33), 1), (bytes(32), -1), (bytes(32), MAX + 1)])
def test_a_job_out_of_range_is_refused(header: bytes, target: int) -> None:
    with pytest.raises(ValueError, match=r"a (header must have 32 bytes|target must be from 0 to 2\^512 - 1)"):
        job(Pow.POSEIDON2, target, header)


@pytest.mark.parametrize("pow_", list(Pow))
def test_kernels_are_found_by_name(pow_: Pow) -> None:
    of_pow = [kernel for kernel in KERNELS if kernel.pow is pow_]
    assert [kernel.name for kernel in of_pow][:2] == ["baseline", "scalar"]
    for kernel in of_pow:
        assert native.find_kernel(pow_, kernel.name) == kernel
    assert native.find_kernel(pow_, None) == of_pow[-1]
    with pytest.raises(ValueError, match=r"no kernel 'x' for qpow-.*; allowed: baseline, scalar"):
        native.find_kernel(pow_, "x")


def test_another_abi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __getattr__(self, name: str) -> object:
            return (lambda: 99) if name == "qm_abi_version" else getattr(_native.lib, name)

    stub = types.ModuleType("quantus_miner._native")
    vars(stub).update(ffi=_native.ffi, lib=Other())
    monkeypatch.setitem(sys.modules, "quantus_miner._native", stub)
    monkeypatch.delitem(sys.modules, "quantus_miner.native")
    with pytest.raises(ImportError, match="has ABI version 99, this quantus-miner needs"):
        importlib.import_module("quantus_miner.native")
