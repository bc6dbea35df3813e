"""Small files that have to be whole at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """Return the content of ``path``. Raises OSError, also if it is no regular file or has more than ``most`` bytes."""
    # Otherwise a FIFO would make us wait for a writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def replace(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text: ASCII) to ``path`` in one step: a reader sees the old file or the new one.

    Makes the folder if it is missing. Raises OSError.
    """
    temporary = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("ascii") if isinstance(content, str) else content)
            file.flush()
            # Or a loss of power may leave the new name with nothing in it.
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the atomic step, spelled out
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
