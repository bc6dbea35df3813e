"""Generate sources at build time: ``constants JSON HPP`` or ``binding HEADER PY``."""

import json
import sys
from pathlib import Path


def constants(parameters: Path, output: Path) -> None:
    """Write the Poseidon2 parameters as C++ arrays."""
    lines = ["// Generated from poseidon2_constants.json.", "#pragma once", "#include <cstdint>", "namespace {"]
    for name, value in json.loads(parameters.read_text()).items():
        if isinstance(value, str):
            continue
        rows = value if isinstance(value[0], list) else [value]
        shape = f"[{len(rows)}][{len(rows[0])}]" if rows is value else f"[{len(rows[0])}]"
        body = ",\n    ".join("{" + ", ".join(f"0x{word}" for word in row) + "}" for row in rows)
        body = f"{{\n    {body}}}" if rows is value else body
        lines.append(f"constexpr uint64_t {name}{shape} = {body};")
    output.write_text("\n".join([*lines, "}  // namespace\n"]))


def binding(header: Path, output: Path) -> None:
    """Write the Python module ``quantus_miner._native``, which loads the library beside it.

    cffi calls the library through libffi, so that neither this module nor the library depends on a version of Python or
    needs its headers.
    """
    from cffi import FFI  # here, because the native tests are built without it

    declarations = header.read_text().partition("/* begin cdef */")[2].partition("/* end cdef */")[0]
    ffi = FFI()
    ffi.cdef(declarations)
    ffi.set_source("quantus_miner._native", None)
    ffi.emit_python_code(str(output))
    with output.open("a", encoding="ascii") as file:
        file.write("lib = ffi.dlopen(__file__.rpartition('/')[0] + '/_core.so')\n")


if __name__ == "__main__":
    {"constants": constants, "binding": binding}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
