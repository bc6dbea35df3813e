"""The table of settings, which defines the flags, the environment variables and the keys of the config file.

Precedence: flag, environment, file, default. An empty environment value counts as unset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from quantus_miner import units
from quantus_miner.backends import table
from quantus_miner.backends.backend import EngineOptions
from quantus_miner.errors import SettingError
from quantus_miner.host.cpus import LARGEST_CPU
from quantus_miner.logs import parse_filter
from quantus_miner.schedule import Schedule, parse_schedule
from quantus_miner.setting_sources import read_config, read_value, user_state_dir, without_service_links
from quantus_miner.wire.address import parse_wallet, parse_worker
from quantus_miner.wire.hosts import parse_names
from quantus_miner.wire.messages import parse_fingerprint, parse_token
from quantus_miner.wire.pool_url import PoolUrl, parse_pool_urls

LOG_FORMATS: Final = ("auto", "text", "journald", "json")
PRIORITIES: Final = ("live", "equal", "http")
U64: Final = 2**64 - 1

Parser = Callable[[str], Any]
"""Converts a text to a value. Raises a ValueError whose text says what is allowed."""


def _engines(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) != len(names) or not set(names) <= set(table.names()):
        raise ValueError(f"one or more of {', '.join(table.names())}, each once, separated by commas")
    return names


def _word(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,32}", text):
        raise ValueError("a kernel name as `quantus-miner devices` lists them")
    return text


def _devices(text: str) -> tuple[str, ...]:
    """Return ``all`` alone, or indices and PCI addresses with their domain."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    known = re.compile(r"[0-9]{1,3}|(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
    if names != ("all",) and not all(known.fullmatch(name) for name in names):
        raise ValueError("all, or indices and PCI addresses as `quantus-miner devices` lists them, separated by commas")
    return tuple(f"0000:{name}" if name.count(":") == 1 else name for name in names)


def _token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,512}", text):
        raise ValueError("1 to 512 printable ASCII characters without spaces")
    return text


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    return Path(text)


def _filter(text: str) -> str:
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
        return "--" + self.name.replace("_", "-")

    @property
    def opposite(self) -> str:
        """The flag that switches it off, ``--no-page``."""
        return f"--no-{self.flag.removeprefix('--')}"

    @property
    def environment(self) -> tuple[str, ...]:
        """Names of the environment variables. The first one that is set and not empty wins."""
        return self.envs or ("MINER_" + self.name.upper(),)


SETTINGS: Final = (
    Setting(
        "port",
        units.integer(0, 65535),
        "9833",
        "TCP port of the job API; 0 takes a free one.",
        "PORT",
        short="-p",
        applies="restart",
    ),
    Setting(
        "bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that the job API listens on.",
        "ADDRESS",
        applies="restart",
    ),
    Setting(
        "page", units.choice("off", "on"), "on", "Serve the page at / on the port of the job API.", "", switch=True
    ),
    Setting("allowed_hosts", parse_names, None, "More host names under which clients reach the miner.", "NAME[,NAME]"),
    Setting("engine", _engines, table.FAST, "Engine, or several separated by commas.", "NAME[,NAME]"),
    Setting("kernel", _word, None, "CPU kernel of the fast engines; unset: the fastest on this processor.", "NAME"),
    Setting(
        "workers", units.integer(0, LARGEST_CPU + 1), None, "CPU workers; unset: about half of the effective CPUs.", "N"
    ),
    Setting("gpu_devices", _devices, "all", "GPUs to use: all, or their indices or PCI addresses.", "ID[,ID]"),
    Setting("gpu_duty", units.integer(1, 100), "100", "Percentage of the time that each GPU works.", "PERCENT"),
    Setting(
        "gpu_temp_limit",
        units.integer(30, 120),
        None,
        "Degrees Celsius at which a GPU pauses until it is 3 degrees cooler; unset: no limit.",
        "DEGREES",
    ),
    Setting(
        "metrics_port",
        units.integer(0, 65535),
        None,
        "TCP port of the Prometheus exporter; unset: no exporter.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "metrics_bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that the Prometheus exporter listens on.",
        "ADDRESS",
        applies="restart",
    ),
    Setting(
        "rig_port",
        units.integer(0, 65535),
        None,
        "TCP port with only the HTTP calls for rig managers; unset: they are on the port of the job API alone.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "rig_claymore_port",
        units.integer(0, 65535),
        None,
        "TCP port of Claymore's monitoring protocol, usually 3333; unset: none.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "rig_cgminer_port",
        units.integer(0, 65535),
        None,
        "TCP port of cgminer's API, for reading, usually 4028; unset: none.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "rig_bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that the ports for rig managers listen on.",
        "ADDRESS",
        applies="restart",
    ),
    Setting(
        "progress_chunk_ms",
        units.integer(1, 60_000),
        "2000",
        "Milliseconds that a worker should take for one slice of nonces.",
        "MS",
    ),
    Setting(
        "schedule",
        parse_schedule,
        None,
        'Times at which to mine, such as 22:00-06:00 or "Sat-Sun 00:00-24:00"; unset: always.',
        "TIMES",
    ),
    Setting(
        "pause_when_busy",
        units.integer(1, 100),
        None,
        "Pause while other programs use more than this percentage of the CPUs; unset: never.",
        "PERCENT",
    ),
    Setting(
        "job_expiry_s",
        units.integer(1, 31_536_000),
        "600",
        "Seconds after which a running job that is not polled is cancelled.",
        "S",
    ),
    Setting(
        "manip_solved_blocks",
        units.integer(0, U64),
        None,
        f"{table.THROTTLED}: solved blocks to start from; unset: the count of the last run.",
        "N",
    ),
    Setting(
        "manip_base_delay_ns",
        units.integer(0, 10**12),
        "500000",
        f"{table.THROTTLED}: nanoseconds of sleep for each solved block.",
        "NS",
    ),
    Setting("manip_step_batch", units.integer(1, U64), "10000", f"{table.THROTTLED}: nonces between two sleeps.", "N"),
    Setting(
        "manip_throttle_cap",
        units.integer(0, U64),
        "0",
        f"{table.THROTTLED}: largest number of solved blocks that counts; 0: no cap.",
        "N",
    ),
    Setting("node_addr", units.parse_endpoint, None, "Mine for the node at this UDP address.", "HOST:PORT"),
    Setting("auth_token", parse_token, None, "Token of the node, from its miner-auth-token.", "TOKEN", secret=True),
    Setting("auth_token_file", _path, None, "File with the node's token.", "FILE"),
    Setting(
        "tls_cert_sha256",
        parse_fingerprint,
        None,
        "SHA-256 of the node's certificate, from its miner-tls-cert-sha256.",
        "HEX",
    ),
    Setting("tls_cert_sha256_file", _path, None, "File with the SHA-256 of the node's certificate.", "FILE"),
    Setting(
        "pool",
        parse_pool_urls,
        None,
        "Mine in this pool. May be repeated: each pool is used when those before it fail.",
        "URL",
        many=True,
    ),
    Setting("wallet", parse_wallet, None, "Address that pools pay to; needed with --pool.", "ADDRESS"),
    Setting("worker_name", parse_worker, None, "Name of this miner in pools; unset: the host's name.", "NAME"),
    Setting(
        "exit_on_refusal",
        units.choice("off", "on"),
        "off",
        "Exit when every node and pool refuses us.",
        "",
        switch=True,
    ),
    Setting(
        "priority",
        units.choice(*PRIORITIES),
        "live",
        "Whose jobs come first, those of nodes and pools or those of the job API: live, http, or equal.",
        "NAME",
    ),
    Setting(
        "api_token",
        _token,
        None,
        "Bearer token that /mine, /result and /cancel require; unset: none is required.",
        "TOKEN",
        secret=True,
    ),
    Setting("api_token_file", _path, None, "File with the API token.", "FILE"),
    Setting(
        "state_dir",
        _path,
        None,
        "Folder for what survives a restart; unset: the user's state folder.",
        "DIR",
        envs=("MINER_STATE_DIR", "STATE_DIRECTORY"),
        applies="restart",
    ),
    Setting("history_days", units.integer(1, 36_500), "30", "Days of running for which finds are kept.", "DAYS"),
    Setting(
        "log",
        _filter,
        "info",
        "Log filter, such as info,miner=debug. Levels: off, error, warn, info, debug, trace.",
        "FILTER",
        envs=("MINER_LOG", "RUST_LOG"),
    ),
    Setting(
        "log_format",
        units.choice(*LOG_FORMATS),
        "auto",
        f"Format of log lines: {', '.join(LOG_FORMATS)}.",
        "FORMAT",
        applies="restart",
    ),
)

FROM_FILES: Final = ("auth_token", "tls_cert_sha256", "api_token")
"""Settings whose value may be in a file that another setting names."""
BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings(EngineOptions):
    """All settings, parsed and checked. None: unset."""

    port: int
    bind: str
    page: str
    allowed_hosts: tuple[str, ...] | None
    workers: int | None
    metrics_port: int | None
    metrics_bind: str
    rig_port: int | None
    rig_claymore_port: int | None
    rig_cgminer_port: int | None
    rig_bind: str
    progress_chunk_ms: int
    schedule: Schedule | None
    pause_when_busy: int | None
    job_expiry_s: int
    node_addr: tuple[str, int] | None
    auth_token: str | None
    tls_cert_sha256: bytes | None
    pool: tuple[PoolUrl, ...] | None
    wallet: str | None
    worker_name: str | None
    exit_on_refusal: str
    priority: str
    api_token: str | None
    history_days: int
    log: str
    log_format: str

    def differs(self, setting: Setting) -> bool:
        """Return True if the value of ``setting`` is not its default."""
        default = None if setting.default is None else setting.parse(setting.default)
        return getattr(self, setting.name, default) != default

    def summary(self, names: Iterable[str] = BY_NAME) -> str:
        """Return ``port=9833, bind=127.0.0.1, …`` of all settings, or of ``names``. Secrets are named but not shown."""

        def show(name: str) -> str:
            value = getattr(self, name)
            if value is None:
                return "unset"
            if BY_NAME[name].secret:
                return "(set)"
            if name == "node_addr":
                return units.endpoint(*value)
            if isinstance(value, bytes):
                return value.hex()
            return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

        return ", ".join(f"{name}={show(name)}" for name in names if hasattr(self, name))


def load(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    config: Path | None,
    warn: Callable[[str], None] = lambda _: None,
) -> Settings:
    """Return the settings from all sources.

    ``flags``: the texts on the command line, by setting name. ``warn`` is called with each line that the user should
    see although the settings can be used. Raises SettingError, one line that names the setting, its source and what is
    allowed.
    """
    environ = without_service_links(environ, [name for setting in SETTINGS for name in setting.environment], warn)
    file = read_config(config, {setting.name: setting.secret for setting in SETTINGS}, warn) if config else {}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text, source = _lookup(setting, flags, environ, file, f"config file {config}")
        values[setting.name] = None if text is None else _parse(setting, text, source)
    for name in FROM_FILES:
        path: Path | None = values.pop(f"{name}_file")
        if path is not None:
            flag = BY_NAME[name].flag
            if values[name] is not None:
                raise SettingError(f"{flag} and {flag}-file are both set; set one of them")
            text = read_value(path, f"{flag}-file", secret=BY_NAME[name].secret, warn=warn)
            values[name] = _parse(BY_NAME[name], text, f"file {path}")
    _check_live(values)
    if values["state_dir"] is None:
        values["state_dir"] = user_state_dir(environ)
    return Settings(**values)


def _lookup(
    setting: Setting, flags: Mapping[str, str], environ: Mapping[str, str], file: Mapping[str, str], file_source: str
) -> tuple[str | None, str]:
    if setting.name in flags:
        return flags[setting.name], "command line"
    for variable in setting.environment:
        text = environ.get(variable, "")
        if setting.parse is not _path:
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


def _parse(setting: Setting, text: str, source: str) -> Any:  # noqa: ANN401 - the table decides the type
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "the value" if setting.secret else repr(text[:80])
        raise SettingError(f"{setting.flag}: {shown} ({source}) is not allowed; allowed: {error}") from None


def _check_live(values: Mapping[str, Any]) -> None:
    """Check that live sources have the settings they need. Raises SettingError if one is missing."""
    needs = {"node_addr": ("auth_token", "tls_cert_sha256"), "pool": ("wallet",)}
    for name, needed in needs.items():
        for other in needed:
            if values[name] is not None and values[other] is None:
                flag = BY_NAME[other].flag
                also = f" or {flag}-file" if other in FROM_FILES else ""
                raise SettingError(f"{BY_NAME[name].flag} needs {flag}{also}")
