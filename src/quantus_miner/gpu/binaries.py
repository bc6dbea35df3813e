"""Compiled kernels, kept in the state folder: compiling takes seconds at each start."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Final

from quantus_miner.host import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("miner.gpu")

MAX_BYTES: Final = 64 * 2**20
"""Bytes of the largest binary that is kept. A larger one is built at each start."""


def cached(folder: Path, target: str, identity: tuple[str, ...], build: Callable[[], bytes]) -> bytes:
    """Return the binary for ``target`` from ``folder``, or build it and keep it there in place of an older one.

    ``identity``: everything that the binary depends on, such as the source and the compiler. A file that is damaged
    or has another identity is built again.
    """
    path = folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', target)[:100]}.bin"
    wanted = "\0".join(identity).encode()
    try:
        kept = files.read(path, MAX_BYTES)
    except OSError:
        kept = b""
    digest, binary = kept[:32], kept[32:]
    if hashlib.sha256(wanted + binary).digest() == digest:
        return binary
    binary = build()
    try:
        files.replace(path, hashlib.sha256(wanted + binary).digest() + binary)
    except OSError as error:
        log.debug("Cannot keep the compiled kernel in %s: %s; it is compiled at each start", path, error)
    return binary
