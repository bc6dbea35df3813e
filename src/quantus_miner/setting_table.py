"""The table of settings, which defines the flags, the environment variables and the keys of the config file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.backends import table
from quantus_miner.host.cpus import LARGEST_CPU
from quantus_miner.schedule import parse_schedule
from quantus_miner.setting import (
    CommandName,
    Setting,
    parse_api_token,
    parse_devices,
    parse_engines,
    parse_kernel,
    parse_log_filter,
    parse_path,
)
from quantus_miner.wire.address import parse_wallet, parse_worker
from quantus_miner.wire.fleet import parse_hub_url
from quantus_miner.wire.hosts import parse_names
from quantus_miner.wire.messages import parse_fingerprint, parse_token
from quantus_miner.wire.nats_url import parse_nats_url
from quantus_miner.wire.pool_url import parse_pool_urls

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_FORMATS: Final = ("auto", "text", "journald", "json")
PRIORITIES: Final = ("live", "equal", "http")
U64: Final = 2**64 - 1

SETTINGS: Final = (
    Setting(
        "port",
        units.integer(0, 65535),
        "9833",
        "TCP port of the job API, or of a hub's; 0 takes a free one.",
        "PORT",
        short="-p",
        applies="restart",
    ),
    Setting(
        "bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that this API listens on.",
        "ADDRESS",
        applies="restart",
    ),
    Setting("page", units.choice("off", "on"), "on", "Serve the page at / on this port.", "", switch=True),
    Setting("allowed_hosts", parse_names, None, "More host names under which clients reach the miner.", "NAME[,NAME]"),
    Setting("engine", parse_engines, table.FAST, "Engine, or several separated by commas.", "NAME[,NAME]"),
    Setting(
        "kernel", parse_kernel, None, "CPU kernel of the fast engines; unset: the fastest on this processor.", "NAME"
    ),
    Setting(
        "workers", units.integer(0, LARGEST_CPU + 1), None, "CPU workers; unset: about half of the effective CPUs.", "N"
    ),
    Setting("gpu_devices", parse_devices, "all", "GPUs to use: all, or their indices or PCI addresses.", "ID[,ID]"),
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
    Setting("auth_token_file", parse_path, None, "File with the node's token.", "FILE"),
    Setting(
        "tls_cert_sha256",
        parse_fingerprint,
        None,
        "SHA-256 of the node's certificate, from its miner-tls-cert-sha256.",
        "HEX",
    ),
    Setting("tls_cert_sha256_file", parse_path, None, "File with the SHA-256 of the node's certificate.", "FILE"),
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
        parse_api_token,
        None,
        "Bearer token of the API; unset: one that is generated, which only calls that steer need.",
        "TOKEN",
        secret=True,
    ),
    Setting("api_token_file", parse_path, None, "File with the API token.", "FILE"),
    Setting(
        "hub",
        parse_hub_url,
        None,
        "Mine for this hub, before any node and pool. The URL has the rig's token.",
        "URL",
        secret=True,
    ),
    Setting("hub_file", parse_path, None, "File with the URL of the hub.", "FILE"),
    Setting(
        "hub_control",
        units.choice("off", "on"),
        "on",
        "Do what the hub asks: pause, resume, use other backup pools, reload, restart.",
        "",
        switch=True,
    ),
    Setting(
        "restart_silent_rigs",
        units.integer(1, 1440),
        None,
        "Minutes after which a rig that should hash and does not is asked to restart; unset: never.",
        "MINUTES",
    ),
    Setting(
        "nats_port",
        units.integer(0, 65535),
        None,
        "TCP port on which our own rigs can connect to the hub; 0 takes a free one.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "nats_bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that the hub listens on for rigs.",
        "ADDRESS",
        applies="restart",
    ),
    Setting(
        "nats",
        parse_nats_url,
        None,
        "Serve rigs on these NATS servers, which several hubs may use, instead of starting one.",
        "URL",
        secret=True,
        applies="restart",
    ),
    Setting(
        "nats_creds",
        parse_path,
        None,
        "Credentials file of NATS for these servers; unset: the hub has a key of its own.",
        "FILE",
        applies="restart",
    ),
    Setting(
        "stratum_port",
        units.integer(0, 65535),
        None,
        "TCP port on which stratum miners can mine through the hub; 0 takes a free one.",
        "PORT",
        applies="restart",
    ),
    Setting(
        "stratum_bind",
        units.parse_address,
        "127.0.0.1",
        "IP address that the hub listens on for stratum miners.",
        "ADDRESS",
        applies="restart",
    ),
    Setting(
        "stratum_cert",
        parse_path,
        None,
        "PEM file with the certificate for stratum miners; unset: no TLS.",
        "FILE",
        applies="restart",
    ),
    Setting(
        "stratum_key",
        parse_path,
        None,
        "PEM file with its private key; unset: it is in the file with the certificate.",
        "FILE",
        applies="restart",
    ),
    Setting("stratum_share_time", units.integer(1, 3600), "5", "Seconds between the shares of a miner to aim at.", "S"),
    Setting("stratum_difficulty", units.integer(1, U64), "1000000", "Difficulty of a miner's first share.", "N"),
    Setting(
        "state_dir",
        parse_path,
        None,
        "Folder for what survives a restart; unset: the user's state folder.",
        "DIR",
        envs=("MINER_STATE_DIR", "STATE_DIRECTORY"),
        applies="restart",
    ),
    Setting("history_days", units.integer(1, 36_500), "30", "Days of running for which finds are kept.", "DAYS"),
    Setting(
        "log",
        parse_log_filter,
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

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}

NOT_OF: Final[Mapping[CommandName, frozenset[str]]] = {
    "serve": frozenset(name for name in BY_NAME if name.startswith(("nats", "stratum_", "restart_"))),
    "hub": frozenset(
        (
            *("job_expiry_s", "priority", "hub", "hub_file", "hub_control"),
            *("engine", "kernel", "workers", "progress_chunk_ms", "schedule", "pause_when_busy"),
            *("gpu_devices", "gpu_duty", "gpu_temp_limit"),
            *("rig_port", "rig_bind", "rig_claymore_port", "rig_cgminer_port"),
            *("manip_solved_blocks", "manip_base_delay_ns", "manip_step_batch", "manip_throttle_cap"),
        )
    ),
}
"""Settings that a command does not use. Both may read the same config file."""


def names_of(command: CommandName) -> list[str]:
    """Return the names of the settings that a command uses, in the order of the table."""
    return [name for name in BY_NAME if name not in NOT_OF[command]]
