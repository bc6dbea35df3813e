"""All settings of a run, from flags, environment, config file and defaults.

Precedence: flag, environment, file, default. An empty environment value counts as unset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantus_miner import units
from quantus_miner.backends.backend import EngineOptions
from quantus_miner.errors import SettingError
from quantus_miner.setting import FROM_FILES, CommandName, check, look_up, parse_value
from quantus_miner.setting_sources import read_config, read_value, user_state_dir, without_service_links
from quantus_miner.setting_table import BY_NAME, NOT_OF, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from quantus_miner.schedule import Schedule
    from quantus_miner.setting import Setting
    from quantus_miner.wire.fleet import HubUrl
    from quantus_miner.wire.nats_url import NatsUrl
    from quantus_miner.wire.pool_url import PoolUrl


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
    hub: HubUrl | None
    hub_control: str
    restart_silent_rigs: int | None
    nats_port: int | None
    nats_bind: str
    nats: NatsUrl | None
    nats_creds: Path | None
    stratum_port: int | None
    stratum_bind: str
    stratum_cert: Path | None
    stratum_key: Path | None
    stratum_share_time: int
    stratum_difficulty: int
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
    *,
    command: CommandName = "serve",
) -> Settings:
    """Return the settings of a command from all sources. Those that it does not use have their defaults.

    ``flags``: the texts on the command line, by setting name. ``warn`` is called with each line that the user should
    see although the settings can be used. Raises SettingError, one line that names the setting, its source and what is
    allowed.
    """
    environ = without_service_links(environ, [name for setting in SETTINGS for name in setting.environment], warn)
    file = read_config(config, {setting.name: setting.secret for setting in SETTINGS}, warn) if config else {}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text, source = setting.default, "default"
        if setting.name not in NOT_OF[command]:
            text, source = look_up(setting, flags, environ, file, f"config file {config}")
        values[setting.name] = None if text is None else parse_value(setting, text, source)
    for name in FROM_FILES:
        path: Path | None = values.pop(f"{name}_file")
        if path is not None:
            flag = BY_NAME[name].flag
            if values[name] is not None:
                raise SettingError(f"{flag} and {flag}-file are both set; set one of them")
            text = read_value(path, f"{flag}-file", secret=BY_NAME[name].secret, warn=warn)
            values[name] = parse_value(BY_NAME[name], text, f"file {path}")
    check(values, command)
    if values["state_dir"] is None:
        values["state_dir"] = user_state_dir(environ)
    return Settings(**values)
