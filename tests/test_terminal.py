"""The keys of a terminal: the real service on a pseudoterminal, in the foreground and not, and how it leaves it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from .conftest import MinerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 30.0
WALLET = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"
SERVICE = ("-m", "quantus_miner", "--port=0", "--workers=1")

LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes the terminal that of the session, and becomes another program."""
SHELL = """
import os, signal, subprocess, sys
commands, answers, command, *args = sys.argv[1:]
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
miner = subprocess.Popen([sys.executable, *args], process_group=0)
if command == "fg":
    os.tcsetpgrp(0, miner.pid)
control = os.fdopen(int(commands))
while True:
    if command == "fg":
        _, status = os.waitpid(miner.pid, os.WUNTRACED)
        os.tcsetpgrp(0, os.getpgrp())
        if not os.WIFSTOPPED(status):
            os.write(int(answers), b"ended %d\\n" % os.waitstatus_to_exitcode(status))
            break
        os.write(int(answers), b"stopped\\n")
    command = control.readline().strip()
    if command == "bg":
        os.killpg(miner.pid, signal.SIGCONT)
    else:  # as a shell does with a job that runs: no SIGCONT
        os.tcsetpgrp(0, miner.pid)
"""
"""What an interactive shell does with a job. It gets commands over one descriptor and answers over another."""


class OnTerminal:
    """A program that leads a session on a terminal of its own, and the one who sits there."""

    def __init__(self, *args: str, job: str = "") -> None:
        """``job``: make it a job of a shell, in the foreground (fg) or background (bg)."""
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("MINER_")}
        environ |= {"MINER_STATE_DIR": tempfile.mkdtemp(dir=os.environ["XDG_STATE_HOME"]), "TERM": "xterm"}
        environ.pop("NO_COLOR", None)
        commands, control = os.pipe()
        told, answers = os.pipe()
        if job:
            args = ("-c", SHELL, str(commands), str(answers), job, *args)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEAD, *args],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environ,
            start_new_session=True,
            pass_fds=(commands, answers),
        )
        os.close(commands)
        os.close(answers)
        self.control, self.told = os.fdopen(control, "w"), os.fdopen(told)

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def see(self, pattern: str) -> re.Match[str]:
        """Waits until the terminal shows ``pattern``; what came before it is forgotten."""
        end = time.monotonic() + WAIT_S
        while (found := re.search(pattern, self.shown)) is None:
            assert select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0], self.shown
            self.shown += os.read(self.master, 65_536).decode()
        self.shown = self.shown[found.end() :]
        return found

    def say(self, command: str) -> None:
        """To the shell."""
        self.control.write(f"{command}\n")
        self.control.flush()

    def hear(self) -> str:
        """From the shell."""
        return self.told.readline().strip()

    def end(self) -> int:
        """Waits for the end; the exit code."""
        while self.process.poll() is None:
            # Somebody has to read: the process waits for what it has written.
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65_536).decode()
        return self.process.wait(WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait(WAIT_S)
        self.control.close()
        self.told.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def pool() -> Iterator[str]:
    """The URL of a development pool."""
    args = ("dev-pool", "--listen=0", "--share-difficulty=2000", "--share-time=1")
    with subprocess.Popen(
        [sys.executable, "-m", "quantus_miner", *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" at ")[1].strip()
        finally:
            process.kill()


def in_pool(url: str) -> tuple[str, ...]:
    return (*SERVICE, f"--pool={url}", f"--wallet={WALLET}", "--worker-name=rig")


def test_every_key_is_answered_and_q_ends_in_order(pool: str) -> None:
    address = re.escape(pool.partition("://")[2])
    with OnTerminal(*in_pool(pool)) as terminal:
        terminal.see(rf"new job from {address} diff 2\.0k\x1b\[0m")
        terminal.see(rf"\x1b\[32maccepted \(1/0\) diff 2\.0k \d+ ms {address}\x1b\[0m")
        terminal.press("h")
        terminal.see(r"miner: speed 10s/60s/15m \S+ \S+ n/a \S*H/s")
        terminal.press("s")
        terminal.see(r"miner: shares \d+/\d+/\d+ \| up \d+ s")
        terminal.see(rf"miner: pool stratum\+tcp://{address}: mined, .*shares \d+/\d+/\d+, late \d+, luck \d+ %")
        terminal.see(r"miner: job API: 0 jobs running, 0 ended")
        terminal.press("C")  # with Caps Lock
        terminal.see(
            rf"miner: pool stratum\+tcp://{address}: connected for \d+ s, last job .* ago, diff .*latency \d+ ms"
        )
        terminal.press("p")
        terminal.see(r"\x1b\[33mpaused \(user\)\x1b\[0m")
        terminal.press("p")
        terminal.see("miner: Already paused by the user")
        terminal.press("r")
        terminal.see(r"resumed \(user\)")
        terminal.press("r")
        terminal.see("miner: Not paused by the user")
        for other in ("x", "\x1b[A", "pasted text with a q in it"):
            terminal.press(other)
            terminal.see("miner: Keys: h hash rate, p pause, r resume, ")
        terminal.press("q")
        terminal.see("miner: Received SIGTERM: stopping")
        terminal.see(r"miner: Stopped: \d+ hashes, \d+ solutions in \d+ s, .*H/s on average \| shares \d+/\d+/\d+")
        assert terminal.end() == 0
        assert terminal.modes == terminal.before


def test_the_terminal_is_as_before_after_sigterm_and_ctrl_c() -> None:
    for end in (signal.SIGTERM, None):
        with OnTerminal(*SERVICE) as terminal:
            terminal.press("c")
            terminal.see("no node or pool is set; jobs come over HTTP")
            assert not terminal.modes[3] & (termios.ICANON | termios.ECHO)
            if end is None:
                terminal.press("\x03")
            else:
                terminal.process.send_signal(end)
            assert terminal.end() == 0
            assert terminal.modes == terminal.before


def test_the_terminal_is_as_before_if_the_console_could_not_be_stopped() -> None:
    patch = "from quantus_miner.parts.console import Console\nasync def stop(_): 1 / 0\nConsole.stop = stop"
    run = "import sys; sys.argv[1:] = ['--port=0', '--workers=1']; from quantus_miner.cli import main; main()"
    with OnTerminal("-c", f"{patch}\n{run}") as terminal:
        terminal.press("c")
        terminal.see("jobs come over HTTP")
        terminal.press("q")
        assert terminal.end() == 0
        assert "Stopping the console has failed" in terminal.shown
        assert terminal.modes == terminal.before


def test_a_job_of_a_shell_is_stopped_and_goes_on() -> None:
    with OnTerminal(*SERVICE, job="fg") as terminal:
        terminal.press("c")
        terminal.see("jobs come over HTTP")
        terminal.press("\x1a")  # Ctrl-Z
        assert terminal.hear() == "stopped"
        assert terminal.modes == terminal.before
        terminal.say("bg")
        # It is in the background, where it must neither read nor change the terminal.
        terminal.see("idle: no source has work")
        terminal.press("s")
        assert terminal.modes == terminal.before
        terminal.say("fg")
        terminal.see("miner: up ")  # the key that waited
        assert not terminal.modes[3] & termios.ICANON
        terminal.press("\x1a")
        assert terminal.hear() == "stopped"
        terminal.say("bg")
        terminal.say("fg")
        terminal.press("q")
        assert terminal.hear() == "ended 0"
        assert terminal.modes == terminal.before


def test_a_job_that_starts_in_the_background_reads_keys_once_it_is_in_the_foreground() -> None:
    with OnTerminal(*SERVICE, job="bg") as terminal:
        terminal.press("c")
        terminal.see("Server starting on ")
        terminal.see("idle: no source has work")
        assert terminal.modes == terminal.before
        terminal.say("fg")
        terminal.see("miner: no node or pool is set")
        terminal.press("q")
        assert terminal.hear() == "ended 0"
        assert terminal.modes == terminal.before


def test_without_a_shell_ctrl_z_does_not_stop_it() -> None:
    """Its process group is orphaned, as in a container: nobody could make it go on."""
    with OnTerminal(*SERVICE) as terminal:
        terminal.press("c")
        terminal.see("jobs come over HTTP")
        terminal.press("\x1a")
        terminal.press("c")
        terminal.see("jobs come over HTTP")
        terminal.press("q")
        assert terminal.end() == 0


def test_without_a_terminal_there_are_no_keys_and_no_colours(pool: str) -> None:
    with MinerProcess(*in_pool(pool)[2:], TERM="xterm") as miner:
        miner.wait_for_line("accepted (1/0) diff 2.0k ")
        assert miner.stop() == 0
    assert not [line for line in miner.log if "\x1b" in line]
    assert re.search(
        r" INFO miner\.live: new job from 127\.0\.0\.1:\d+ diff 2\.0k$", "\n".join(miner.log), re.MULTILINE
    )


def test_a_terminal_for_input_alone_is_left_alone(tmp_path: Path) -> None:
    """The answers would go elsewhere."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    run = f"exec {sys.executable} -m quantus_miner --port=0 --workers=1 2>{fifo}"
    with OnTerminal("-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {run!r}])") as terminal:
        with fifo.open() as log:
            assert any("idle: " in line for line in log)
        assert terminal.modes == terminal.before
        terminal.process.terminate()
        assert terminal.end() == 0
