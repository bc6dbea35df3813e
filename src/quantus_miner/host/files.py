"""Read small files without ever waiting, and write them so that they are complete at any moment."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

KINDS: Final = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a pipe, as <(...) of a shell makes it"),
    (stat.S_ISSOCK, "it is a socket"),
    (lambda _: True, "it is a device"),
)


class Content(NamedTuple):
    """The text of a file and its permission bits."""

    text: str
    mode: int


def read(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most ``max_bytes``.

    Never waits: anything but a regular file is refused without opening it. Raises OSError with the reason.
    """
    return _read(path, max_bytes)[0]


def read_text(path: Path, max_bytes: int) -> Content:
    """Return the content as UTF-8 text without its byte-order mark, as ``read``. Raises ValueError with the reason."""
    try:
        data, mode = _read(path, max_bytes)
        return Content(data.decode("utf-8-sig"), stat.S_IMODE(mode))
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


def _read(path: Path, max_bytes: int) -> tuple[bytes, int]:
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {max_bytes:,} bytes")
    return data, mode


def open_regular(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file as ``os.open`` does, and return its descriptor.

    Never waits: anything else is refused without opening it. Raises OSError with the reason.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_kind(os.stat(path).st_mode)  # noqa: PTH116 - as below
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    try:
        _check_kind(os.fstat(descriptor).st_mode)  # the name may belong to something else by now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next(kind for fits, kind in KINDS if fits(mode))
        raise OSError(errno.EINVAL, f"{kind}; it must be a regular file")


def replace(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write ``content`` (text: ASCII) to ``path`` in one step: a reader sees the old file or the new one.

    ``mode``: permission bits, minus those of the umask. Makes the folder if it is missing. Raises OSError.
    """
    temporary = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.unlink(missing_ok=True)  # one that a crash has left may have other permissions
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("ascii") if isinstance(content, str) else content)
            file.flush()
            # Without this, a power failure may leave an empty file under the new name.
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the atomic step, spelled out
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
