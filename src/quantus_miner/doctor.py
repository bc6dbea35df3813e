"""``quantus-miner doctor``: looks for what usually goes wrong with the service, and says what to do about it."""

from __future__ import annotations

import ctypes
import grp
import http.client
import os
import pwd
import re
import shlex
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner.engines import create_engines, unavailable_reason
from quantus_miner.errors import MinerError, SettingError
from quantus_miner.host import cgroup, cpus, topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from quantus_miner.settings import Settings

UNIT: Final = "quantus-miner.service"
COMMAND: Final = "/usr/local/bin/quantus-miner"
ENV_FILES: Final = ("etc/default/quantus-miner", "etc/sysconfig/quantus-miner")
SECRETS: Final = ("MINER_AUTH_TOKEN_FILE", "MINER_TLS_CERT_SHA256_FILE", "MINER_API_TOKEN_FILE")
PATIENCE_S: Final = 3.0
"""Seconds that whatever is asked over a network gets to answer."""
TIME_ERROR: Final = 5
"""What adjtimex(2) returns while nothing keeps the clock in time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``advice``: what to do, empty if all is well. ``wrong``: the service suffers from it."""

    about: str
    found: str
    advice: str = ""
    wrong: bool = True

    def lines(self) -> Iterator[str]:
        """For people."""
        verdict = "ok" if not self.advice else "WRONG" if self.wrong else "note"
        yield f"{verdict:5}  {self.about}: {self.found}"
        if self.advice:
            yield f"       {self.advice}"


def _adjtimex() -> int:
    """State of the clock; -1 where the system call is forbidden. With no mode set it only reads."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))


@dataclass(frozen=True)
class Host:
    """What is looked at. ``unit``: properties of the installed unit, empty without one. ``root``: where files are."""

    environ: Mapping[str, str]
    unit: Mapping[str, str] = field(default_factory=dict)
    root: Path = cpus.ROOT
    clock_state: Callable[[], int] = _adjtimex

    def account(self) -> pwd.struct_passwd:
        """Whom the service runs as. Raises KeyError where there is no such account."""
        name = self.unit.get("User", "")
        return pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())

    def may(self, path: Path, mode: int) -> bool:
        """Whether the account may do with ``path`` what ``mode`` (R_OK, W_OK, X_OK) says."""
        try:
            account = self.account()
            if account.pw_uid == os.geteuid():
                return os.access(path, mode)
            groups = os.getgrouplist(account.pw_name, account.pw_gid)
            wanted = [(folder, os.X_OK) for folder in path.absolute().parents]
            for place, bits in [*wanted, (path, mode)]:
                status = place.stat()
                shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in groups else 0
                if (status.st_mode >> shift) & bits != bits:
                    return False
        except (KeyError, OSError):
            return False
        return True


def unit_properties() -> dict[str, str]:
    """Those of the installed unit as systemd has them; none without systemd or the unit."""
    names = "LoadState,ActiveState,User,Group,StateDirectory,WorkingDirectory,ExecStart,CPUAffinity,AllowedCPUs"
    try:
        shown = subprocess.run(  # noqa: S603
            ["systemctl", "show", UNIT, f"--property={names},PrivateDevices"],  # noqa: S607 - the system's own
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    properties = dict(line.partition("=")[::2] for line in shown.splitlines())
    return properties if properties.get("LoadState") == "loaded" else {}


def service_environment(environ: Mapping[str, str], unit: Mapping[str, str], root: Path = cpus.ROOT) -> dict[str, str]:
    """What the service has in its environment, as far as it can be known from here; ``environ`` wins."""
    found: dict[str, str] = {}
    for name in ENV_FILES:
        for line in (cgroup.read(root / name) or "").splitlines():
            # As systemd reads them: no comment behind a value, quotes around it.
            if match := re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*", line):
                text = match[2]
                found[match[1]] = text[1:-1] if re.fullmatch(r"(['\"]).*\1", text) else text
    if unit.get("StateDirectory"):
        found["STATE_DIRECTORY"] = f"/var/lib/{unit['StateDirectory'].split()[0]}"
    return found | dict(environ)


def extra_flags(environ: Mapping[str, str]) -> list[str]:
    """What the unit adds to the service's command line. Raises SettingError where that cannot be split into words."""
    try:
        return shlex.split(environ.get("EXTRA_MINER_FLAGS", ""))
    except ValueError as error:
        raise SettingError(f"EXTRA_MINER_FLAGS: {error}; allowed: flags as on a command line") from None


def examine(host: Host, load: Callable[[], Settings]) -> Iterator[Finding]:
    """All checks, each of which finds one thing or more. ``load`` may raise MinerError."""
    yield from _unit(host)
    yield from _env_files(host)
    yield from _cpus(host)
    yield from _clock(host)
    try:
        settings = load()
    except MinerError as error:
        yield Finding("settings", str(error), "Correct it where the line says that it comes from.")
        return
    yield Finding("settings", "all are well-formed")
    yield from _folder(host, "state folder", settings.state_dir)
    yield from _engine(host, settings)
    yield from _port("job API", settings.bind, settings.port)
    if settings.metrics_port is not None:
        yield from _port("metrics", settings.metrics_bind, settings.metrics_port)
    yield from _sources(settings)


def _unit(host: Host) -> Iterator[Finding]:
    if not host.unit:
        yield Finding("unit", f"systemd does not know {UNIT}", "For a service: sudo make install", wrong=False)
        return
    yield Finding("unit", f"{UNIT} is installed and {host.unit.get('ActiveState', 'in an unknown state')}")
    match = re.search(r"path=(\S+)", host.unit.get("ExecStart", ""))
    command = Path(match[1] if match else COMMAND)
    if (host.root / command.relative_to("/")).is_file() and os.access(host.root / command.relative_to("/"), os.X_OK):
        yield Finding("program", str(command))
    else:
        yield Finding("program", f"{command} is missing or not executable", "sudo make install, or adjust ExecStart=")
    for kind, look_up in (("User", pwd.getpwnam), ("Group", grp.getgrnam)):
        name = host.unit.get(kind, "") or "root"
        try:
            look_up(name)
            yield Finding(kind.lower(), name)
        except KeyError:
            advice = "sudo useradd --system --no-create-home --shell /usr/sbin/nologin quantus, or adjust the unit"
            yield Finding(kind.lower(), f"{name} does not exist", advice)
    folder = Path(host.unit.get("WorkingDirectory", "") or "/")
    # The state folder, which systemd makes, is looked at anyway.
    if str(folder) != f"/var/lib/{host.unit.get('StateDirectory', '')}":
        yield from _folder(host, "working folder", folder)


def _env_files(host: Host) -> Iterator[Finding]:
    for name in ENV_FILES:
        path = host.root / name
        if path.exists() and not os.access(path, os.R_OK):
            yield Finding("settings", f"{path} is not readable for you", "Run this with sudo", wrong=False)
    for variable in SECRETS:
        path = Path(host.environ.get(variable, "") or "/")
        if path.exists() and not host.may(path, os.R_OK):
            yield Finding(variable, f"{path} is not readable for the service", f"chgrp and chmod {path}, or move it")


def _folder(host: Host, about: str, folder: Path) -> Iterator[Finding]:
    if host.may(folder, os.W_OK | os.X_OK):
        yield Finding(about, f"{folder} can be written")
    elif not folder.exists() and str(folder) == f"/var/lib/{host.unit.get('StateDirectory', '')}":
        yield Finding(about, f"{folder}: systemd makes it at the first start")
    elif not folder.exists() and not host.unit and host.may(_nearest(folder), os.W_OK | os.X_OK):
        yield Finding(about, f"{folder}: made when it is needed")
    else:
        advice = f"sudo install -d -o quantus -g quantus {folder}, or leave it to StateDirectory= of the unit"
        yield Finding(about, f"{folder} cannot be written by the service", advice)


def _nearest(folder: Path) -> Path:
    return next((place for place in folder.parents if place.exists()), folder)


def _cpus(host: Host) -> Iterator[Finding]:
    effective = cpus.detect(host.root)
    for warning in effective.warnings:
        yield Finding("CPUs", warning, "Make the affinity (CPUAffinity=, taskset) a part of the cpuset")
    try:
        affinity, allowed = (
            cpus.parse_cpu_list(text.replace(" ", ",")) if (text := host.unit.get(name, "")) else None
            for name in ("CPUAffinity", "AllowedCPUs")
        )
    except ValueError as error:
        yield Finding("CPUs", f"the unit's CPU lists: {error}", "Correct CPUAffinity= and AllowedCPUs= in the drop-in")
        return
    online = effective.cpus | topology.cpu_list(host.root / topology.SYSTEM / "cpu/online")
    there = online if allowed is None else online & allowed
    if affinity is not None and not affinity & there:
        yield Finding(
            "CPUs", "CPUAffinity= of the unit names no CPU it can have", "Change CPUAffinity= or AllowedCPUs="
        )
    elif affinity is not None and allowed is not None and not affinity & online <= allowed:
        outside = sorted(affinity & online - allowed)
        yield Finding("CPUs", f"CPUAffinity= names CPUs {outside} outside AllowedCPUs=", "Change one of the two")
    else:
        count = len(effective.cpus)
        yield Finding(
            "CPUs", f"{effective.count} effective of {count}, {cpus.default_workers(effective.count)} workers"
        )
    if effective.quota is not None and effective.quota < len(effective.cpus):
        found = f"{effective.quota:g} CPUs for {len(effective.cpus)}: the miner is stopped for a part of each period"
        yield Finding(
            "CPU quota", found, "If that is not wanted: CPUQuota= of the unit or of a slice above", wrong=False
        )


def _clock(host: Host) -> Iterator[Finding]:
    state = host.clock_state()
    if state == TIME_ERROR:
        advice = "timedatectl set-ntp true: a wrong clock makes certificates look expired, and logs hard to compare"
        yield Finding("clock", "not synchronised", advice, wrong=False)
    else:
        yield Finding("clock", "synchronised" if state >= 0 else "cannot be asked from inside the service")


def _engine(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.unit.get("PrivateDevices") == "yes" and any(name.startswith("gpu-") for name in settings.engine):
        yield Finding(
            "GPU",
            "the unit hides all devices (PrivateDevices=)",
            "Install the drop-in 30-gpu.conf, as systemd/README.md says",
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            # A folder of its own: what root leaves in the service's could not be replaced by it.
            workers = max(settings.workers or 1, len(settings.engine))
            engines = create_engines(replace(settings, state_dir=Path(folder)), workers)
    except MinerError as error:
        yield Finding("engine", str(error), "`quantus-miner devices` names the engines and kernels that can run here")
        return
    faults = [f"{engine.name} on {engine.device}: {engine.fault}" for engine in engines if engine.fault is not None]
    for fault in faults:
        yield Finding("engine", fault, "The others mine without it; leave it out of --gpu-devices until it is repaired")
    running = dict.fromkeys(engine.name for engine in engines)
    for name in settings.engine:
        if name not in running and (reason := unavailable_reason(name, settings.gpu_devices)) is not None:
            yield Finding("engine", f"{name} is left out: {reason}", "The others mine without it", wrong=False)
    if not faults:
        yield Finding("engine", f"{', '.join(running)} passed the self test")


def _port(about: str, address: str, port: int) -> Iterator[Finding]:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen()
    except OSError as error:
        if _is_a_miner(address, port):
            yield Finding(about, f"a miner answers on {address}:{port}")
        else:
            advice = "ss -ltnp shows who has it; or take another port"
            yield Finding(about, f"cannot listen on {address}:{port}: {error.strerror}", advice)
    else:
        yield Finding(about, f"{address}:{port} is free")


def _is_a_miner(address: str, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - what to connect to for it
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        for path, mark in (("/health", b'"ready"'), ("/metrics", b"miner_effective_cpus")):
            connection.request("GET", path)
            if mark in connection.getresponse().read(1 << 20):
                return True
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    return False


def _sources(settings: Settings) -> Iterator[Finding]:
    ends = [("node", *settings.node_addr, "quic")] if settings.node_addr else []
    ends += [("pool", url.host, url.port, url.scheme) for url in settings.pool or ()]
    for about, name, port, scheme in ends:
        kind = socket.SOCK_DGRAM if scheme == "quic" else socket.SOCK_STREAM
        try:
            family, *_, address = socket.getaddrinfo(name, port, type=kind)[0]
            with socket.socket(family, kind) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect(address)
                if kind is socket.SOCK_DGRAM:
                    _knock(sock)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no resolver can be asked for
            advice = "Is it running? Address, port and firewall have to let this machine through"
            reason = getattr(error, "strerror", None) or error
            yield Finding(about, f"{name}:{port} cannot be reached: {reason}", advice)
        else:
            yield Finding(about, f"{name}:{port} " + ("does not refuse" if scheme == "quic" else "can be reached"))


def _knock(sock: socket.socket) -> None:
    """Raises OSError if the other machine says that nobody listens. QUIC answers to nothing but QUIC."""
    sock.settimeout(0.5)
    sock.send(b"\0")
    try:
        sock.recv(1)
    except TimeoutError:
        return
