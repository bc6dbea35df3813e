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
"""Of a kept binary; one that is larger is built at each start."""


def cached(folder: Path, target: str, identity: tuple[str, ...], build: Callable[[], bytes]) -> bytes:
    """The binary for ``target`` from ``folder``, or else built and kept there, in place of an older one.

    ``identity``: whatever the binary depends on, the source and the compiler among it. A file that is damaged or of
    something else is built anew.
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
