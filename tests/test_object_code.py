"""The instructions that a kernel is named after are in its object code, and in nobody else's."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quantus_miner import _native
from tests.test_native import build_program

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not shutil.which("objdump"),
    reason="needs an x86-64 processor and objdump; on Debian and Ubuntu: apt install binutils",
)


def disassembly(path: Path) -> str:
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def objects() -> dict[str, str]:
    """The disassembly of each source file, compiled as for the Python module, which itself has no symbols left."""
    library = build_program("release").parent / "libqm_core.a"
    parts = re.split(r"^(\S+)\.cpp\.o: +file format .*$", disassembly(library), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


VECTOR_INSTRUCTIONS = {
    "poseidon2_avx2": ("vpmuludq", "ymm"),
    "poseidon2_avx512": ("vpmuludq", "zmm"),
    "sha3_avx2": ("vpmuludq", "ymm"),
    "sha3_avx512": ("vpmadd52luq", "zmm"),
}


@pytest.mark.parametrize("name", VECTOR_INSTRUCTIONS)
def test_a_vector_kernel_multiplies_with_its_own_instructions(name: str, objects: dict[str, str]) -> None:
    mnemonic, register = VECTOR_INSTRUCTIONS[name]
    pattern = rf"\b{mnemonic}\b.*%{register}\d"
    assert len(re.findall(pattern, objects[name])) > 50
    module = disassembly(Path(_native.__file__))
    assert len(re.findall(pattern, module)) > 50, "not in the installed module"


def test_no_other_code_uses_wide_registers(objects: dict[str, str]) -> None:
    assert {"cpu", "dispatch", "poseidon2_baseline", "poseidon2_scalar", "sha3_baseline", "sha3_scalar"} < set(objects)
    for name, code in objects.items():
        if not name.endswith("avx512"):
            assert "%zmm" not in code, name
            if not name.endswith("avx2"):
                assert "%ymm" not in code, name
