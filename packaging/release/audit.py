"""Check a wheel as a user's system will: what it needs, what its tags promise, what it says of itself."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Final

import sbom
from artefacts import run
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

CORE: Final = "quantus_miner/_core.so"
MACHINES: Final = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}


def check_wheel(wheel: Path) -> None:
    """Raise ReleaseError if the wheel is not what its name promises."""
    with zipfile.ZipFile(wheel) as archive:
        core = archive.read(CORE)
        bills = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
        if len(bills) != 1:
            raise ReleaseError(f"{wheel.name} has {len(bills)} bills of materials instead of one")
        sbom.validate(archive.read(bills[0]).decode(), bills[0])
    check_core(core, wheel.name)
    found = " ".join(run("auditwheel", "show", wheel).split())
    # It knows only one libc a wheel; check_core has shown that there is none.
    if "requires no external shared libraries" not in found:
        raise ReleaseError(f"{wheel.name}: auditwheel says: {found}")
    run("twine", "check", "--strict", wheel)


def check_core(core: bytes, wheel: str) -> None:
    """Raise ReleaseError if the native core needs a library, a symbol, or another architecture than the wheel's."""
    elf = ELFFile(io.BytesIO(core))
    architecture = MACHINES.get(elf["e_machine"], elf["e_machine"])
    if not wheel.endswith(f"_{architecture}.whl"):
        raise ReleaseError(f"{wheel}: {CORE} is for {architecture}")
    dynamic, symbols = elf.get_section_by_name(".dynamic"), elf.get_section_by_name(".dynsym")
    if not isinstance(dynamic, DynamicSection) or not isinstance(symbols, SymbolTableSection):
        raise ReleaseError(f"{wheel}: {CORE} is not a shared library")
    needed: list[str] = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined] # set for this tag
    undefined = [
        symbol.name
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    ]
    if needed or undefined:
        raise ReleaseError(
            f"{wheel}: {CORE} needs {', '.join([*needed, *undefined])}, so it does not run with both glibc and musl"
        )
