"""Settings: sources and their precedence, and one clear line for every bad value."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.errors import SettingError
from quantus_miner.setting import FROM_FILES
from quantus_miner.setting_table import BY_NAME, SETTINGS
from quantus_miner.settings import Settings, load


def test_defaults_are_those_of_the_specification() -> None:
    settings = load({}, {"HOME": "/nowhere"}, None)
    assert (settings.port, settings.bind, settings.engine) == (9833, "127.0.0.1", ("cpu-fast",))
    assert (settings.workers, settings.metrics_port, settings.api_token) == (None, None, None)
    assert settings.progress_chunk_ms == 2000
    assert settings.manip_solved_blocks is None
    assert (settings.manip_base_delay_ns, settings.manip_step_batch, settings.manip_throttle_cap) == (
        500_000,
        10_000,
        0,
    )
    assert settings.state_dir.name == "quantus-miner"


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    config = tmp_path / "miner.toml"
    config.write_text(
        'port = 1\nbind = "::1"\nworkers = "3"\nengine = ["cpu-fast", "cpu-baseline"]\nmetrics-port = 7\n'
    )
    environ = {"MINER_PORT": "2", "MINER_BIND": "0.0.0.0", "MINER_METRICS_PORT": ""}  # noqa: S104 - not bound
    settings = load({"port": "3"}, environ, config)
    assert (settings.port, settings.bind, settings.workers, settings.metrics_port) == (3, "0.0.0.0", 3, 7)  # noqa: S104
    assert settings.engine == ("cpu-fast", "cpu-baseline")


def test_an_empty_environment_value_counts_as_unset() -> None:
    assert load({}, {"MINER_METRICS_PORT": "", "MINER_WORKERS": ""}, None).metrics_port is None


PAGE = """
MINER_ENGINE=cpu-fast
MINER_PORT=9833
MINER_METRICS_PORT=9900         # enable Prometheus exporter
MINER_WORKERS=4                 # leave unset to use default (50% of effective CPUs)
MINER_PROGRESS_CHUNK_MS=2000
"""
"""The variables of the operator page; systemd takes all behind ``=`` as the value, but for white space around it."""


def test_a_comment_behind_a_value_of_the_environment_is_none_of_it() -> None:
    environ = dict(line.split("=", 1) for line in PAGE.split("\n") if line)
    settings = load({}, environ, None)
    assert (settings.metrics_port, settings.workers, settings.progress_chunk_ms) == (9900, 4, 2000)
    assert load({}, {"MINER_METRICS_PORT": "# 9900", "MINER_BIND": "::1\t#x"}, None).metrics_port is None


@given(st.text("#a/ \t", min_size=1, max_size=6))
def test_what_may_contain_a_hash_keeps_it(text: str) -> None:
    assert load({}, {"MINER_STATE_DIR": text}, None).state_dir == Path(text)
    if " " not in text and "\t" not in text:
        assert load({}, {"MINER_API_TOKEN": text}, None).api_token == text


@pytest.mark.parametrize("source", ["flag", "file"])
def test_a_hash_is_no_comment_elsewhere(source: str, tmp_path: Path) -> None:
    config = tmp_path / "miner.toml"
    config.write_text('port = "9900 # x"')
    with pytest.raises(SettingError, match="'9900 # x'"):
        load({"port": "9900 # x"} if source == "flag" else {}, {}, config if source == "file" else None)


def test_miner_log_wins_over_rust_log() -> None:
    assert load({}, {"RUST_LOG": "debug"}, None).log == "debug"
    assert load({}, {"RUST_LOG": "debug", "MINER_LOG": "warn"}, None).log == "warn"


def test_state_dir_comes_from_systemd_or_the_user(tmp_path: Path) -> None:
    assert load({}, {"STATE_DIRECTORY": "/var/lib/quantus-miner"}, None).state_dir == Path("/var/lib/quantus-miner")
    assert load({}, {"XDG_STATE_HOME": str(tmp_path)}, None).state_dir == tmp_path / "quantus-miner"


def test_the_token_may_come_from_a_file_and_never_shows(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" s3cret \n")
    settings = load({"api_token_file": str(token)}, {}, None)
    assert settings.api_token == "s3cret"  # noqa: S105 - a test's
    assert "s3cret" not in settings.summary()
    assert "api_token=(set)" in settings.summary()
    token.write_text("two words")
    with pytest.raises(SettingError) as error:
        load({"api_token_file": str(token)}, {}, None)
    assert "two words" not in str(error.value)


BAD = [
    ({"port": "65536"}, {}, ["--port", "'65536'", "command line", "0 to 65535"]),
    ({"port": "-1"}, {}, ["--port", "0 to 65535"]),
    ({"port": "\u0663"}, {}, ["--port", "0 to 65535"]),
    ({}, {"MINER_PORT": "abc"}, ["--port", "environment variable MINER_PORT", "0 to 65535"]),
    ({}, {"MINER_WORKERS": "all"}, ["--workers", "MINER_WORKERS", "whole number"]),
    ({"engine": "gpu"}, {}, ["--engine", "cpu-fast, cpu-baseline, cpu-chain-manipulator, gpu-cuda, gpu-opencl"]),
    ({"engine": "cpu-fast,cpu-fast"}, {}, ["--engine", "each once"]),
    ({"bind": "localhost"}, {}, ["--bind", "IP address"]),
    ({"progress_chunk_ms": "0"}, {}, ["--progress-chunk-ms", "from 1"]),
    ({"manip_step_batch": "0"}, {}, ["--manip-step-batch", "from 1"]),
    ({"log": "miner=loud"}, {}, ["--log", "command line", "loud"]),
    ({}, {"RUST_LOG": "miner=loud"}, ["--log", "RUST_LOG"]),
    ({"log_format": "xml"}, {}, ["--log-format", "auto, text, journald, json"]),
    ({"api_token": "a b"}, {}, ["--api-token", "printable"]),
    ({"api_token": "a", "api_token_file": "/x"}, {}, ["--api-token", "--api-token-file", "both"]),
    ({"api_token_file": "/does/not/exist"}, {}, ["--api-token-file", "/does/not/exist"]),
    ({"api_token_file": "/does\nnot\x1b[2J"}, {}, ["--api-token-file", "/does\\nnot\\x1b[2J"]),
    ({"bind": "fe80::1%\n"}, {}, ["--bind", "IP address"]),
    ({"bind": "fe80::1%\u0430"}, {}, ["--bind", "IP address"]),
    ({"pool": "stratum+tcp://h:1?\x1b[2J"}, {}, ["--pool", "no ?pin="]),
]


@pytest.mark.parametrize(("flags", "environ", "words"), BAD)
def test_a_bad_value_is_one_line_that_names_setting_source_and_what_is_allowed(
    flags: dict[str, str], environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(SettingError) as error:
        load(flags, environ, None)
    message = str(error.value)
    assert message.isprintable()
    assert all(word in message for word in words), message
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = ", "not valid TOML"),
        ("colour = 'red'", "unknown setting 'colour'"),
        ("port = 1.5", "port has to be"),
        ("port = true", "port has to be"),
        ("[port]", "port has to be"),
        ("port = 99999", "config file"),
        ("port = " + "9" * 5000, "not valid TOML"),
        ("port = 0x" + "f" * 5000, "port has to be"),
        ("port = " + "[" * 5000, "not valid TOML"),
        ('state_dir = "/a\\u0000"', "a path without NUL characters"),
        ('api_token_file = "/a\\u0000"', "a path without NUL characters"),
    ],
)
def test_a_bad_config_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "miner.toml"
    config.write_text(text)
    with pytest.raises(SettingError, match=words) as error:
        load({}, {}, config)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_is_one_line() -> None:
    with pytest.raises(SettingError, match="cannot read /does/not/exist"):
        load({}, {}, Path("/does/not/exist"))


@given(st.sampled_from(SETTINGS), st.text(min_size=1))
def test_any_text_is_a_value_or_one_clear_line(setting: object, text: str) -> None:
    name = setting.name  # type: ignore[attr-defined]  # sampled_from loses the type
    try:
        load({name: text}, {}, None)
    except SettingError as error:
        assert str(error).startswith(BY_NAME[name].flag)


def test_the_table_and_the_parsed_settings_name_the_same() -> None:
    names = [field.name for field in fields(Settings)]
    assert sorted([*names, *(f"{read}_file" for read in FROM_FILES)]) == sorted(BY_NAME)


PIN = "ab" * 32
WALLET = "qzjTEwCDN6vQ6g4C5dq2NBJ2yxkZ9XtJzprerRgPpmj3ay16V"


def test_a_live_node_has_address_token_and_fingerprint(tmp_path: Path) -> None:
    token, pin = tmp_path / "miner-auth-token", tmp_path / "miner-tls-cert-sha256"
    token.write_text("s3cret\n")
    pin.write_text("AB:" * 31 + "AB\n")
    flags = {"node_addr": "[::1]", "auth_token_file": str(token), "tls_cert_sha256_file": str(pin)}
    settings = load(flags, {}, None)
    assert settings.node_addr == ("::1", 9833)
    assert settings.auth_token == "s3cret"  # noqa: S105 - a test's
    assert settings.tls_cert_sha256 == bytes.fromhex(PIN)
    assert "s3cret" not in settings.summary()
    assert f"tls_cert_sha256={PIN}" in settings.summary()


def test_pools_are_an_order_from_flag_environment_or_file(tmp_path: Path) -> None:
    urls = ["stratum+tcp://a.example:1", f"stratum+ssl://b.example:2?pin={PIN}"]
    config = tmp_path / "miner.toml"
    config.write_text(f"pool = {urls!r}")
    ways = [
        load({"pool": ",".join(urls), "wallet": WALLET}, {}, None),
        load({}, {"MINER_POOL": ", ".join(urls), "MINER_WALLET": WALLET}, None),
        load({"wallet": WALLET}, {}, config),
    ]
    for settings in ways:
        assert settings.pool is not None
        assert [url.host for url in settings.pool] == ["a.example", "b.example"]
        assert settings.pool[1].pin == bytes.fromhex(PIN)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"node_addr": "a:1"}, "--node-addr needs --auth-token or --auth-token-file"),
        ({"node_addr": "a:1", "auth_token": "x"}, "--node-addr needs --tls-cert-sha256 or --tls-cert-sha256-file"),
        ({"node_addr": "a:0"}, "--node-addr: 'a:0' (command line) is not allowed; allowed: HOST:PORT"),
        ({"node_addr": "::1:9833"}, "--node-addr: '::1:9833'"),
        ({"pool": "stratum+tcp://a:1"}, "--pool needs --wallet"),
        (
            {"pool": "http://a:1", "wallet": WALLET},
            "--pool: 'http://a:1' (command line) is not allowed; allowed: stratum",
        ),
        ({"wallet": "a b"}, "--wallet: 'a b'"),
        ({"worker_name": "a.b"}, "--worker-name: 'a.b'"),
        ({"tls_cert_sha256": "ab"}, "--tls-cert-sha256: 'ab' (command line) is not allowed; allowed: 64 hex digits"),
        ({"priority": "first"}, "--priority: 'first' (command line) is not allowed; allowed: one of live, equal, http"),
        ({"auth_token": "secret" * 100}, "--auth-token: the value (command line) is not allowed"),
    ],
)
def test_what_a_live_source_lacks_is_said_in_one_line(flags: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError) as error:
        load(flags, {}, None)
    assert words in str(error.value)
    assert "secretsecret" not in str(error.value)
    assert "\n" not in str(error.value)


# --- files that are none, and what they should not be ---

FILE_SETTINGS = ["--config", "--api-token-file", "--auth-token-file", "--tls-cert-sha256-file", "--hub-file"]


def special(kind: str, folder: Path) -> Path:
    path = folder / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "long":
        path.write_text(" " * 1_000_001)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfea\0")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize("flag", FILE_SETTINGS)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "it is a pipe, as <(...) of a shell makes it; it must be a regular file"),
        ("socket", "it is a socket; it must"),
        ("folder", "it is a folder; it must"),
        ("/dev/zero", "it is a device; it must"),
        ("/dev/null", "it is a device; it must"),
        ("/dev/tty", "it is a device; it must"),
        ("long", "it is longer than "),
        ("binary", "it is not UTF-8 text (byte 0)"),
        ("loop", "Too many levels of symbolic links"),
        ("/nowhere", "No such file or directory"),
    ],
)
def test_what_is_no_file_of_text_is_one_line_at_once(flag: str, kind: str, words: str, tmp_path: Path) -> None:
    path, name = special(kind, tmp_path), flag[2:].replace("-", "_")
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)  # a read that hangs
    signal.alarm(20)
    try:
        with pytest.raises(SettingError) as error:
            load({} if flag == "--config" else {name: str(path)}, {}, path if flag == "--config" else None)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert str(error.value).startswith(f"{flag}: cannot read {path}: {words}")
    assert str(error.value).isprintable()


def test_a_byte_order_mark_is_no_part_of_what_a_file_says(tmp_path: Path) -> None:
    token, pin, config = tmp_path / "token", tmp_path / "pin", tmp_path / "miner.toml"
    token.write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    pin.write_bytes(b"\xef\xbb\xbf" + PIN.encode())
    config.write_bytes(b"\xef\xbb\xbfport = 7\r\nworkers = 2\r\n")
    flags = {"node_addr": "a:1", "auth_token_file": str(token), "tls_cert_sha256_file": str(pin)}
    settings = load(flags, {}, config)
    assert settings.auth_token == "s3cret"  # noqa: S105 - a test's
    assert settings.tls_cert_sha256 == bytes.fromhex(PIN)
    assert (settings.port, settings.workers) == (7, 2)


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o604, True), (0o660, True), (0o602, True)],
)
def test_a_secret_that_others_can_read_or_change_is_one_warning(mode: int, warned: bool, tmp_path: Path) -> None:
    token, pin, config = tmp_path / "token", tmp_path / "pin", tmp_path / "miner.toml"
    token.write_text("s3cret")
    pin.write_text(PIN)
    config.write_text("port = 7")
    for path in (token, pin, config):
        path.chmod(mode)
    warnings: list[str] = []
    flags = {"api_token_file": str(token), "tls_cert_sha256_file": str(pin)}
    load(flags, {}, config, warnings.append)
    what = f"other users can read or change {{}} (mode {mode:04o}); run: chmod g-w,o= {{}}"
    assert warnings == [f"--api-token-file: {what.format(token, token)}"] * warned
    # The fingerprint is no secret, and a config file only if there is one in it.
    config.chmod(0o600)
    config.write_text("api-token = 's3cret'")
    config.chmod(mode)
    warnings.clear()
    load({}, {}, config, warnings.append)
    assert warnings == [f"--config: {what.format(config, config)}"] * warned


@pytest.mark.parametrize("link", ["tcp://10.96.12.7:9833", "udp://10.96.12.7:9833", "tcp://[fd00::7]:9833"])
def test_the_links_that_kubernetes_sets_are_ignored_with_a_warning(link: str) -> None:
    warnings: list[str] = []
    environ = {"MINER_PORT": link, "MINER_METRICS_PORT": link, "MINER_SERVICE_HOST": "10.96.12.7", "MINER_WORKERS": "3"}
    settings = load({}, environ, None, warnings.append)
    assert (settings.port, settings.metrics_port, settings.workers) == (9833, None, 3)
    assert len(warnings) == 2
    for variable, warning in zip(("MINER_PORT", "MINER_METRICS_PORT"), warnings, strict=True):
        assert warning.startswith(f"Ignoring {variable}={link}: Kubernetes sets it")
        assert "enableServiceLinks: false" in warning
    # A flag is nothing that Kubernetes sets, nor is a pool's URL.
    with pytest.raises(SettingError, match="--port"):
        load({"port": link}, {}, None)
    urls = {"MINER_POOL": "stratum+tcp://10.96.12.7:9833", "MINER_WALLET": WALLET}
    assert load({}, urls, None, warnings.append).pool is not None
    with pytest.raises(SettingError, match="--pool"):
        load({}, urls | {"MINER_POOL": link}, None)
    assert len(warnings) == 2


def test_warnings_about_settings_are_in_the_log(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o666)
    environ = {"MINER_PORT": "tcp://10.96.12.7:9833", "MINER_KERNEL": "avx9", "MINER_API_TOKEN_FILE": str(token)}
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", "--log-format=journald"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    warnings = [line for line in ended.stderr.splitlines() if line.startswith("<4>miner: ")]
    assert len(warnings) == 2
    assert "MINER_PORT" in warnings[0]
    assert f"chmod g-w,o= {token}" in warnings[1]
    assert ended.returncode == 2
