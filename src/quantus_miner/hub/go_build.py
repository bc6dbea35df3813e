"""What a program in Go says of its own build: the build information that Go's linker puts into it."""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"\xff Go buildinf:"
HEADER_BYTES: Final = 32
INLINE: Final = 2
"""Flag of the format since Go 1.18: the texts follow the header."""
MAX_TEXT: Final = 1_000_000


def main_module(program: Path) -> str:
    """Return module and version that ``program`` was built from, such as ``example.org/tool v1.2.3``; empty if unknown.

    Format: ``debug/buildinfo`` of Go's library. Raises OSError if the file cannot be read.
    """
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(MAGIC)
        while at >= 0 and (at % 16 or not data[at + 15 : at + 16] or not data[at + 15] & INLINE):
            at = data.find(MAGIC, at + 1)
        if at < 0:
            return ""
        _, at = _text(data, at + HEADER_BYTES)  # Go's own version
        modules, _ = _text(data, at)
    found = re.search(rb"^mod\t([!-~]+)\t([!-~]+)", modules, re.MULTILINE)
    return b" ".join(found.groups()).decode("ascii") if found else ""


def _text(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    """Return the text at ``at``, which begins with its length as a varint, and the offset behind it."""
    size = shift = 0
    for byte in data[at : at + 5]:
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return data[at : at + min(size, MAX_TEXT)], at + size
