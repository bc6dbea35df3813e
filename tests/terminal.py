"""A real terminal for programs under test: that of tmux, or a bare one."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 30.0


def press_when_drawn(command: list[str], drawn: str, key: str) -> int:
    """Run a command in a terminal of 80 x 24, and press a key once ``drawn`` is there. Returns the exit code."""
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 80))
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside) as process:
        os.close(inside)
        printed = b""
        with contextlib.suppress(OSError):  # the end of what it prints
            while drawn.encode() not in printed:
                printed += os.read(terminal, 65536)
            os.write(terminal, key.encode())
            while os.read(terminal, 65536):
                pass
    os.close(terminal)
    return process.returncode


class Terminal:
    """A terminal of 80 x 24 in which Python runs with ``args``. Then its exit code is shown."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._folder = folder
        python = shlex.join([sys.executable, *args])
        script = (
            f"stty -g >{folder}/before; {python}; code=$?; stty -g >{folder}/after; echo it ended with $code; exec cat"
        )
        environ = {"LC_ALL": "C.UTF-8", "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
        size = ["-x", "80", "-y", "24"]
        subprocess.run([*self._tmux, "new-session", "-d", *size, "sh", "-c", script], check=True, env=environ)

    def call(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, timeout=20).stdout

    def until(self, pattern: str, timeout_s: float = WAIT_S) -> str:
        """The screen once ``pattern`` is on it."""
        end = time.monotonic() + timeout_s
        while not re.search(pattern, screen := self.call("capture-pane", "-p"), re.MULTILINE):
            assert time.monotonic() < end, f"{pattern!r} is not on the screen:\n{screen}"
        return screen

    def press(self, *keys: str) -> None:
        self.call("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self.call("resize-window", "-x", str(width), "-y", str(height))

    def assert_restored(self) -> None:
        """It shows what it did before, with a cursor, without the mouse, and with the modes of before."""
        assert self.call("display", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}") == "0 1 0\n"
        assert (self._folder / "before").read_text() == (self._folder / "after").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("kill-server")
