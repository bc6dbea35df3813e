"""Bytes of a stream as lines of bounded length. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE: Final = 16_384
"""Bytes of a line, its end not counted."""


class LineTooLongError(ValueError):
    """The peer sent more than MAX_LINE bytes without a line end; the stream cannot be followed any more."""

    def __init__(self) -> None:
        super().__init__(f"a line of more than {MAX_LINE:,} bytes")


class LineSplitter:
    """Holds at most one unfinished line. It does not matter how the bytes are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` completes, without LF or CR LF; empty ones are left out.

        To be read to its end. Raises LineTooLongError, after the lines before it.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > MAX_LINE:
                raise LineTooLongError
            if stripped := line.removesuffix(b"\r"):
                yield stripped
        if len(self._rest) > MAX_LINE:
            raise LineTooLongError
