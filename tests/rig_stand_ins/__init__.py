"""Stand-ins for rig systems: what HiveOS, mmpOS, RaveOS and SimpleMining do with the files of their archives."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final, Self

WALLET: Final = "qzpFUhjXpZnRCbNr9LW5sAkWmTus52Ffcf31MBpig82u1JArX"
WORKER: Final = "rig1"
WAIT_S: Final = 60.0


class Rig:
    """A rig system with the miner's folder unpacked.

    ``root``: what is ``/`` for the scripts. ``enter``: command that runs another one with ``root`` as ``/``, or empty.
    Then scripts run here, with paths below ``root`` in them.
    """

    def __init__(self, root: Path, folder: str, enter: tuple[str, ...] = (), python: str = "python3") -> None:
        self.root = root
        self.enter = enter
        self.python = python
        self.port = free_port()
        self.home = self.seen("/root")
        self.folder = self.seen(folder)
        self.modules = str(Path(__file__).parent)
        """Where RaveOS's module is."""

    def seen(self, path: str) -> str:
        """``path``, as the scripts see it."""
        return path if self.enter else f"{self.root}{path}"

    def file(self, path: str) -> Path:
        """Where ``path``, as in the archive's scripts, is here."""
        return Path(f"{self.root}{path}")

    def start(self, *command: str, **environ: str) -> Running:
        return Running([*self.enter, "setsid", "-c", *command], self.environ(environ))

    def run(self, *command: str, **environ: str) -> str:
        """Output of a command, which has to succeed and to write nothing to stderr."""
        done = subprocess.run(
            [*self.enter, *command],
            env=self.environ(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def environ(self, more: dict[str, str]) -> dict[str, str]:
        paths = os.pathsep.join([self.modules, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        own = {"HOME": self.home, "PATH": os.environ["PATH"], "PYTHONPATH": paths}
        if not self.enter:
            own["XDG_STATE_HOME"] = os.environ["XDG_STATE_HOME"]  # with the kernels that were measured before
        return own | more


class Running:
    """A process with a terminal of its own, whose output is read as it comes."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._terminal, end = pty.openpty()
        self.process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environ)
        os.close(end)
        self._stop_reading, self._wake = os.pipe()
        self.output = b""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._terminal, self._stop_reading], [], [])
            if self._stop_reading in ready:
                return
            try:
                data = os.read(self._terminal, 65536)
            except OSError:  # nobody has the other end any more
                return
            with self._grown:
                self.output += data
                self._grown.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait until ``text`` is in the output."""
        with self._grown:
            assert self._grown.wait_for(lambda: text.encode() in self.output, WAIT_S), self.output

    def hang_up(self) -> None:
        """Close the terminal, as `screen -X quit` does."""
        if self._terminal >= 0:
            os.write(self._wake, b"x")
            self._reader.join()
            os.close(self._terminal)
            self._terminal = -1

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._terminal, b"\x03")

    def terminate(self) -> None:
        self.process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)
        self.hang_up()
        for file in (self._stop_reading, self._wake):
            os.close(file)


class Pool:
    """A development pool, in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-u", "-m", "quantus_miner", "dev-pool", "--listen=0", "--share-difficulty=2000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.url = self.wait_for(" at stratum+tcp://").split(" at ")[1].strip()

    def wait_for(self, text: str) -> str:
        """The first line from now on with ``text`` in it."""
        assert self.process.stdout is not None
        seen = []
        timer = threading.Timer(WAIT_S, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                seen.append(line)
                if text in line:
                    return line
        finally:
            timer.cancel()
        raise AssertionError(seen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# --- the contracts ---


def hive_configure(rig: Rig, pools: str, extra: str) -> list[str]:
    """Apply a flight sheet; the arguments that it has become."""
    variables = {
        "CUSTOM_URL": pools,
        "CUSTOM_TEMPLATE": f"{WALLET}.{WORKER}",
        "CUSTOM_PASS": "x",
        "CUSTOM_ALGO": "qpow-poseidon2",
        "CUSTOM_USER_CONFIG": extra,
    }
    sheet = "".join(f"{name}={shlex.quote(text)}\n" for name, text in variables.items())
    folder = shlex.quote(rig.folder)
    said = rig.run(
        "bash", "-c", f". {folder}/h-manifest.conf\n{sheet}. {folder}/h-config.sh; cat $CUSTOM_CONFIG_FILENAME"
    )
    return said.splitlines()


def hive_stats(rig: Rig) -> tuple[str, Any]:
    """What HiveOS reads: the hash rate in kH/s, and everything else."""
    said = rig.run("bash", "-c", f'. {shlex.quote(rig.folder)}/h-stats.sh; echo "$khs"; echo "$stats"')
    khs, stats = said.splitlines()
    return khs, json.loads(stats)


def mmp_stats(rig: Rig, gpus: int = 0) -> Any:
    said = rig.run(f"{rig.folder}/mmp-stats.sh", str(gpus), f"{rig.home}/log")
    return json.loads(said)


def rave_task(rig: Rig, pools: list[dict[str, Any]], extra: str, devices: list[dict[str, Any]]) -> dict[str, str]:
    """The environment of start.py and stats.py."""
    config = {
        "auth_config": {"worker": "of-the-task"},
        "coins": [{"pools": pools, "algo": "qpow-poseidon2"}],
        "miner_dir": rig.folder,
        "args": extra,
        "api_port": rig.port,
    }
    stats = {"mpu": devices, "errors": [], "api_port": rig.port}
    return {"RAVINOS_TASK": json.dumps({"config": config, "stats": stats})}


def cgminer(port: int, command: str) -> Any:
    """The reply to one command of cgminer's API."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(json.dumps({"command": command}).encode())
        return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")).rstrip(b"\0"))
