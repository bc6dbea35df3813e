"""The command ``quantus-miner top``, in the terminal of tmux and without one, with a real miner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import MinerProcess
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = {"job_id": "\x1b]0;steered\x07[red]a", "mining_hash": "00" * 32, "difficulty": str(2**500)}


@pytest.fixture(scope="module")
def miner() -> Iterator[MinerProcess]:
    """A miner of its own, which is idle: the one that other tests share may still have jobs of theirs."""
    with MinerProcess("--port=0", "--workers=1") as own:
        assert own.port
        yield own


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: that of a socket has at most 107 characters."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
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
            terminal.until(rf"^ \S+ \| quantus-miner \S+ \| up [0-9]+ s \| {url}$")
            terminal.until(r"^ mining [0-9.]+ [kM]H/s \| 60 s - ")
            terminal.until(r"^ cpu +cpu-fast +mining +[0-9.]+ [kM]H/s")
            terminal.until(re.escape(r" \x1b]0;steered\x07[red]a  running"))
            assert "steered" not in terminal.call("display", "-p", "#{pane_title}")
            terminal.until("▁")

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
            terminal.until(r" CLOCK +NAME$")
            terminal.until(r"\A(?:.*\n){49}.*\? Help")
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
        assert screen.startswith("quantus-miner: internal error, please report it: ZeroDivisionError: ")
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


# --- without a terminal ---


def run(*args: str, before: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """What the command does, with neither a terminal nor what ``before`` takes away."""
    code = f"import sys\n{before}\nfrom quantus_miner.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environ,
        check=False,
    )


def test_once_prints_the_status_and_needs_no_extra(miner: MinerProcess) -> None:
    without = "sys.modules['textual'] = sys.modules['rich'] = None"
    url = f"http://127.0.0.1:{miner.port}"
    done = run("top", url, "--once", before=without)
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "\nidle 0.00 H/s | ",
        "! no source has work: no node or pool is set; jobs come over HTTP\n",
        "\nDEVICE ",
        "\nWORKER ",
        "\nSOURCE ",
        "\nJOB ",
    ):
        assert part in done.stdout
    refused = run("top", url, before=without)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "quantus-miner: top needs the extra top: pip install 'quantus-miner[top]'; --once works without it\n"
    )


def test_what_top_cannot_do_is_said_in_one_line() -> None:
    needs = "quantus-miner: top needs a terminal that it can draw on; use --once to print the status as text\n"
    both = "quantus-miner: URL and --url are both given; give one of them\n"
    for args, code, said in (
        (("top",), 2, needs),
        (("top", "http://a", "--url=http://b"), 2, both),
        (("top", "rig1:9833"), 2, "'rig1:9833' is not the URL of a miner; allowed: http://HOST:PORT\n"),
        (("top", "--once", "http://127.0.0.1:1"), 1, "no miner answers at http://127.0.0.1:1: Connection refused\n"),
    ):
        done = run(*args)
        assert (done.returncode, done.stdout, done.stderr.endswith(said)) == (code, "", True), done


def test_other_commands_do_not_load_what_draws() -> None:
    code = "import quantus_miner.cli, sys; print({'textual', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
