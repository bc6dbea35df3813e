"""What can be learned about the installed service from outside: its unit, account, environment and files."""

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
"""Where systemd puts the files of LoadCredential= while the service runs."""
FILES: Final = {
    "auth-token": "MINER_AUTH_TOKEN_FILE",
    "tls-cert-sha256": "MINER_TLS_CERT_SHA256_FILE",
    "api-token": "MINER_API_TOKEN_FILE",
}
"""Files that the service reads in addition to its config: flag without -- and -file, and environment variable."""
HOMES: Final = ("/root", "/home", "/run/user")
"""Folders that ProtectHome= hides from the service."""


def _adjtimex() -> int:
    """Return the state of the clock, -1 if the system call is forbidden. With no mode set, it only reads."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))


@dataclass(frozen=True)
class Host:
    """The host to examine. ``unit``: properties of the installed unit, empty without one. ``root``: the root folder."""

    environ: Mapping[str, str]
    unit: Mapping[str, str] = field(default_factory=dict)
    root: Path = cpus.ROOT
    clock_state: Callable[[], int] = _adjtimex

    def account(self) -> pwd.struct_passwd | None:
        """Return the account that the service runs as. None if it does not exist, or if there is no unit."""
        try:
            return pwd.getpwnam(self.unit.get("User", ""))
        except KeyError:
            return None

    @property
    def has_account(self) -> bool:
        """Return True if the account of the service exists, so that its permissions can be checked."""
        return not self.unit.get("User") or self.account() is not None

    def may(self, path: Path, mode: int) -> bool:
        """Return True if the account has access ``mode`` (R_OK, W_OK, X_OK) to ``path``."""
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
        """Return True if the unit's ProtectSystem=strict makes ``folder`` read-only for the service."""
        writable = self.unit.get("ReadWritePaths", "").split()
        writable += [f"/var/lib/{name}" for name in self.unit.get("StateDirectory", "").split()]
        inside = any(folder.is_relative_to(path.lstrip("-+")) for path in writable)
        return self.unit.get("ProtectSystem") == "strict" and not inside

    def hides(self, path: Path) -> bool:
        """Return True if ``path`` is in a home folder and the unit's ProtectHome= hides these from the service."""
        real = os.path.realpath(path)
        in_a_home = any(real == home or real.startswith(f"{home}/") for home in HOMES)
        return in_a_home and self.unit.get("ProtectHome") in ("yes", "tmpfs")


def unit_properties() -> dict[str, str]:
    """Return the properties of the installed unit. Empty without systemd or without the unit."""
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
    """Return the environment of the service as far as it can be read from here. ``environ`` wins."""
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError):  # systemd's quoting differs a little from the shell's
        found = dict(word.partition("=")[::2] for word in shlex.split(unit.get("Environment", "")))
    for name in ENV_FILES:
        for line in (cgroup.read(root / name) or "").splitlines():
            # As in systemd, a value may have quotes around it, but no comment behind it.
            if match := re.fullmatch(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*", line):
                text = match[2]
                found[match[1]] = text[1:-1] if re.fullmatch(r"(['\"]).*\1", text) else text
    if unit.get("StateDirectory"):
        found["STATE_DIRECTORY"] = f"/var/lib/{unit['StateDirectory'].split()[0]}"
    found |= environ
    # While the service does not run, credentials exist only at the paths that systemd will copy them from.
    for name, path in credentials(unit).items():
        for variable in FILES.values():
            if found.get(variable) == f"{CREDENTIALS}{name}":
                found[variable] = path
    return found


def credentials(unit: Mapping[str, str]) -> dict[str, str]:
    """Return the files of LoadCredential=, by their names in CREDENTIALS."""
    return dict(part.partition(":")[::2] for part in unit.get("LoadCredential", "").split())


def extra_flags(environ: Mapping[str, str]) -> list[str]:
    """Return the flags that the unit adds to the command line. Raises SettingError if they cannot be split."""
    try:
        return shlex.split(environ.get("EXTRA_MINER_FLAGS", ""))
    except ValueError as error:
        raise SettingError(f"EXTRA_MINER_FLAGS: {error}; allowed: flags as on a command line") from None


def service_files(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Path]]:
    """Yield the files that the service is told to read: variable or flag, flag without -- and -file, and path."""
    told = [(variable, name, environ.get(variable, "")) for name, variable in FILES.items()]
    flags = {f"--{name}-file": name for name in FILES} | {"--config": "config"}
    words: list[str] = []
    with contextlib.suppress(SettingError):  # reported when the settings are loaded
        words = extra_flags(environ)
    for word, following in pairwise([*words, ""]):
        flag, equals, text = word.partition("=")
        if flag in flags:
            told.append((flag, flags[flag], text if equals else following))
    for told_by, name, text in told:
        if text and "\0" not in text:
            yield told_by, name, Path(text)
