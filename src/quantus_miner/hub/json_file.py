"""A file of JSON in the hub's state folder, which another process may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from quantus_miner.errors import MinerError
from quantus_miner.host import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


class JsonFile(Generic[T]):
    """``kind``: the type of its content. ``most``: bytes of it. ``remedy``: what to do once it was removed.

    ``check``: raises ValueError if the content is not valid.
    """

    def __init__(
        self, path: Path, kind: object, most: int, remedy: str, check: Callable[[T], None] = lambda _: None
    ) -> None:
        self.path = path
        self._kind = kind
        self._most = most
        self._remedy = remedy
        self._check = check

    def load(self) -> T | None:
        """Return the content, None if there is no file. Raises MinerError if it cannot be read."""
        try:
            content: T = msgspec.json.decode(files.read(self.path, self._most), type=self._kind)
            self._check(content)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MinerError(f"cannot read {self.path}: {error.strerror}") from None
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            raise MinerError(f"cannot read {self.path}: {error}; remove it and {self._remedy}") from None
        return content

    def stamp(self) -> int:
        """Return a number that changes with the file, 0 if there is none."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def write(self, content: T, *, indent: int = 2) -> None:
        """Replace the file. ``indent``: spaces; -1: all in one line. Raises MinerError."""
        try:
            files.replace(self.path, msgspec.json.format(msgspec.json.encode(content), indent=indent), 0o600)
        except OSError as error:
            raise MinerError(f"cannot write {self.path}: {error.strerror}") from None
