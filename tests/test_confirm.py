"""The confirming hash, and the reference's last word."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from quantus_miner import native
from quantus_miner import pow as reference
from quantus_miner.backends.cpu import CpuEngine, fast_kernels
from quantus_miner.mining.miner import Miner
from quantus_miner.model import MAX, NonceRange, Pow, Solution, target_from_difficulty
from quantus_miner.pow import poseidon2

from .conftest import vectors
from .engines import WAIT_S, Ends, job


def test_the_confirming_hash_is_the_specification_s() -> None:
    for case in vectors("qpow_poseidon2_hash")["cases"]:
        nonce = int(case["nonce_hex"], 16)
        assert native.poseidon2_hash(bytes.fromhex(case["header_hex"]), nonce) == int(case["hash_hex"], 16)
    generator = random.Random(19)
    # Bytes of ff make elements of 2^32 - 1, and random ones all others; the zero nonce is a nonce here.
    for header, nonce in [
        (b"\xff" * 32, MAX),
        (bytes(32), 0),
        *((generator.randbytes(32), generator.randrange(MAX + 1)) for _ in range(50)),
    ]:
        assert native.poseidon2_hash(header, nonce) == reference.evaluate(Pow.POSEIDON2, header, nonce)
    with pytest.raises(ValueError, match="a header must have 32 bytes, got 31"):
        native.poseidon2_hash(bytes(31), 1)


def test_the_constants_of_the_confirming_hash_are_its_own_and_the_same() -> None:
    source = (Path(__file__).parents[1] / "native" / "src" / "poseidon2_check.cpp").read_text(encoding="ascii")
    assert "#include" in source
    assert set(re.findall(r"#include (.*)", source)) == {"<cstdint>", '"quantus_miner.h"'}
    written = [int(number) for number in re.findall(r"\b(\d{15,20})u,", source)]
    rounds = (*poseidon2.FIRST_EXTERNAL_ROUNDS, *poseidon2.LAST_EXTERNAL_ROUNDS)
    assert written == [*itertools.chain(*rounds), *poseidon2.INTERNAL_ROUNDS, *poseidon2.INTERNAL_DIAGONAL]


def test_the_reference_checks_a_solution_again_after_it_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    miner = Miner([CpuEngine("cpu-fast", 1, fast_kernels(None))], chunk_s=0.05)
    miner.start()
    task = job([NonceRange(1, MAX)], target=target_from_difficulty(100))
    miner.submit(task, ends)
    solution = ends.wait().solution
    assert miner.close(WAIT_S)
    assert solution is not None
    miner.tick()
    assert (caplog.text, miner.stats().rejected_solutions) == ("", 0)
    miner._recheck.add(task, Solution(solution.nonce, solution.value ^ 1))
    miner.tick()
    miner.tick()
    assert f"The reference disagrees about nonce {solution.nonce:x} of job 'a', which was sent" in caplog.text
    assert miner.stats().rejected_solutions == 1
