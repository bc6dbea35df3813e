"""Set the name and arguments that ps, top and pidof show for this process."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_ARG_START, _ARG_END = 45, 46  # fields 48 and 49 of proc_pid_stat(5), counted behind the name in parentheses
_MAX_NAME: Final = 15


def rename_process(name: str, arguments: Sequence[str]) -> None:
    """Show ``name`` and ``arguments`` instead of the interpreter, its flags and its arguments.

    pidof looks for a command line that begins with the name, but that of an installed script begins with ``python3``.
    Overwrites the memory that /proc/self/cmdline is read from, as programs that set their title do. Changes nothing if
    the kernel does not tell where that memory is, or if it is too small.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
        text = b"".join(part.encode(errors="surrogateescape") + b"\0" for part in (name, *arguments))
        if start and len(text) <= end - start:
            ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
        Path("/proc/self/comm").write_text(name[:_MAX_NAME], encoding="ascii")
