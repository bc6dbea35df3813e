"""What one setting is, and the parsers of its values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from quantus_miner.backends import table
from quantus_miner.errors import SettingError
from quantus_miner.logs import parse_filter

if TYPE_CHECKING:
    from collections.abc import Mapping

FROM_FILES: Final = ("auth_token", "tls_cert_sha256", "api_token", "hub")
"""Settings whose value may be in a file that another setting names."""
CommandName = Literal["serve", "hub"]

Parser = Callable[[str], Any]
"""Converts a text to a value. Raises a ValueError whose text says what is allowed."""


def parse_engines(text: str) -> tuple[str, ...]:
    """Return names of engines, each once."""
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) != len(names) or not set(names) <= set(table.names()):
        raise ValueError(f"one or more of {', '.join(table.names())}, each once, separated by commas")
    return names


def parse_kernel(text: str) -> str:
    """Return the name of a kernel. Parsers raise ValueError that says what is allowed."""
    if not re.fullmatch(r"[a-z0-9_-]{1,32}", text):
        raise ValueError("a kernel name as `quantus-miner devices` lists them")
    return text


def parse_devices(text: str) -> tuple[str, ...]:
    """Return ``all`` alone, or indices and PCI addresses with their domain."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    known = re.compile(r"[0-9]{1,3}|(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
    if names != ("all",) and not all(known.fullmatch(name) for name in names):
        raise ValueError("all, or indices and PCI addresses as `quantus-miner devices` lists them, separated by commas")
    return tuple(f"0000:{name}" if name.count(":") == 1 else name for name in names)


def parse_api_token(text: str) -> str:
    """Return a token that fits into an HTTP header."""
    if not re.fullmatch(r"[!-~]{1,512}", text):
        raise ValueError("1 to 512 printable ASCII characters without spaces")
    return text


def parse_path(text: str) -> Path:
    """Return a path."""
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    return Path(text)


def parse_log_filter(text: str) -> str:
    """Return a log filter, which is valid."""
    parse_filter(text)
    return text


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``default`` is written as a user would write it; None means unset."""

    name: str
    parse: Parser
    default: str | None
    help: str
    metavar: str
    short: str | None = None
    envs: tuple[str, ...] = ()
    secret: bool = False
    many: bool = False
    """True if the flag may be repeated; its texts are joined by commas."""
    switch: bool = False
    """True if the flag takes no value and means ``on``, and its opposite ``--no-…`` means ``off``."""
    applies: Literal["live", "restart"] = "live"
    """When a changed value applies: after a reload of the settings, or after a restart of the service."""

    @property
    def flag(self) -> str:
        """The long flag, ``--metrics-port``."""
        return _flag(self.name)

    @property
    def opposite(self) -> str:
        """The flag that switches it off, ``--no-page``."""
        return f"--no-{self.flag.removeprefix('--')}"

    @property
    def environment(self) -> tuple[str, ...]:
        """Names of the environment variables. The first one that is set and not empty wins."""
        return self.envs or ("MINER_" + self.name.upper(),)


def look_up(
    setting: Setting, flags: Mapping[str, str], environ: Mapping[str, str], file: Mapping[str, str], file_source: str
) -> tuple[str | None, str]:
    """Return the text of a setting and its source. ``flags`` and ``file``: texts by setting name."""
    if setting.name in flags:
        return flags[setting.name], "command line"
    for variable in setting.environment:
        text = environ.get(variable, "")
        if setting.parse is not parse_path:
            # In environment files, systemd keeps a comment after a value. Only a path could contain such a text itself.
            text = re.sub(r"(\s+#|^#\s).*", "", text, flags=re.DOTALL)
        if variable == "STATE_DIRECTORY":
            # systemd separates the folders of StateDirectory= with colons.
            text = text.partition(":")[0]
        if text:
            return text, f"environment variable {variable}"
    if setting.name in file:
        return file[setting.name], file_source
    return setting.default, "default"


def parse_value(setting: Setting, text: str, source: str) -> Any:  # noqa: ANN401 - the table decides the type
    """Return the value in a text. Raises SettingError, which names the setting, ``source`` and what is allowed."""
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "the value" if setting.secret else repr(text[:80])
        raise SettingError(f"{setting.flag}: {shown} ({source}) is not allowed; allowed: {error}") from None


def check(values: Mapping[str, Any], command: CommandName) -> None:
    """Check that the settings of a command that need others have them. Raises SettingError if one is missing."""
    needs = {"node_addr": ("auth_token", "tls_cert_sha256"), "pool": ("wallet",)}
    for name, needed in needs.items():
        for other in needed:
            if values[name] is not None and values[other] is None:
                also = f" or {_flag(other)}-file" if other in FROM_FILES else ""
                raise SettingError(f"{_flag(name)} needs {_flag(other)}{also}")
    if command == "hub":
        _check_hub(values)


def _check_hub(values: Mapping[str, Any]) -> None:
    """Check that a hub has work and can be reached. Raises SettingError if not."""
    if values["node_addr"] is None and values["pool"] is None:
        raise SettingError("the hub needs --node-addr or --pool")
    if all(values[name] is None for name in ("stratum_port", "nats_port", "nats")):
        raise SettingError("the hub needs --stratum-port, --nats-port or --nats")
    if values["nats"] is not None and values["nats_port"] is not None:
        raise SettingError("--nats uses NATS servers that run already, --nats-port starts one; set one of them")
    if values["nats_creds"] is not None and values["nats"] is None:
        raise SettingError("--nats-creds needs --nats")
    if values["stratum_key"] is not None and values["stratum_cert"] is None:
        raise SettingError("--stratum-key needs --stratum-cert")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
