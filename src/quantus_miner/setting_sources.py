"""Read settings from the environment, a config file, and files that hold one value.

``warn`` is called with each line that the user should see although the setting is valid.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantus_miner.errors import SettingError
from quantus_miner.host.files import Content, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

MAX_CONFIG: Final = 1_000_000
MAX_VALUE_FILE: Final = 4_096
"""Bytes of a config file, and of a file that holds one value."""
EXPOSED: Final = 0o027
"""Permission bits that a file with a secret should not have. Its group may read it, because services get it so."""


def without_service_links(
    environ: Mapping[str, str], variables: Collection[str], warn: Callable[[str], None]
) -> dict[str, str]:
    """Return ``environ`` without what Kubernetes sets for a service named ``miner``: ``MINER_PORT=tcp://10.0.0.7:9833``."""

    def is_link(variable: str) -> bool:
        return variable.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", environ.get(variable, "")) is not None

    links = [variable for variable in variables if is_link(variable)]
    for variable in links:
        warn(
            f"Ignoring {variable}={environ[variable][:80]}: Kubernetes sets it for a service of that name; "
            "enableServiceLinks: false in the pod's spec keeps it from doing so"
        )
    return {variable: text for variable, text in environ.items() if variable not in links}


def read_config(path: Path, secret: Mapping[str, bool], warn: Callable[[str], None]) -> dict[str, str]:
    """Return the texts in the TOML file by setting. Underscores and dashes are the same in names.

    ``secret``: the name of every setting, and whether it is secret. Raises SettingError.
    """
    content = _read(path, "--config", MAX_CONFIG)
    try:
        table = tomllib.loads(content.text)
    except (ValueError, RecursionError) as error:  # tomllib raises more than TOMLDecodeError
        raise SettingError(f"--config: {path} is not valid TOML: {error}") from None
    texts = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in secret:
            raise SettingError(f"--config: {path} has an unknown setting {key!r}; allowed: {', '.join(secret)}")
        items = value if isinstance(value, list) else [value]
        if not all(type(item) is str or (type(item) is int and item.bit_length() <= 64) for item in items):
            raise SettingError(f"--config: {path}: {key} has to be a string, a whole number, or a list of strings")
        texts[name] = ",".join(str(item) for item in items)
    if any(secret[name] for name in texts):
        _check_mode(path, content.mode, "--config", warn)
    return texts


def read_value(path: Path, flag: str, *, secret: bool, warn: Callable[[str], None]) -> str:
    """Return the text of the file that ``flag`` names, without surrounding white space. Raises SettingError."""
    content = _read(path, flag, MAX_VALUE_FILE)
    if secret:
        _check_mode(path, content.mode, flag, warn)
    return content.text.strip()


def _read(path: Path, flag: str, max_bytes: int) -> Content:
    try:
        return read_text(path, max_bytes)
    except ValueError as error:
        raise SettingError(f"{flag}: cannot read {path}: {error}") from None


def _check_mode(path: Path, mode: int, flag: str, warn: Callable[[str], None]) -> None:
    if mode & EXPOSED:
        warn(f"{flag}: other users can read or change {path} (mode {mode:04o}); run: chmod g-w,o= {path}")


def user_state_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's state folder. Raises SettingError if the user has no home folder."""
    base = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117
        return Path(base) / "quantus-miner"
    try:
        return Path.home() / ".local" / "state" / "quantus-miner"
    except RuntimeError:
        raise SettingError(
            "--state-dir must be set: this user has no home folder (HOME is unset, and there is no passwd entry)"
        ) from None
