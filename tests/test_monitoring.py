"""The rules for Prometheus and the dashboards for Grafana: what they name exists, alerts fire when they should."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from quantus_miner.dev.pool import DEV_WALLET
from quantus_miner.web.metrics import METRICS, MinerCollector

from .alert_cases import CASES
from .conftest import MinerProcess
from .pages import by_first, table
from .test_metrics import SNAPSHOT
from .test_policy import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT: Final = Path(__file__).parent.parent
RULES: Final = ROOT / "prometheus" / "rules.yml"
DASHBOARDS: Final = {path.stem: json.loads(path.read_text()) for path in (ROOT / "grafana" / "dashboards").iterdir()}
WAIT_S: Final = 60.0

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="RULES AND DASHBOARDS ARE NOT TESTED against Prometheus, which is missing (apt install prometheus)",
)


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


ENTRIES: Final = [entry for group in load("prometheus/rules.yml")["groups"] for entry in group["rules"]]
RECORDS: Final[dict[str, str]] = {entry["record"]: entry["expr"] for entry in ENTRIES if "record" in entry}
ALERTS: Final[dict[str, Any]] = {entry["alert"]: entry for entry in ENTRIES if "alert" in entry}


# --- what expressions name ---

OF_TARGETS: Final = {"job", "instance"}
LABELS: Final = {"up": OF_TARGETS} | {row.name: OF_TARGETS | set(row.labels) for row in METRICS}
WORDS: Final = {"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}
GROUPING: Final = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"


class Selector(NamedTuple):
    text: str
    metric: str
    labels: frozenset[str]


def selectors(expr: str) -> Iterator[Selector]:
    """The vector selectors of a PromQL expression: every name that is neither a function nor a word of the language."""
    expr = re.sub(r"\[[^\]]*\]", "", re.sub(GROUPING, " ", expr))
    for name, matchers, call in re.findall(r"(?<![\w:])([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(\s*\()?", expr):
        if not call and name not in WORDS:
            yield Selector(name + matchers, name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)))


def check(expr: str, *, also: Iterable[str] = ()) -> None:
    """Every metric exists and has the labels that are named; one of them has those that are named ``also``."""
    found = list(selectors(expr))
    assert found, expr
    for selector in found:
        assert selector.labels <= labels_of(selector.metric), (selector, expr)
    grouping = {label for group in re.findall(GROUPING, expr) for label in re.findall(r"\w+", group)}
    assert grouping | set(also) <= set().union(*(labels_of(selector.metric) for selector in found)), expr


def labels_of(metric: str) -> set[str]:
    if metric in RECORDS:
        return set().union(*(labels_of(selector.metric) for selector in selectors(RECORDS[metric])))
    return LABELS[metric]


def panels() -> list[tuple[str, str, str, str]]:
    """Dashboard, panel, expression and legend of every query."""
    return [
        (name, panel["title"], target["expr"], target["legendFormat"])
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def test_the_parser_of_expressions_finds_what_is_named() -> None:
    expr = (
        'sum by (source) (rate(a_total{x=~"a|b (c)", y!="2"}[5m])) / ignoring (z) group_left () (b:c > bool 1e3) and d'
    )
    assert [(found.metric, set(found.labels)) for found in selectors(expr)] == [
        ("a_total", {"x", "y"}),
        ("b:c", set()),
        ("d", set()),
    ]
    for wrong in ("miner_hash_rat > 0", 'miner_hash_rate{engine="a"}', "sum by (engine) (miner_hash_rate)"):
        with pytest.raises((AssertionError, KeyError)):
            check(wrong)


@pytest.mark.parametrize("name", RECORDS)
def test_recording_rules_name_what_exists_and_are_used(name: str) -> None:
    check(RECORDS[name])
    everything = [*RECORDS.values(), *(alert["expr"] for alert in ALERTS.values()), *(expr for *_, expr, _ in panels())]
    assert any(name in expr for expr in everything)


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_name_what_exists_and_say_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description"}
    check(alert["expr"], also=re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
    assert alert["annotations"]["summary"].startswith("{{ $labels.instance }}: ")
    assert alert["annotations"]["description"].endswith(".")


@pytest.mark.parametrize(("dashboard", "panel", "expr", "legend"), panels())
def test_panels_name_what_exists(dashboard: str, panel: str, expr: str, legend: str) -> None:
    check(expr, also=re.findall(r"\{\{(\w+)\}\}", legend))
    assert "$instance" in expr


def test_dashboards_are_complete() -> None:
    assert DASHBOARDS.keys() == {"rig", "fleet"}
    for dashboard in DASHBOARDS.values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in dashboard["panels"]:
            assert panel["title"]
            assert panel["type"] == "row" or panel["description"].endswith(".")
        cells = [
            (x, y)
            for panel in dashboard["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(cells)) == len(cells), "panels overlap"
        assert max(x for x, _ in cells) < 24
    (link,) = re.findall(r"/d/([\w-]+)\?var-instance=", json.dumps(DASHBOARDS["fleet"]))
    assert link == DASHBOARDS["rig"]["uid"]


def test_the_compose_file_and_what_it_mounts_fit_together() -> None:
    services = load("grafana/compose.yml")["services"]
    assert services.keys() == {"prometheus", "alertmanager", "grafana"}
    mounts = [volume.split(":") for service in services.values() for volume in service["volumes"]]
    assert all((ROOT / "grafana" / source).exists() for source, *_ in mounts if source.startswith("."))
    # Nothing listens on other addresses than 127.0.0.1.
    assert {service["network_mode"] for service in services.values()} == {"host"}
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    listens = {
        name: flag.removeprefix("--web.listen-address=")
        for name, service in services.items()
        for flag in service.get("command", ())
        if flag.startswith("--web.listen-address=")
    }
    assert listens == {"prometheus": "127.0.0.1:9090", "alertmanager": "127.0.0.1:9093"}
    sources = {each["type"]: each for each in load("grafana/provisioning/datasources/prometheus.yml")["datasources"]}
    assert {kind: each["url"] for kind, each in sources.items()} == {
        name: f"http://{address}" for name, address in listens.items()
    }
    (alerts,) = (panel for panel in DASHBOARDS["fleet"]["panels"] if panel["type"] == "alertlist")
    assert alerts["options"]["datasource"] == sources["prometheus"]["name"]
    config = load("prometheus/prometheus.yml")
    (alertmanager,) = config["alerting"]["alertmanagers"]
    assert alertmanager["static_configs"] == [{"targets": [listens["alertmanager"]]}]
    assert sources["prometheus"]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (job,) = config["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in ALERTS["MinerDown"]["expr"]
    (provider,) = load("grafana/provisioning/dashboards/quantus-miner.yml")["providers"]
    assert ["./dashboards", provider["options"]["path"], "ro"] in mounts
    named = set(re.findall(r"\bMiner\w+", (ROOT / "prometheus" / "alertmanager.yml").read_text()))
    assert named <= ALERTS.keys()


def test_every_alert_is_documented() -> None:
    rows = by_first(table("docs/metrics.md", "alert", "severity", "fires when"))
    assert {name: severity for name, (severity, _) in rows.items()} == {
        name: alert["labels"]["severity"] for name, alert in ALERTS.items()
    }
    files = by_first(table("docs/metrics.md", "file", "what it is"))
    assert all((ROOT / file).exists() for file in files)


# --- promtool ---


def unit_tests() -> Iterator[dict[str, Any]]:
    """One test for each alert: it fires for one miner and for no other."""
    for name, case in CASES.items():
        alert = ALERTS[name]
        rigs = {"rig": case.fires} | {f"quiet-{number}": quiet for number, quiet in enumerate(case.quiet)}
        expected = {
            "exp_labels": {"job": "quantus-miner", "instance": "rig"} | case.labels | alert["labels"],
            "exp_annotations": {"summary": f"rig: {case.summary}", "description": alert["annotations"]["description"]},
        }
        yield {
            "name": name,
            "interval": "1m",
            "input_series": [
                {"series": series_of(rig, series), "values": values}
                for rig, given in rigs.items()
                for series, values in given.items()
            ],
            "alert_rule_test": [{"eval_time": f"{case.at}m", "alertname": name, "exp_alerts": [expected]}],
        }


def series_of(rig: str, series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{job="quantus-miner",instance="{rig}"{"," if labels else ""}{labels}}}'


def promtool(*args: str) -> None:
    done = subprocess.run(["promtool", *args], check=False, capture_output=True, text=True)  # noqa: S607
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(RULES.with_name("prometheus.yml")))


@needs_prometheus
def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert CASES.keys() == ALERTS.keys()
    assert all(case.quiet for case in CASES.values())
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": list(unit_tests())}))  # JSON is YAML
    promtool("test", "rules", str(file))


# --- a real Prometheus ---


class Prometheus:
    """The API of a Prometheus."""

    def __init__(self, port: int, log: list[str]) -> None:
        self.log = log
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def get(self, path: str, **parameters: str) -> Any:
        self._connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
        with self._connection.getresponse() as response:
            answer = json.loads(response.read())
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def has(self, expr: str) -> bool:
        return bool(self.get("query", query=expr)["result"])

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def running_prometheus(folder: Path, ports: Iterable[int]) -> Iterator[Prometheus]:
    """A real one with our rules, which scrapes ``ports`` and evaluates the rules twice a second."""
    config = load("prometheus/prometheus.yml")
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    del config["alerting"]
    config["rule_files"] = [str(RULES)]
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    flags = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    with subprocess.Popen(
        ["prometheus", *flags, "--web.listen-address=127.0.0.1:0"],  # noqa: S607
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            log: list[str] = []
            port = re.compile(r"Listening on.*address=\S*:(\d+)")
            # These two lines come in any order.
            while not (any("Server is ready" in line for line in log) and any(map(port.search, log))):
                line = process.stderr.readline()
                assert line, log
                log.append(line)
            reader = threading.Thread(target=log.extend, args=(process.stderr,))
            reader.start()
            with contextlib.closing(Prometheus(int(port.findall("".join(log))[0]), log)) as prometheus:
                yield prometheus
            process.kill()
            reader.join(20)
        finally:
            process.kill()


@contextlib.contextmanager
def rig_with_cards() -> Iterator[int]:
    """The port of an exporter of a snapshot that has GPUs, with readings of NVIDIA cards."""
    registry = CollectorRegistry()
    registry.register(MinerCollector(SNAPSHOT))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(20)


def queries(instances: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each expression by name, as queries of which one must have a result.

    Alerts stay quiet while all is well, so it is their selectors that must find something.
    """
    for record in RECORDS:
        yield record, (record,)
    for name, alert in ALERTS.items():
        for selector in selectors(alert["expr"]):
            yield f"{name}: {selector.text}", (selector.text,)
    for dashboard, panel, expr, _ in panels():
        expr = expr.replace("$__rate_interval", "1m")
        choices = instances if dashboard == "rig" else (".*",)
        yield f"{dashboard}, {panel}: {expr}", tuple(expr.replace("$instance", choice) for choice in choices)


async def with_pool(test: Callable[[str], None]) -> None:
    """Run ``test`` in a thread with the URL of a pool."""
    mined = pool(difficulty=20_000)
    await mined.start()
    try:
        await asyncio.to_thread(test, mined.url)
    finally:
        await mined.close()


@needs_prometheus
def test_every_expression_has_series_in_a_prometheus_that_scraped_miners(tmp_path: Path) -> None:
    def scrape(url: str) -> None:
        flags = ("--port=0", "--metrics-port=0", "--workers=1")
        with (
            MinerProcess(*flags, f"--pool={url}", f"--wallet={DEV_WALLET}") as pooled,
            MinerProcess(*flags) as api,
            rig_with_cards() as cards,
        ):
            job = {"job_id": "1", "mining_hash": "00" * 32, "difficulty": "1000"}
            assert api.call("POST", "/mine", job)[0] == 200
            assert api.result("1")["status"] == "completed"
            ports = (pooled.metrics_port, api.metrics_port, cards)
            with running_prometheus(tmp_path, ports) as prometheus:
                missing = dict(queries([f"127.0.0.1:{port}" for port in ports]))
                end = time.monotonic() + WAIT_S
                while missing and time.monotonic() < end:
                    missing = {name: each for name, each in missing.items() if not any(map(prometheus.has, each))}
                assert not missing, (list(missing), prometheus.log)
                rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
                assert len(rules) == len(ENTRIES)
                assert {(rule["name"], rule["health"]) for rule in rules} == {(rule["name"], "ok") for rule in rules}
            assert (pooled.stop(), api.stop()) == (0, 0)

    asyncio.run(with_pool(scrape))
