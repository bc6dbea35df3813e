"""The instructions that a kernel is named after are in its object code, and wide registers in nobody else's."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quantus_miner import _native

from .native_builds import AARCH64_COMPILER, LIBRARY, build_for_aarch64, build_library

on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not shutil.which("objdump"),
    reason="needs an x86-64 processor and objdump; on Debian and Ubuntu: apt install binutils",
)
AARCH64_OBJDUMP = "aarch64-linux-gnu-objdump"
cross_built = pytest.mark.skipif(
    not (shutil.which(AARCH64_COMPILER) and shutil.which(AARCH64_OBJDUMP)),
    reason="needs an aarch64 cross compiler; on Debian: apt install g++-aarch64-linux-gnu",
)


def disassembly(path: Path, objdump: str = "objdump") -> str:
    command = [objdump, "--disassemble", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disassembled_objects(library: Path, objdump: str = "objdump") -> dict[str, str]:
    """The disassembly of each source file, compiled as for the Python module, which itself has no symbols left."""
    code = disassembly(library, objdump)
    parts = re.split(r"^(\S+)\.cpp\.o: +file format .*$", code, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def objects() -> dict[str, str]:
    return disassembled_objects(build_library())


VECTOR_INSTRUCTIONS = {
    "poseidon2_avx2": ("vpmuludq", "ymm"),
    "poseidon2_avx512vl": ("vpmuludq", "ymm"),
    "poseidon2_avx512x2": ("vpmuludq", "zmm"),
    "poseidon2_avx512": ("vpmuludq", "zmm"),
    "sha3_avx2": ("vpmuludq", "ymm"),
    "sha3_avx512bw": ("vpmuludq", "zmm"),
    "sha3_avx512": ("vpmadd52luq", "zmm"),
}


@on_x86
@pytest.mark.parametrize("name", VECTOR_INSTRUCTIONS)
def test_a_vector_kernel_multiplies_with_its_own_instructions(name: str, objects: dict[str, str]) -> None:
    mnemonic, register = VECTOR_INSTRUCTIONS[name]
    pattern = rf"\b{mnemonic}\b.*%{register}\d"
    assert len(re.findall(pattern, objects[name])) > 50
    module = disassembly(Path(_native.__file__).with_name("_core.so"))
    assert len(re.findall(pattern, module)) > 50, "not in the installed library"


@on_x86
def test_no_other_code_uses_wide_registers(objects: dict[str, str]) -> None:
    assert {"cpu", "dispatch", "poseidon2_baseline", "poseidon2_scalar", "sha3_baseline", "sha3_scalar"} < set(objects)
    for name, code in objects.items():
        if not name.endswith(("avx512", "avx512bw", "avx512x2")):
            # gcc copies what has 64 bytes in one piece.
            narrow = re.sub(r"\bvmov.*%zmm.*", "", code) if name.endswith("avx512vl") else code
            assert "%zmm" not in narrow, name
            if not name.endswith(("avx2", "avx512vl")):
                assert "%ymm" not in code, name


@cross_built
@pytest.mark.timeout(400)
def test_neon_multiplies_and_adds_in_one_instruction() -> None:
    """Lower and upper lanes alike; the halves that are multiplied are gathered from two registers at once."""
    code = disassembled_objects(build_for_aarch64(LIBRARY), AARCH64_OBJDUMP)
    neon = code["poseidon2_neon"]
    for mnemonic, lanes in (("umull", "2s"), ("umull2", "4s"), ("umlal", "2s"), ("umlal2", "4s")):
        products = rf"\b{mnemonic}\s+v\d+\.2d, v\d+\.{lanes}, v\d+\.{lanes}"
        assert len(re.findall(products, neon)) > 50, mnemonic
        assert not re.search(products, code["poseidon2_scalar"]), mnemonic
    for mnemonic in ("uzp1", "uzp2"):
        assert len(re.findall(rf"\b{mnemonic}\s+v\d+\.4s", neon)) > 50, mnemonic
