"""The installed service, as far as it can be known from outside: its unit, account, environment and files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import SettingError
from quantus_miner.host import cgroup, cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

UNIT: Final = "quantus-miner.service"
ENV_FILES: Final = ("etc/default/quantus-miner", "etc/sysconfig/quantus-miner")
CREDENTIALS: Final = f"/run/credentials/{UNIT}/"
"""Where systemd puts what it hands over with LoadCredential= while the service runs."""
FILES: Final = {
    "auth-token": "MINER_AUTH_TOKEN_FILE",
    "tls-cert-sha256": "MINER_TLS_CERT_SHA256_FILE",
    "api-token": "MINER_API_TOKEN_FILE",
}
"""Files that the service reads beside its config: flag without --…-file, and environment variable."""
HOMES: Final = ("/root", "/home", "/run/user")
"""What ProtectHome= hides from the service."""


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

    def account(self) -> pwd.struct_passwd | None:
        """The account that the service runs as; None if there is no such account, or for our own user."""
        try:
            return pwd.getpwnam(self.unit.get("User", ""))
        except KeyError:
            return None

    @property
    def has_account(self) -> bool:
        """Whether there is an account to run the service, and so to ask what it may do."""
        return not self.unit.get("User") or self.account() is not None

    def may(self, path: Path, mode: int) -> bool:
        """Whether the account may do with ``path`` what ``mode`` (R_OK, W_OK, X_OK) says."""
        try:
            account = self.account()
            if account is None or account.pw_uid == os.geteuid():
                return os.access(path, mode)
            groups = os.getgrouplist(account.pw_name, account.pw_gid)
            wanted = [(folder, os.X_OK) for folder in path.absolute().parents]
            for place, bits in [*wanted, (path, mode)]:
                status = place.stat()
                shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in groups else 0
                if (status.st_mode >> shift) & bits != bits:
                    return False
        except OSError:
            return False
        return True

    def is_read_only(self, folder: Path) -> bool:
        """Whether the unit's ProtectSystem=strict keeps the service from writing to ``folder``, whoever owns it."""
        writable = self.unit.get("ReadWritePaths", "").split()
        writable += [f"/var/lib/{name}" for name in self.unit.get("StateDirectory", "").split()]
        inside = any(folder.is_relative_to(path.lstrip("-+")) for path in writable)
        return self.unit.get("ProtectSystem") == "strict" and not inside

    def hides(self, path: Path) -> bool:
        """Whether ``path`` is in a home folder, and the unit's ProtectHome= keeps these from the service."""
        real = os.path.realpath(path)
        in_a_home = any(real == home or real.startswith(f"{home}/") for home in HOMES)
        return in_a_home and self.unit.get("ProtectHome") in ("yes", "tmpfs")


def unit_properties() -> dict[str, str]:
    """Those of the installed unit as systemd has them; none without systemd or the unit."""
    names = "LoadState,ActiveState,User,Group,StateDirectory,WorkingDirectory,ExecStart,CPUAffinity,AllowedCPUs"
    names += ",Environment,LoadCredential,ProtectHome,ProtectSystem,ReadWritePaths"
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
    with contextlib.suppress(ValueError):  # systemd's quoting is not quite the shell's
        found = dict(word.partition("=")[::2] for word in shlex.split(unit.get("Environment", "")))
    for name in ENV_FILES:
        for line in (cgroup.read(root / name) or "").splitlines():
            # As systemd reads them: no comment behind a value, quotes around it.
            if match := re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*", line):
                text = match[2]
                found[match[1]] = text[1:-1] if re.fullmatch(r"(['\"]).*\1", text) else text
    if unit.get("StateDirectory"):
        found["STATE_DIRECTORY"] = f"/var/lib/{unit['StateDirectory'].split()[0]}"
    found |= environ
    # As long as the service does not run, what systemd is to hand over is only where it comes from.
    for name, path in credentials(unit).items():
        for variable in FILES.values():
            if found.get(variable) == f"{CREDENTIALS}{name}":
                found[variable] = path
    return found


def credentials(unit: Mapping[str, str]) -> dict[str, str]:
    """The files that systemd hands over to the service, by the names that they get in CREDENTIALS."""
    return dict(part.partition(":")[::2] for part in unit.get("LoadCredential", "").split())


def extra_flags(environ: Mapping[str, str]) -> list[str]:
    """What the unit adds to the service's command line. Raises SettingError where that cannot be split into words."""
    try:
        return shlex.split(environ.get("EXTRA_MINER_FLAGS", ""))
    except ValueError as error:
        raise SettingError(f"EXTRA_MINER_FLAGS: {error}; allowed: flags as on a command line") from None


def service_files(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Path]]:
    """The files that the service is told to read: variable or flag, flag without -- and -file, and path."""
    told = [(variable, name, environ.get(variable, "")) for name, variable in FILES.items()]
    flags = {f"--{name}-file": name for name in FILES} | {"--config": "config"}
    words: list[str] = []
    with contextlib.suppress(SettingError):  # told where the settings are loaded
        words = extra_flags(environ)
    for word, following in pairwise([*words, ""]):
        flag, equals, text = word.partition("=")
        if flag in flags:
            told.append((flag, flags[flag], text if equals else following))
    for told_by, name, text in told:
        if text and "\0" not in text:
            yield told_by, name, Path(text)
