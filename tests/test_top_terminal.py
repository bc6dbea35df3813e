"""``quantus-miner top`` in a real terminal, that of tmux, with a real miner."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

JOB = {"job_id": "\x1b]0;steered\x07[red]a", "mining_hash": "00" * 32, "difficulty": str(2**500)}
WAIT_S = 30.0


class Terminal:
    """A terminal of 80 x 24 in which Python runs with ``args``. Then its exit code is shown."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._folder = folder
        python = shlex.join([sys.executable, *args])
        script = f"stty -g >{folder}/before; {python}; echo it ended with $?; stty -g >{folder}/after; exec cat"
        environ = {"LC_ALL": "C.UTF-8", "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
        size = ["-x", "80", "-y", "24"]
        subprocess.run([*self._tmux, "new-session", "-d", *size, "sh", "-c", script], check=True, env=environ)

    def call(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, timeout=20).stdout

    def until(self, pattern: str) -> str:
        """The screen once ``pattern`` is on it."""
        end = time.monotonic() + WAIT_S
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: that of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_top_shows_steers_and_outlives_a_miner(folder: Path) -> None:
    def start(port: int) -> MinerProcess:
        return MinerProcess(f"--port={port}", "--workers=1", f"--state-dir={folder}")

    with start(0) as miner:
        port = miner.port
        url = f"http://127.0.0.1:{port}"
        assert miner.call("POST", "/mine", JOB)[0] == 200
        with Terminal(folder, "-m", "quantus_miner", "top", url, f"--state-dir={folder}") as terminal:
            screen = terminal.until(r"^ mining [0-9.]+ [kM]H/s \| 60 s - ")
            assert re.search(rf"^ \S+ \| quantus-miner \S+ \| up [0-9]+ s \| {url}$", screen, re.MULTILINE)
            assert re.search(r"^ cpu +cpu-fast +mining +[0-9.]+ [kM]H/s", screen, re.MULTILINE)
            assert r" \x1b]0;steered\x07[red]a  running" in screen
            assert "steered" not in terminal.call("display", "-p", "#{pane_title}")
            assert "▁" in screen

            terminal.press("p")
            terminal.until(r"^ paused \(user\) ")
            terminal.until("Paused all devices")
            assert miner.call("GET", "/status")[1]["pauses"] == [{"device": None, "reason": "user"}]
            terminal.press("r")
            terminal.until(r"^ mining ")
            terminal.press("Down", "p")
            terminal.until(r"^ cpu +cpu-fast +paused \(user\)")
            assert miner.call("GET", "/status")[1]["pauses"] == [{"device": "cpu", "reason": "user"}]
            terminal.press("r", "h")
            terminal.until(r"^ 0 +cpu +cpu-fast +mining ")

            terminal.resize(200, 50)
            assert len(terminal.until(r" CLOCK +NAME$").splitlines()) == 50
            for size in ((79, 24), (80, 23)):
                terminal.resize(*size)
                terminal.until(f"needs 80 columns and 24 lines; this terminal has.*{size[0]} and {size[1]}")
            terminal.resize(80, 24)
            terminal.until(r"^ WORKER .*HASHES?")

            miner.process.kill()
            terminal.until(rf"^ no miner answers at {url}: Connection refused; these")
            terminal.until(r"figures\s+are [1-9][0-9]* s old")
            terminal.press("a")
            with start(port) as restarted:
                # The job is kept, so the miner goes on with it. There is no notice in the second line.
                terminal.until(r"\A .*\n mining [0-9.]+ [kM]H/s(?:.*\n)*.*  running ")
                terminal.press("q")
                terminal.until("it ended with 0")
                terminal.assert_restored()
                assert restarted.stop() == 0


BROKEN = """
from quantus_miner.client import Client
from quantus_miner.__main__ import main
Client.status = lambda client: 1 / 0
main()
"""


def test_a_bug_is_one_line_and_restores_the_terminal(folder: Path) -> None:
    with Terminal(folder, "-c", BROKEN, "top", "http://127.0.0.1:1") as terminal:
        screen = terminal.until("it ended with 1")
        assert screen.startswith("quantus-miner: internal error, please report it: ZeroDivisionError: division by zero")
        assert "Traceback" not in screen
        terminal.assert_restored()


def test_sigterm_restores_the_terminal(folder: Path) -> None:
    with Terminal(folder, "-m", "quantus_miner", "top", "http://127.0.0.1:1") as terminal:
        terminal.until("no miner answers at http://127.0.0.1:1: Connection refused$")
        shell = terminal.call("display", "-p", "#{pane_pid}").strip()
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        terminal.until("it ended with 0")
        terminal.assert_restored()
