"""Small files that have to be whole at any moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def replace(path: Path, content: str | bytes) -> None:
    """Writes ``content`` (text: ASCII) to ``path`` in one step: a reader sees the old file or the new one.

    Makes the folder where it is missing. Raises OSError.
    """
    temporary = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content.encode("ascii") if isinstance(content, str) else content)
    os.replace(temporary, path)  # noqa: PTH105 - the atomic step, spelled out
