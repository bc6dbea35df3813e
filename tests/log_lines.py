"""What is logged, for tests of logs."""

from __future__ import annotations

import io
import logging
import os
from typing import NoReturn

from quantus_miner import logs

OFF = logging.CRITICAL + 1
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
HOSTILE = "job\r\n<0>forged\x1b[2J\x00\x7f\x85\u2028\u202e\udcff end é"


def logged(log_format: str, message: str = "hello", level: int = logging.INFO, name: str = "miner.http") -> str:
    stream = io.StringIO()
    logs.configure("debug", log_format, stream)
    logging.getLogger(name).log(level, "%s", message)
    return written(stream)


def flush(timeout_s: float = 20) -> bool:
    """Whether all that was logged is written within that time."""
    (handler,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, logs.Handler)]
    return handler._writer.flush(timeout_s)


def written(stream: io.StringIO) -> str:
    assert flush()
    return stream.getvalue()


def fail() -> NoReturn:
    raise RuntimeError(HOSTILE)


def fill(pipe: int) -> int:
    """Fills it to the last byte; how many that are."""
    os.set_blocking(pipe, False)
    size = 0
    try:
        while True:
            size += os.write(pipe, bytes(4096))
    except BlockingIOError:
        os.set_blocking(pipe, True)
        return size
