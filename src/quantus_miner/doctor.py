"""``quantus-miner doctor``: check for common faults of the service, and say what to do about them."""

from __future__ import annotations

import contextlib
import grp
import http.client
import os
import pwd
import re
import socket
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from quantus_miner.backends import table
from quantus_miner.backends.registry import create_engines, unavailable_reason
from quantus_miner.errors import MinerError
from quantus_miner.host import cpus, topology
from quantus_miner.host.deadline import within
from quantus_miner.sources.addresses import LookUpError, resolve
from quantus_miner.unit import ENV_FILES, FILES, UNIT, credentials, service_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from quantus_miner.settings import Settings
    from quantus_miner.unit import Host

COMMAND: Final = "/usr/local/bin/quantus-miner"
HIDDEN: Final = "the service sees no home folders (ProtectHome=)"
CONNECT_TIMEOUT_S: Final = 3.0
"""Seconds to wait for each address of a live source, and for each reply on a port."""
LOOKUP_TIMEOUT_S: Final = 10.0
TIME_ERROR: Final = 5
"""Return value of adjtimex(2) while nothing synchronises the clock."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check. ``advice``: what to do, empty if there is nothing to do. ``wrong``: it affects the service."""

    about: str
    found: str
    advice: str = ""
    wrong: bool = True

    @property
    def verdict(self) -> Literal["ok", "note", "wrong"]:
        """Whether there is something to do, and whether it affects the service."""
        return "ok" if not self.advice else "wrong" if self.wrong else "note"

    def lines(self) -> Iterator[str]:
        """Yield the lines to print."""
        shown = "WRONG" if self.verdict == "wrong" else self.verdict
        yield f"{shown:5}  {self.about}: {self.found}"
        for line in self.advice.splitlines():
            yield f"       {line}"


class FindingEntry(msgspec.Struct, frozen=True):
    """A finding as ``--json`` prints it. ``advice``: one or more lines, empty if there is nothing to do."""

    verdict: Literal["ok", "note", "wrong"]
    about: str
    found: str
    advice: str


class DoctorReport(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    findings: list[FindingEntry]


def report(findings: Iterable[Finding]) -> DoctorReport:
    """Return the findings as ``--json`` prints them."""
    return DoctorReport([FindingEntry(each.verdict, each.about, each.found, each.advice) for each in findings])


def examine(host: Host, load: Callable[[], Settings]) -> Iterator[Finding]:
    """Run all checks and yield what they find, at least one finding each. ``load`` may raise MinerError."""
    yield from _unit(host)
    yield from _files(host)
    yield from _cpus(host)
    yield from _clock(host)
    try:
        settings = load()
    except MinerError as error:
        ours = all(os.access(path, os.R_OK) for *_, path in service_files(host.environ))
        advice = "Correct the setting at the place that the line names"
        yield Finding(
            "settings",
            str(error),
            advice if ours or os.geteuid() == 0 else "Run this with sudo",
            wrong=ours or os.geteuid() == 0,
        )
        return
    yield Finding("settings", "all are well-formed")
    yield from _folder(host, "state folder", settings.state_dir)
    yield from _engine(host, settings)
    yield from _workers(host, settings)
    yield from _port("job API", settings.bind, settings.port)
    if settings.metrics_port is not None:
        yield from _port("metrics", settings.metrics_bind, settings.metrics_port)
    yield from _sources(settings)


def examine_running(host: Host, settings: Settings) -> Iterator[Finding]:
    """Run the checks that neither disturb a miner that runs with ``settings`` nor concern only its start."""
    yield from _cpus(host)
    yield from _clock(host)
    yield from _folder(host, "state folder", settings.state_dir)
    yield from _workers(host, settings)


def _unit(host: Host) -> Iterator[Finding]:
    if not host.unit:
        yield Finding("unit", f"systemd does not know {UNIT}", "For a service: sudo make install", wrong=False)
        return
    yield Finding("unit", f"{UNIT} is installed and {host.unit.get('ActiveState', 'in an unknown state')}")
    match = re.search(r"path=(\S+)", host.unit.get("ExecStart", ""))
    command = Path(match[1] if match else COMMAND)
    if host.hides(command):
        advice = "sudo make install puts it into /opt; or install it anywhere outside of /root and /home"
        yield Finding("program", f"{command}: {HIDDEN}", advice)
    elif (host.root / command.relative_to("/")).is_file() and os.access(host.root / command.relative_to("/"), os.X_OK):
        yield Finding("program", str(command))
    else:
        yield Finding("program", f"{command} is missing or not executable", "sudo make install, or adjust ExecStart=")
    for kind, look_up in (("User", pwd.getpwnam), ("Group", grp.getgrnam)):
        name = host.unit.get(kind, "") or "root"
        try:
            look_up(name)
            yield Finding(kind.lower(), name)
        except KeyError:
            add = (
                "useradd --system --no-create-home --shell /usr/sbin/nologin" if kind == "User" else "groupadd --system"
            )
            yield Finding(kind.lower(), f"{name} does not exist", f"sudo {add} {name}, or adjust the unit")
    folder = Path(host.unit.get("WorkingDirectory", "") or "/")
    # The state folder, which systemd makes, is checked separately.
    if str(folder) != f"/var/lib/{host.unit.get('StateDirectory', '')}":
        yield from _folder(host, "working folder", folder)


def _files(host: Host) -> Iterator[Finding]:
    for name in ENV_FILES:
        path = host.root / name
        if path.exists() and not os.access(path, os.R_OK):
            yield Finding("settings", f"{path} is not readable for you", "Run this with sudo", wrong=False)
    for told_by, name, path in service_files(host.environ):
        if str(path) in credentials(host.unit).values():
            if os.geteuid() == 0 and not os.path.isfile(path):  # noqa: PTH113 - raises nothing
                yield Finding(told_by, f"{path}, which systemd hands over, is not there", "Correct LoadCredential=")
            continue
        if host.hides(path):
            yield Finding(told_by, f"{path}: {HIDDEN}", _hand_over(told_by, name, path))
        elif host.has_account and os.path.lexists(path) and not host.may(path, os.R_OK):
            yield Finding(told_by, f"{path} is not readable for the service", _hand_over(told_by, name, path))


def _hand_over(told_by: str, name: str, path: Path) -> str:
    """Return how to make ``path`` readable for the service."""
    if name == "config":
        return f"Move it to where every account can read it, such as /etc/{path.name}"
    return "\n".join(
        [
            f"Let systemd hand it over: sudo systemctl edit {UNIT}, with the lines",
            "  [Service]",
            f"  LoadCredential={name}:{path}",
            f"  Environment={FILES[name]}=%d/{name}",
            f"and take {told_by} out of {' and '.join(f'/{file}' for file in ENV_FILES)}, which win over them",
        ]
    )


def _folder(host: Host, about: str, folder: Path) -> Iterator[Finding]:
    own = f"/var/lib/{host.unit.get('StateDirectory', '')}"
    if not host.has_account:
        return  # reported before; without the account, permissions cannot be checked
    if host.hides(folder):
        yield Finding(about, f"{folder}: {HIDDEN}", "Leave it to StateDirectory= of the unit")
    elif host.may(folder, os.W_OK | os.X_OK):
        if about == "state folder" and host.is_read_only(folder):
            advice = f"Leave it to StateDirectory= of the unit, or put ReadWritePaths={folder} into a drop-in"
            yield Finding(about, f"{folder} is read-only for the service (ProtectSystem=strict)", advice)
        else:
            yield Finding(about, f"{folder} can be written")
    elif not os.path.lexists(folder) and str(folder) == own:
        yield Finding(about, f"{folder}: systemd makes it at the first start")
    elif not os.path.lexists(folder) and not host.unit and host.may(_nearest(folder), os.W_OK | os.X_OK):
        yield Finding(about, f"{folder}: made when it is needed")
    else:
        user, group = (host.unit.get(name) or "quantus" for name in ("User", "Group"))
        advice = f"sudo install -d -o {user} -g {group} {folder}, or leave it to StateDirectory= of the unit"
        yield Finding(about, f"{folder} cannot be written by the service", advice)


def _nearest(folder: Path) -> Path:
    return next((place for place in folder.parents if os.path.lexists(place)), folder)


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
            "CPUs",
            "CPUAffinity= of the unit names no CPU that the service may use",
            "Change CPUAffinity= or AllowedCPUs=",
        )
    elif affinity is not None and allowed is not None and not affinity & online <= allowed:
        outside = sorted(affinity & online - allowed)
        yield Finding("CPUs", f"CPUAffinity= names CPUs {outside} outside AllowedCPUs=", "Change one of the two")
    else:
        yield Finding("CPUs", f"{effective.count} effective of {len(effective.cpus)}")
    if effective.quota is not None and effective.quota < len(effective.cpus):
        found = f"{effective.quota:g} CPUs for {len(effective.cpus)}: the miner is stopped for a part of each period"
        yield Finding(
            "CPU quota",
            found,
            "If this is not intended, change CPUQuota= of the unit or of a slice above it",
            wrong=False,
        )


def _workers(host: Host, settings: Settings) -> Iterator[Finding]:
    """Find out how many CPU workers the service will have, from its settings and the CPUs that its unit allows."""
    effective = cpus.detect(host.root)
    usable = effective.cpus
    for name in ("CPUAffinity", "AllowedCPUs"):
        with contextlib.suppress(ValueError):  # reported by _cpus
            usable &= cpus.parse_cpu_list(host.unit.get(name, "").replace(" ", ",")) or usable
    count = max(1, min(len(usable), effective.count))
    asked = settings.workers or cpus.default_workers(count)
    workers = min(asked, count)
    found = (
        f"{workers} {'worker' if workers == 1 else 'workers'} on {count} effective {'CPU' if count == 1 else 'CPUs'}"
    )
    if asked > count:
        yield Finding("workers", f"{found}, {asked} are set", "There cannot be more workers than CPUs", wrong=False)
    else:
        yield Finding("workers", f"{found}, {'as set' if settings.workers else 'none are set'}")


def _clock(host: Host) -> Iterator[Finding]:
    state = host.clock_state()
    if state == TIME_ERROR:
        advice = "timedatectl set-ntp true: a wrong clock makes certificates look expired, and logs hard to compare"
        yield Finding("clock", "not synchronised", advice, wrong=False)
    else:
        yield Finding("clock", "synchronised" if state >= 0 else "cannot be read from inside the service")


def _engine(host: Host, settings: Settings) -> Iterator[Finding]:
    if host.unit.get("PrivateDevices") == "yes" and any(table.find(name).kind == "gpu" for name in settings.engine):
        yield Finding(
            "GPU",
            "the unit hides all devices (PrivateDevices=)",
            "Install the drop-in 30-gpu.conf, as systemd/README.md says",
        )
    try:
        with _scratch() as folder:
            # Not the service's own folder: the service could not replace files that root leaves there.
            workers = max(settings.workers or 1, len(settings.engine))
            engines = create_engines(replace(settings, state_dir=folder), workers)
    except MinerError as error:
        yield Finding("engine", str(error), "`quantus-miner devices` names the engines and kernels that can run here")
        return
    seen = [(engine.name, engine.status()) for engine in engines]
    faults = [f"{name} on {status.device}: {status.fault}" for name, status in seen if status.fault is not None]
    for fault in faults:
        yield Finding("engine", fault, "The others mine without it; leave it out of --gpu-devices until it is repaired")
    running = dict.fromkeys(engine.name for engine in engines)
    for name in settings.engine:
        if name not in running and (reason := unavailable_reason(name, settings.gpu_devices)) is not None:
            yield Finding("engine", f"{name} is left out: {reason}", "The others mine without it", wrong=False)
    if not faults:
        yield Finding("engine", f"{', '.join(running)} passed the self test")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Make a temporary folder. If that fails, yield a path that cannot be written; engines cope with that."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        except OSError:
            folder = os.devnull
        yield Path(folder)


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
            advice = "ss -ltnp shows which process uses it; or choose another port"
            yield Finding(about, f"cannot listen on {address}:{port}: {error.strerror}", advice)
    else:
        yield Finding(about, f"{address}:{port} is free")


def _is_a_miner(address: str, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - what to connect to for it
    for path, mark in (("/health", b'"ready"'), ("/metrics", b"miner_effective_cpus")):
        with contextlib.suppress(OSError, http.client.HTTPException):
            if mark in within(CONNECT_TIMEOUT_S, partial(_get, host, port, path)):
                return True
    return False


def _get(host: str, port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.read(1 << 20)


def _sources(settings: Settings) -> Iterator[Finding]:
    ends = [("node", *settings.node_addr, "quic")] if settings.node_addr else []
    ends += [("pool", url.host, url.port, url.scheme) for url in settings.pool or ()]
    for about, name, port, scheme in ends:
        kind = socket.SOCK_DGRAM if scheme == "quic" else socket.SOCK_STREAM
        reasons = []
        try:
            found = within(LOOKUP_TIMEOUT_S, partial(resolve, name, port, kind))
        except (LookUpError, TimeoutError) as error:
            found = []
            reasons.append(str(error).removeprefix(f"{name}: "))
        for family, address in found:
            if (reason := _unreachable(family, kind, address)) is None:
                said = "does not refuse" if scheme == "quic" else "can be reached"
                yield Finding(about, "; ".join([f"{name}:{port} {said}", *(f"not {reason}" for reason in reasons)]))
                break
            reasons.append(reason if address[0] == name else f"{address[0]}: {reason}")
        else:
            advice = "Check that it runs, and that address, port and firewall are right"
            yield Finding(about, f"{name}:{port} cannot be reached: {'; '.join(reasons)}", advice)


def _unreachable(family: int, kind: int, address: Any) -> str | None:  # noqa: ANN401 - as the resolver gives it
    """Return why this address cannot be reached, None if it can."""
    try:
        with socket.socket(family, kind) as sock:
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(address)
            if kind == socket.SOCK_DGRAM:
                _knock(sock)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _knock(sock: socket.socket) -> None:
    """Raise OSError if the other machine reports that nothing listens. A QUIC server does not reply to this packet."""
    sock.settimeout(0.5)
    sock.send(b"\0")
    try:
        sock.recv(1)
    except TimeoutError:
        return
