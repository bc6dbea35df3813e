"""The documentation against the code, both ways: every row of a table is in the code, and nothing there is left out."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
import pytest

from quantus_miner import jobs, logs
from quantus_miner.backends import table as backend_table
from quantus_miner.bench import BenchReport
from quantus_miner.cli import cli, man
from quantus_miner.devices import DevicesReport
from quantus_miner.doctor import DoctorReport
from quantus_miner.host.cpus import default_workers
from quantus_miner.logs import formats, writer
from quantus_miner.mining import rates
from quantus_miner.model import Pow, Status
from quantus_miner.parts import ports
from quantus_miner.setting_table import LOG_FORMATS, SETTINGS
from quantus_miner.settings import load
from quantus_miner.store.history import HistoryEntry
from quantus_miner.web import connection, events, line_server, server
from quantus_miner.web import routes as http
from quantus_miner.web.metrics import METRICS
from quantus_miner.wire import api, claymore
from quantus_miner.wire.openapi import DOCUMENT
from quantus_miner.wire.status import State
from quantus_miner.wire.status import Status as Status_

from .fuzz.hunt import NAMES
from .pages import PAGES, SOURCE, by_first, code, codes, fenced, is_call, table, tables, templates

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("**/*.py")))
METHODS = ("get", "post")
MISDIRECTED = 421
"""What both ports answer, not only the job API."""


# --- settings, metrics, engines, workers, states, limits ---


def test_every_setting_is_documented_as_it_is() -> None:
    documented = [
        (codes(flag), codes(environment), codes(default), applies)
        for flag, environment, default, applies, _ in table(
            "docs/settings.md", "flag", "environment", "default", "applies", "meaning"
        )
    ]
    expected = [
        (
            [*filter(None, (setting.short, setting.flag, setting.opposite if setting.switch else None))],
            list(setting.environment),
            [] if setting.default is None else [setting.default],
            setting.applies,
        )
        for setting in SETTINGS
    ]
    assert documented == expected


def test_every_setting_has_a_meaning_and_secrets_are_named() -> None:
    for setting, row in zip(
        SETTINGS, table("docs/settings.md", "flag", "environment", "default", "applies", "meaning"), strict=True
    ):
        assert row[4].endswith("."), row
        assert setting.secret == row[4].startswith("Secret."), row
        assert (setting.default is None) == (row[2] == "unset"), row


def test_the_secrets_are_all_named_where_secrets_are_explained() -> None:
    section = PAGES["docs/settings.md"].split("\n## Secrets\n")[1].split("\n## ")[0]
    for setting in SETTINGS:
        if setting.secret:
            assert f"`{setting.flag.removeprefix('--')}`" in section


def test_every_range_is_that_of_the_code() -> None:
    ranges = {}
    for setting in SETTINGS:
        try:
            setting.parse("\0")  # allowed by none
        except ValueError as error:
            if match := re.fullmatch(r"a whole number from ([0-9]+ to [0-9]+)", str(error)):
                ranges[setting.flag] = match[1]
    assert {"--workers", "--port", "--history-days"} <= ranges.keys()
    for flags, *_, meaning in table("docs/settings.md", "flag", "environment", "default", "applies", "meaning"):
        flag = codes(flags)[-1]
        if flag in ranges:
            assert re.findall(r"\b[0-9]+ to [0-9]+\b", meaning) == [ranges[flag]], flag
    for page, text in PAGES.items():
        for flag, range_ in re.findall(r"(--[a-z-]+): .* allowed: a whole number from ([0-9]+ to [0-9]+)", text):
            assert ranges[flag] == range_, page


def test_the_config_file_of_the_settings_page_loads(tmp_path: Path) -> None:
    (example,) = fenced("docs/settings.md", "toml")
    config = tmp_path / "miner.toml"
    config.write_text(example, encoding="utf-8")
    assert load({}, {}, config).engine == ("cpu-fast", "cpu-baseline")


def test_every_metric_is_documented_as_it_is() -> None:
    rows = table("docs/metrics.md", "name", "type", "labels", "meaning")
    assert [(code(name), kind, tuple(codes(labels))) for name, kind, labels, _ in rows] == [
        (row.name, row.kind, row.labels) for row in METRICS
    ]
    assert all(meaning.endswith(".") for *_, meaning in rows)


def test_the_example_scrape_is_of_these_metrics() -> None:
    described = {f"# HELP {row.name} {row.help}" for row in METRICS} | {
        f"# TYPE {row.name} {row.kind}" for row in METRICS
    }
    shown = re.findall(r"^# (?:HELP|TYPE) .*$", PAGES["docs/metrics.md"], re.MULTILINE)
    assert len(shown) >= 10
    assert set(shown) <= described


@pytest.mark.parametrize("page", PAGES)
def test_metrics_named_anywhere_exist(page: str) -> None:
    named = set(re.findall(r'\bminer_[a-z_]+\b(?!":)', PAGES[page]))  # not keys of JSON
    of_others = {*claymore.READ_ONLY, "miner_name", "miner_version"}  # Claymore's methods, fields of mmpOS
    assert named <= {row.name for row in METRICS} | of_others | {"miner_"}


def test_every_engine_is_documented_as_it_is() -> None:
    rows = by_first(table("docs/operator.md", "engine", "available", "proofs of work", "for"))
    assert {name: (available, pows) for name, (available, pows, _) in rows.items()} == {
        backend.name: (
            "with a card" if backend.kind == "gpu" else "yes",
            "both" if backend.pows == set(Pow) else ", ".join(f"`{pow_}`" for pow_ in backend.pows),
        )
        for backend in backend_table.BACKENDS
    }


def test_every_log_format_is_documented() -> None:
    assert tuple(by_first(table("docs/operator.md", "format", "looks like"))) == LOG_FORMATS


def test_every_log_field_is_documented() -> None:
    rows = table("docs/operator.md", "JSON", "journal", "what it is")
    assert [(code(key), code(field)) for key, field, _ in rows] == [(name, name.upper()) for name in formats.FIELDS]


def test_the_table_of_workers_is_what_the_service_takes() -> None:
    for effective, workers in table("docs/operator.md", "effective CPUs", "workers"):
        assert default_workers(int(effective)) == int(workers), effective


def test_every_transition_of_a_job_is_documented_as_it_is() -> None:
    rows = table("docs/http-api.md", "state", "event", "next state", "comes from")
    documented = {(code(state), code(event)): code(following) for state, event, following, _ in rows}
    assert len(documented) == len(rows)
    assert documented == {
        (str(state), event.value): str(following) for (state, event), following in jobs.TRANSITIONS.items()
    }


def test_every_status_and_field_of_a_result_is_documented() -> None:
    rows = by_first(table("docs/http-api.md", "field", "form"))
    assert tuple(rows) == api.MiningResult.__struct_fields__
    assert codes(rows["status"][0]) == [*map(str, Status), "not_found"]


def test_every_field_of_a_job_is_documented() -> None:
    rows = table("docs/http-api.md", "field", "form", "needed")
    assert {name for row in rows for name in codes(row[0])} == set(api.FIELDS)


def test_every_field_of_a_status_is_documented() -> None:
    rows = table("docs/http-api.md", "field", "meaning")
    assert [name for row in rows for name in codes(row[0])] == list(Status_.__struct_fields__)
    assert codes(dict(rows)["`state`"])[:4] == [*get_args(State)]


def test_the_limits_are_those_of_the_code() -> None:
    documented = [value for _, value, _ in table("docs/http-api.md", "limit", "value", "past it")]
    assert documented == [
        f"{limit:,.10g}"
        for limit in (
            server.MAX_CONNECTIONS,
            connection.MAX_HEAD,
            connection.MAX_HEADERS,
            connection.MAX_PIPELINED,
            connection.REQUEST_TIMEOUT_S,
            api.MAX_BODY,
            http.BODY_TIMEOUT_S,
            api.MAX_JOB_ID,
            jobs.MAX_ACTIVE,
            jobs.MAX_JOBS,
            jobs.KEEP_S,
            jobs.KEEP_UNSERVED_S,
            events.MAX_STREAMS,
            events.MAX_QUEUED,
        )
    ]
    operator = {row[0]: row[1] for row in table("docs/operator.md", "what", "value")}
    assert operator["hash rates are averages of"] == f"the last {rates.WINDOWS_S[0]:g} s"
    most = ", ".join(f"{name} {logs.MAX_ALIKE[logs.LEVELS[name]]}" for name in ("info", "warn", "error"))
    assert operator["lines of the log from one place in the program, a minute"] == most
    assert operator["lines of the log that wait to be written"] == f"{writer.MAX_QUEUED:,} characters"
    assert operator["jobs with series of their own in the metrics"] == f"{jobs.MAX_SHOWN}"
    assert operator["connections at once, job API"].startswith(f"{server.MAX_CONNECTIONS}, ")
    assert operator["connections at once, metrics"].startswith(f"{server.MAX_SCRAPERS}, ")
    assert operator["requests under way at the end get"] == f"{ports.GRACE_S:g} s"
    tcp = [value for _, value, _ in tables("docs/rig-managers.md", "limit", "value", "past it")[0]]
    limits = (line_server.MAX_CLIENTS, line_server.MAX_REQUEST, line_server.CLIENT_S)
    assert tcp == [f"{limit:,g}" for limit in limits]
    for text in (
        "holds {0:,g} connections, each for at most {2:g} seconds and {1:,g} bytes".format(*limits),
        f"{api.MAX_BODY:,} bytes",
        f"{jobs.MAX_ACTIVE:,} jobs",
        f"{server.MAX_CONNECTIONS} connections",
        f"{jobs.MAX_JOBS:,} are remembered",
    ):
        assert text in PAGES["SECURITY.md"]


# --- the job API ---


def test_every_call_and_status_code_is_documented() -> None:
    described = {
        (f"{method.upper()} {path}", status)
        for path, calls in DOCUMENT["paths"].items()
        for method, operation in calls.items()
        if method in METHODS
        for status in operation["responses"]
    }
    rows = table("docs/http-api.md", "call", "code", "`status` in the body", "when")
    assert {(code(row[0]), row[1]) for row in rows if codes(row[0])} == described
    # And what is no call's own: these are in no description.
    documented = {int(row[1]) for row in rows}
    assert documented == _status_codes() | {MISDIRECTED}


CALLS = [
    SOURCE / "web" / f"{name}.py"
    for name in ("routes", "job_api", "control", "status", "rig_api", "page", "events", "history", "doctor")
]
"""The files that reply to calls of the job API."""


def _status_codes() -> set[int]:
    """Whole numbers from 100 to 599 in the first argument of every reply that the calls make."""
    replies = [
        node.args[0]
        for path in CALLS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if is_call(node, ("json_reply", "error")) and isinstance(node, ast.Call)
    ]
    return {
        node.value
        for reply in replies
        for node in ast.walk(reply)
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and 100 <= node.value <= 599
    }


VALID = {"job_id": "a", "mining_hash": "0" * 64, "difficulty": "1", "nonce_start": "0" * 128, "nonce_end": "f" * 128}
BREAKS: dict[str, dict[str, object]] = {
    "job_id must be a string": {"job_id": 1},
    "job_id cannot be empty": {"job_id": ""},
    "job_id must be at most 128 characters": {"job_id": "a" * 129},
    "mining_hash must be 64 hex characters": {"mining_hash": "0"},
    "mining_hash must be valid hex": {"mining_hash": "x" * 64},
    "exactly one of distance_threshold and difficulty must be given": {"difficulty": "1", "distance_threshold": "1"},
    "distance_threshold must be a valid decimal number": {"difficulty": None, "distance_threshold": "x"},
    "difficulty must be a valid decimal number": {"difficulty": "x"},
    "difficulty must not be zero": {"difficulty": "0"},
    "nonce_start and nonce_end must be given together": {"nonce_end": None},
    "nonce_start must be 128 hex characters": {"nonce_start": "0"},
    "nonce_end must be 128 hex characters": {"nonce_end": "0"},
    "nonce_start must be valid hex": {"nonce_start": "x" * 128},
    "nonce_end must be valid hex": {"nonce_end": "x" * 128},
    "nonce_start must be <= nonce_end": {"nonce_start": "1" * 128, "nonce_end": "0" * 128},
}
"""What earns each message; a field that is None is left out."""


def _refusal(body: bytes) -> str:
    with pytest.raises(api.InvalidRequestError) as error:
        api.parse_mine(body, 0)
    return error.value.message


def test_the_messages_come_in_the_documented_order() -> None:
    messages = [code(message) for message, _ in table("docs/http-api.md", "message", "note")]
    assert messages[:2] == [_refusal(b"{"), _refusal(b"[]")]
    assert set(messages[2:]) == set(BREAKS)
    fields: dict[str, object] = dict(VALID)
    # From the last one on, each failure is added to those after it, and wins.
    for message in reversed(messages[2:]):
        fields |= BREAKS[message]
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        assert _refusal(body) == message


def test_no_message_of_the_parser_is_left_out() -> None:
    documented = [code(message) for message, _ in table("docs/http-api.md", "message", "note")]
    for template in templates(SOURCE / "wire" / "api.py", ("ValueError", "InvalidRequestError")):
        assert any(template.matches(message) for message in documented), template


def test_messages_beyond_the_body_are_those_of_the_service() -> None:
    others = (SOURCE / "wire" / "hosts.py", SOURCE / "mining" / "pauses.py")
    said = [template for path in (*CALLS, *others) for template in templates(path)]
    for status, cell in table("docs/http-api.md", "code", "message"):
        assert any(template.matches(code(cell)) for template in said), cell
        assert int(status) in _status_codes() | {MISDIRECTED}


def test_the_example_requests_parse() -> None:
    examples = [json.loads(text) for text in fenced("docs/http-api.md", "json")]
    assert len(examples) >= 2
    for example in examples:
        assert api.parse_mine(json.dumps(example).encode(), 1).id == example["job_id"]
    for quoted in re.findall(r"/mine .*?-d '(\{[^']+\})'", PAGES["README.md"], re.DOTALL):
        assert api.parse_mine(quoted.encode(), 1).id == "job-1"


# --- what the operator greps for and stumbles over ---


@pytest.mark.parametrize("header", [("line", "level"), ("it says", "it means", "what to do")])
def test_quoted_log_lines_and_errors_are_in_the_code(header: tuple[str, ...]) -> None:
    said = templates()
    quoted = [code(row[0]) for rows in tables("docs/operator.md", *header) for row in rows]
    assert len(quoted) >= 10
    assert not [line for line in quoted if not any(template.matches(line) for template in said)]


# --- what scripts read ---


def _fields(kind: Any, prefix: str = "") -> list[str]:
    """The paths of the fields of a report: those of a struct, of what a list holds, of what may be None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        dot = "." if prefix else ""
        return [
            path for each in msgspec.structs.fields(kind) for path in _fields(each.type, f"{prefix}{dot}{each.name}")
        ]
    if get_origin(kind) is list:
        return _fields(get_args(kind)[0], f"{prefix}[]")
    if type(None) in get_args(kind):
        (present,) = (part for part in get_args(kind) if part is not type(None))
        return _fields(present, prefix)
    return [prefix]


def test_every_field_of_json_is_documented() -> None:
    reports = {"devices": DevicesReport, "doctor": DoctorReport, "bench": BenchReport, "history": HistoryEntry}
    expected = [(command, path) for command, report in reports.items() for path in _fields(report)]
    rows = table("docs/operator.md", "command", "field", "what it is")
    assert [(code(command), code(field)) for command, field, _ in rows] == expected
    with_json = {name for name, command in cli.commands.items() if any("--json" in p.opts for p in command.params)}
    assert with_json == set(reports)


def test_the_exit_codes_of_the_man_page_are_those_of_the_guide() -> None:
    rows = table("docs/operator.md", "code", "meaning")
    assert {int(number): meaning.replace("`", "") for number, meaning in rows} == man.EXIT_CODES


# --- fuzzing ---


def test_every_fuzz_target_is_in_the_table() -> None:
    rows = table("docs/fuzzing.md", "target", "reads", "inputs", "files", "edges", "found and fixed")
    assert [code(row[0]) for row in rows] == NAMES
