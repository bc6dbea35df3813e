"""The GPU kernel itself: its arithmetic on hostile numbers and its searches, as OpenCL on the CPU (PoCL) and as the PTX
that NVRTC makes of it, which is executed here instruction by instruction."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from quantus_miner import native
from quantus_miner.gpu import source as source_module
from quantus_miner.gpu.source import ENTRIES, MAX_HITS, source
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow
from quantus_miner.pow import poseidon2
from quantus_miner.pow.order import last_position
from quantus_miner.pow.poseidon2 import P

from ..opencl import OCLGRIND, oclgrind_environment
from .programs import OpenCl, Program, Ptx, compile_cuda

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

M = 2**32 - 1
SCALAR = native.find_kernel(Pow.POSEIDON2, "scalar")
HOSTILE = sorted(
    {
        n % 2**64
        for base in (
            0,
            2**32,
            2**33,
            2**63,
            P,
            P - 2**32,
            P + 2**31,
            2**64 - 2**33,
            2**64 - 2**32,
            M << 31,
            M**2,
            7 * M,
        )
        for n in range(base - 2, base + 3)
    }
)
ONE_NUMBER = {
    "multiply": "multiply(x, y)",
    "square": "square(x)",
    "power": "seventh_power(x)",
    "divide": "divide(x, y)",
    "fold": "fold(x, (u32)y)",
    "join": "join(x, y)",
    "add": "add(x, y)",
    "canonical": "canonical(x)",
}
ALL_ELEMENTS = {
    "layer": "external_layer(e, EXTERNAL[1])",
    "internal0": "internal_rounds(e, 0)",
    "internal1": "internal_rounds(e, 1)",
}
PROBES = "".join(
    f"""
KERNEL probe_{name}(u64 x, u64 y, GLOBAL u32 *out) {{
    const u64 r = {expression};
    out[0] = LOW(r);
    out[1] = HIGH(r);
}}"""
    for name, expression in ONE_NUMBER.items()
) + "".join(
    f"""
KERNEL probe_{name}(u64 x, u64 y, GLOBAL u32 *out) {{
    u64 e[12];
    for (int i = 0; i < 12; ++i) e[i] = i % 2 ? x : y;
    {statement};
    for (int i = 0; i < 12; ++i) {{
        out[2 * i] = LOW(e[i]);
        out[2 * i + 1] = HIGH(e[i]);
    }}
}}"""
    for name, statement in ALL_ELEMENTS.items()
)
"""Kernels that hand out what a function returns, or all elements."""


@pytest.fixture(scope="module", params=["opencl", "80", "100"])
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """80 stands for all CUDA cards before 100: the source knows these two."""
    if request.param == "opencl":
        request.getfixturevalue("opencl_on_cpu")
        yield OpenCl(source("opencl") + PROBES)
    else:
        yield Ptx(source("cuda") + PROBES, request.param)


def pairs(count: int) -> list[tuple[int, int]]:
    """Hostile with hostile, hostile with random, random with random."""
    rng = random.Random(count)
    some = [rng.randrange(2**64) for _ in range(count)]
    return (
        [(a, b) for a in HOSTILE for b in HOSTILE[::3]]
        + [*zip(some, HOSTILE * 9, strict=False)]
        + [*itertools.pairwise(some)]
    )


def number(words: list[int]) -> int:
    return sum(word << 32 * i for i, word in enumerate(words))


@pytest.mark.parametrize("name", ["multiply", "square"])
def test_products_are_right_but_where_they_say(program: Program, name: str) -> None:
    wrong = 0
    for x, y in pairs(300) if name == "multiply" else [(x, x) for x, _ in pairs(300)]:
        low, high = divmod(x * y, 2**64)[::-1]
        # As multiply has them: l0 is the lowest digit, v the next after l0 p is taken away, the rest above.
        l0 = low & M
        v, above = (low >> 32) + l0 & M, high + ((low >> 32) + l0 >> 32)
        crosswise = (x & M) * (y >> 32) + (x >> 32) * (y & M)
        lost = crosswise % 2**64 + l0 + ((x & M) * (y & M) >> 32) >= 2**64
        excepted = lost or (v == above >> 32 and (above & M) + v < l0) or (v == M and v > above >> 32)
        right = (number(program.run(f"probe_{name}", (x, y), (), 2)) * 2**64 - x * y) % P == 0
        assert right is not excepted, (hex(x), hex(y))
        wrong += excepted
    assert wrong  # or the exceptions have not been tried


def test_divide_is_right_but_where_it_says(program: Program) -> None:
    wrong = 0
    for low, high in [*pairs(300), *((M << 32 | a, b) for a in (M, M - 1, 5) for b in ((a - 1) % 2**32 << 32 | M,))]:
        if high + (low >> 32) >= 2**64:
            continue
        low0, low1, high0, high1 = low & M, low >> 32, high & M, high >> 32
        excepted = (high1 == low0 - 1 and high0 + low1 + low0 >= 2**33 - 1) or (low0 == M and high1 < M)
        right = (number(program.run("probe_divide", (low, high), (), 2)) * 2**32 - low - 2**32 * high) % P == 0
        assert right is not excepted, (hex(low), hex(high))
        wrong += excepted
    assert wrong


def folds(low: int, top: int) -> bool:
    """Whether ``low + 2^64 top`` comes out right: no carries but the one that is the top."""
    return 0 <= (low & M) - top <= M and 0 <= (low >> 32) + top <= M


def test_sums_are_right_but_where_they_say(program: Program) -> None:
    wrong = 0
    for x, y in pairs(50):
        for top in (0, 1, 28, -1, -14):
            right = (number(program.run("probe_fold", (x, top % 2**64), (), 2)) - x - (top << 64)) % P == 0
            assert right is folds(x, top), (hex(x), top)
            wrong += not right
        right = (number(program.run("probe_add", (x, y), (), 2)) - x - y) % P == 0
        assert right is folds((x + y) % 2**64, x + y >> 64), (hex(x), hex(y))
        low, high = x >> 25, (y >> 25) - (14 << 32)
        total = low + (high << 32)
        right = (number(program.run("probe_join", (low, high % 2**64), (), 2)) - total) % P == 0
        assert right is folds(total % 2**64, total >> 64), (hex(low), hex(high))
    assert wrong


def test_the_rounds_are_those_of_the_reference(program: Program) -> None:
    """Whole rounds, on numbers that do not meet the exceptions."""
    rng = random.Random(4)
    for x, y in [(rng.randrange(2**64), rng.randrange(2**64)) for _ in range(8)] + [
        (0, 2**64 - 1),
        (2**64 - 1, 2**64 - 1),
    ]:
        state = [x if i % 2 else y for i in range(12)]
        assert number(program.run("probe_power", (x, y), (), 2)) % P == pow(x, 7, P)
        got = program.run("probe_layer", (x, y), (), 24)
        added = poseidon2.FIRST_EXTERNAL_ROUNDS[2]
        expected = [(a + b) % P for a, b in zip(poseidon2._external_layer(state), added, strict=True)]
        assert [number(got[2 * i : 2 * i + 2]) % P for i in range(12)] == expected
        # The first constant is added before them, those of the round behind them are added at the end.
        state[0] -= poseidon2.INTERNAL_ROUNDS[0]
        for constant in poseidon2.INTERNAL_ROUNDS:
            state = poseidon2._internal_round(state, constant)
        sums = [a + b for a, b in zip(state, poseidon2.LAST_EXTERNAL_ROUNDS[0], strict=True)]
        got = program.run("probe_internal0", (x, y), (), 24)
        # Each round divides by 2^32, those of the first permutation before those of the second.
        expected = [element * pow(2**32, -22, P) % P for element in sums]
        assert [number(got[2 * i : 2 * i + 2]) % P for i in range(12)] == expected
        x, y = (element * pow(2**32, -22, P) % P for element in (x, y))
        got = program.run("probe_internal1", (x, y), (), 24)
        expected = [element * pow(2**32, -44, P) % P for element in sums]
        assert [number(got[2 * i : 2 * i + 2]) % P for i in range(12)] == expected


def test_the_last_element_is_canonical(program: Program) -> None:
    for x in HOSTILE:
        assert number(program.run("probe_canonical", (x, 0), (), 2)) == x % P


def test_halves_of_the_diagonal_do_not_overflow() -> None:
    assert source_module._MatrixEntry(2**32 - 14, 0, 0, -(2**32 - 14)).fits
    for one in (
        (2**32 - 13, 0, 0, 0),
        (0, 0, -(2**32 - 13), 0),
        (0, 2**31, 0, 2**31 - 13),
        (2**31, 0, -(2**31) + 13, 0),
    ):
        assert not source_module._MatrixEntry(*one).fits


def test_layers_are_zero_on_average() -> None:
    columns = [poseidon2._external_layer([int(i == j) for i in range(12)]) for j in range(12)]
    assert {sum(column[row] for column in columns) for row in range(12)} == {2 * source_module._MEAN}


def columns_of(order: Order, words: list[int], offset: int) -> list[int]:
    """The state that the words and the offset of a nonce stand for, before the second S-boxes."""
    matrix = [poseidon2._external_layer([int(i == j) for i in range(12)]) for j in range(12)]
    if order is Order.WALK:
        power3, power7 = pow(words[12] + 35 * offset, 7, P), pow(words[13] - 35 * offset, 7, P)
        return [word + a * power3 + b * power7 for word, a, b in zip(words, matrix[3], matrix[7], strict=False)]
    element = int.from_bytes(offset.to_bytes(4), "little")
    state = [pow(word + a * element, 7, P) for word, a in zip(words, matrix[7], strict=False)]
    constants = poseidon2.FIRST_EXTERNAL_ROUNDS[1]
    return [a + b for a, b in zip(poseidon2._external_layer(state), constants, strict=True)]


def top_of(state: list[int]) -> int:
    """The first 8 bytes of the hash, from the elements before the second S-boxes."""
    state = poseidon2._external_layer([pow(x, 7, P) for x in state])
    for constants in poseidon2.FIRST_EXTERNAL_ROUNDS[2:]:
        state = poseidon2._external_round(state, constants)
    for constant in poseidon2.INTERNAL_ROUNDS:
        state = poseidon2._internal_round(state, constant)
    for constants in poseidon2.LAST_EXTERNAL_ROUNDS:
        state = poseidon2._external_round(state, constants)
    state[0] += 1
    state[1] += 1
    return int.from_bytes(poseidon2.permute(state)[0].to_bytes(8, "little"))


@pytest.mark.parametrize("order", Order)
def test_words_at_the_edges_and_the_very_limit(program: Program, order: Order) -> None:
    rng = random.Random(6)
    last = 2 ** native.SPAN_BITS[order] - 1
    for high in (0, 1, M - 1, M):
        for offset in (0, last, rng.randrange(last)):
            # Their low halves at random: others meet the exceptions.
            words = [(high if i % 3 else M - high) << 32 | rng.randrange(2**32) for i in range(14)]
            top = top_of(columns_of(order, words, offset))
            for target, hits in ((top, 1), (top - 1, 0)):
                assert program.run(ENTRIES[order], (*words, target), (offset, 1), 1 + MAX_HITS)[0] == hits


@pytest.mark.parametrize("order", Order)
def test_a_search_finds_what_the_scalar_kernel_finds(program: Program, order: Order) -> None:
    rng = random.Random(5)
    count = 2000 if isinstance(program, OpenCl) else program.threads
    for start in (0, last_position(order) - count + 1, *(rng.randrange(last_position(order)) for _ in range(4))):
        job = Job("job", Pow.POSEIDON2, rng.randbytes(32), MAX // (count // 4), (NonceRange(0, 0),), order)
        prepared = native.prepare(job)
        span = native.span(prepared, start)
        tested = min(count, 2 ** native.SPAN_BITS[order] - span.offset)
        limits = (span.offset, tested)
        out = program.run(ENTRIES[order], (*span.words, span.top_target), limits, 1 + MAX_HITS)
        expected = {
            offset
            for offset in range(tested)
            if start + offset
            and native.search(SCALAR, prepared, start + offset, 1, native.NativeControl()).nonce is not None
        }
        hits = [offset - span.offset for offset in out[1 : 1 + out[0]]]
        assert len(hits) == len(set(hits)) == out[0]
        assert set(hits) - {0 if start == 0 else -1} == expected - {-1}


def test_what_does_not_fit_is_counted(program: Program) -> None:
    job = Job("job", Pow.POSEIDON2, bytes(32), MAX, (NonceRange(0, 0),), Order.WALK)
    span = native.span(native.prepare(job), 0)
    count = 1000 if isinstance(program, OpenCl) else 7
    out = program.run("search_walk", (*span.words, span.top_target), (0, count), 1 + MAX_HITS)
    assert out[0] == count
    kept = out[1 : 1 + min(count, MAX_HITS)]
    assert len(set(kept)) == len(kept)
    assert set(kept) <= set(range(count))


@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90", "100", "120"])
def test_registers_and_spills(arch: str) -> None:
    _, report = compile_cuda(source("cuda"), f"sm_{arch}")
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    spills = [int(count) for count in re.findall(r"(\d+) bytes spill", report)]
    assert len(registers) == 2, report
    # 65,536 of them for 3 blocks of 256 threads at least, or 2.
    assert max(registers) <= (128 if arch == "100" else 80)
    # NVRTC 13 takes no more than 80 for walks on sm_100, and spills a little instead.
    assert max(spills) <= (16 if arch == "100" else 0)


UNDER_OCLGRIND = """
import sys
from pathlib import Path

from quantus_miner import native
from quantus_miner.gpu import drivers, source
from quantus_miner.model import MAX, Job, NonceRange, Order, Pow

source.BLOCK, source.MAX_HITS = 2, 5  # before the driver reads them: a simulator takes a minute for a block of 256
opencl = drivers.load("opencl")
device = opencl.devices()[0]
print(device.name)
launcher = opencl.open_device(device, Path(sys.argv[1]))
for order in Order:
    job = native.prepare(Job("job", Pow.POSEIDON2, bytes(range(32)), MAX, (NonceRange(0, MAX),), order))
    launcher.launch(order, native.span(job, 0).words, 2**64 - 1, 5, 7, 2)
    readout = launcher.collect()
    assert readout.candidates == 7, readout
    assert len(set(readout.offsets)) == 5, readout
    assert set(readout.offsets) <= set(range(5, 12)), readout
"""
"""More nonces than threads, and fewer than those in the last turn; more hits than there is room for."""


def test_no_race_and_no_access_outside_of_a_buffer(tmp_path: Path) -> None:
    pytest.importorskip("pyopencl", reason="pyopencl has no wheel for this platform")
    if not OCLGRIND.exists():
        pytest.skip("needs oclgrind; on Debian and Ubuntu: apt install oclgrind")
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", UNDER_OCLGRIND, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=oclgrind_environment(log),
    )
    assert (done.returncode, done.stdout) == (0, "Oclgrind Simulator\n"), done.stderr
    assert not log.exists() or log.read_text() == ""
