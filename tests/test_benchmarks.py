"""What the benchmarks count."""

from __future__ import annotations

import platform
import shutil

import pytest
from benchmarks.counting import Counting

from quantus_miner import native
from quantus_miner.model import Pow

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not (shutil.which("objdump") and shutil.which("cc")),
    reason="needs an x86-64 processor, a C compiler and objdump; on Debian and Ubuntu: apt install gcc binutils",
)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


def test_instructions_are_counted_exactly(counting: Counting) -> None:
    kernel = native.find_kernel(Pow.SHA3, "scalar")
    first = counting.instructions(kernel)
    # Keccak alone: 24 rounds of at least 25 lanes with some 3 operations each.
    assert 24 * 25 * 3 < first.total < 20_000
    assert first.vector == 0
    assert counting.instructions(kernel) == first


def test_a_vector_kernel_calculates_in_vectors(counting: Counting) -> None:
    kernel = native.find_kernel(Pow.SHA3, None)
    if kernel.name == "scalar":
        pytest.skip("no vector kernel runs on this processor")
    counted = counting.instructions(kernel)
    assert 0.5 < counted.vector / counted.total < 1


def test_the_clock_is_one_of_a_processor(counting: Counting) -> None:
    result, clock = counting.clocked(lambda: 1.5)
    assert result == 1.5
    assert 1e8 < clock < 1e10
