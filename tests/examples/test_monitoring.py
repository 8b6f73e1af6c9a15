"""Alerts, scrape configuration and dashboard, read by Prometheus' own programs."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge_ws import __file__ as package
from edge_ws.resources import examples_dir
from tests.support import services
from tests.support.waiting import free_port, wait_until

MONITORING = examples_dir() / "monitoring"
RULES = MONITORING / "edge-ws.rules.yml"
DASHBOARD = MONITORING / "edge-ws.dashboard.json"
UNIT_TESTS = Path(__file__).parent / "monitoring" / "edge-ws.test.yml"
METRICS = Path(package).parent / "METRICS.md"
_NAME = re.compile(r"\bedgews_[a-z0-9_]+")
_SUFFIX = re.compile(r"_(bucket|sum|count)$")


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Return all queries of the dashboard by their panels' titles, variables put in."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$queue", ".*")
            assert "$" not in text, text
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def names() -> set[str]:
    """Return the metrics that rules and dashboard name, histograms by their base name."""
    texts = [*(rule["expr"] for rule in alerts()), *expressions().values()]
    return {_SUFFIX.sub("", name) for text in texts for name in _NAME.findall(text)}


def test_every_metric_is_one_that_is_exported() -> None:
    written = set(_NAME.findall(METRICS.read_text()))
    assert names() <= written, names() - written


def test_promtool_takes_rules_and_configuration() -> None:
    services.prometheus()
    for what, file in (("rules", RULES), ("config", MONITORING / "prometheus.yml")):
        subprocess.run(["promtool", "check", what, str(file)], check=True, capture_output=True, timeout=60)


def test_each_alert_fires_and_does_not_fire_without_need(tmp_path: Path) -> None:
    services.prometheus()
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            # The advice is for people; promtool would compare it word by word.
            del rule["annotations"]["description"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "test.yml").write_text(UNIT_TESTS.read_text().replace("RULES", "rules.yml"))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    tested = [
        one for case in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for one in case["alert_rule_test"]
    ]
    for fires in (True, False):
        assert {one["alertname"] for one in tested if bool(one.get("exp_alerts")) is fires} == {
            rule["alert"] for rule in alerts()
        }


# A real Prometheus, which scrapes what looks like a gateway and a worker


class Fleet:
    """What a gateway and a worker show, with numbers that grow at each look."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics: list[tuple[Any, tuple[dict[str, str], ...]]] = []
        queue, worker = {"queue": "gpu"}, {"worker": "w1"}
        ways = tuple({"transport": one} for one in ("websocket", "longpoll"))
        who = {"gateway": "a", "hostname": "h", "pid": "7", "version": "1", "airflow": "3.3.2"}
        self._gauge("gateway_info", who)
        self._gauge("gateway_start_time_seconds", {})
        self._gauge("fleet_exporter", {})
        self._gauge("connections", *ways)
        self._gauge("wakeup", *({"by": one} for one in ("listen", "polling")))
        self._gauge("gateways", *({"state": one} for one in ("alive", "silent")))
        self._gauge("workers", *({"state": one} for one in ("idle", "running", "unknown")))
        self._gauge("jobs", *({**queue, "state": one} for one in ("queued", "running")))
        for name in ("oldest_wait_seconds", "slots", "free_slots", "workers", "paused"):
            self._gauge(f"queue_{name}", queue)
        self._gauge("tokens_expiring", {})
        self._gauge("tokens_expired_in_use", {})
        for name in [
            "outbox_entries",
            "outbox_bytes",
            "outbox_oldest_seconds",
            "log_backlog_bytes",
            "event_loop_lag_seconds",
            "resident_memory_bytes",
            "clock_skew_seconds",
            "round_trip_seconds",
            "cpu_usage_ratio",
            "load1",
            "memory_usage_ratio",
            "disk_free_bytes",
            "slots",
            "slots_used",
            "jobs_running",
            "last_heard_seconds",
        ]:
            self._gauge(f"worker_{name}", worker)
        self._gauge(
            "worker_info",
            {**worker, "version": "1", "airflow": "3.3.2", "python": "3", "transport": "websocket"},
        )
        self._counter("connects", *ways)
        self._counter("drops", {"reason": "lost"})
        self._counter("refusals", {"code": "token"})
        self._counter("offers", {})
        self._counter("offer_results", *({"result": one} for one in ("accepted", "refused")))
        self._counter("job_ends", *({"outcome": one} for one in ("success", "failed", "lost")))
        self._counter("cancels", {})
        self._counter("log_bytes", {})
        self._counter("faults", {})
        self._counter("database_errors", {"error": "unreachable"})
        self._histogram("push_latency_seconds", {})
        self._histogram("start_latency_seconds", {})
        self._histogram("wish_latency_seconds", {})
        self._histogram("database_seconds", {"kind": "read"}, {"kind": "write"})
        self._histogram("event_loop_lag_seconds", {})

    def _gauge(self, name: str, *labels: dict[str, str]) -> None:
        self._add(Gauge, name, labels)

    def _counter(self, name: str, *labels: dict[str, str]) -> None:
        self._add(Counter, name, labels)

    def _histogram(self, name: str, *labels: dict[str, str]) -> None:
        self._add(Histogram, name, labels)

    def _add(self, kind: Any, name: str, labels: tuple[dict[str, str], ...]) -> None:
        metric = kind(f"edgews_{name}", name, list(labels[0]), registry=self._registry)
        self._metrics.append((metric, labels))

    def text(self) -> bytes:
        for metric, labels in self._metrics:
            for one in labels:
                child = metric.labels(**one) if one else metric
                (child.observe if isinstance(metric, Histogram) else child.inc)(1)
        return generate_latest(self._registry)


@contextmanager
def exporting(fleet: Fleet) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = fleet.text()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield served.server_address[1]
        finally:
            served.shutdown()
            thread.join()


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """Start one with the example's configuration, the targets and the pace apart; give its URL."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(RULES)]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}] if job["job_name"] == "edge-ws" else []
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(services.prometheus()),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_until(lambda: is_ready(url), 60, every_s=0.1)
            yield url
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/-/ready").status_code == 200
    return False


def test_every_query_of_the_dashboard_and_the_alerts_finds_something(tmp_path: Path) -> None:
    fleet = Fleet()
    with exporting(fleet) as target, prometheus(tmp_path, target) as url, httpx2.Client(timeout=30) as client:

        def ask(query: str) -> list[Any]:
            answer = client.get(f"{url}/api/v1/query", params={"query": query}).json()
            assert answer["status"] == "success", (query, answer)
            found: list[Any] = answer["data"]["result"]
            return found

        wait_until(lambda: ask("count_over_time(edgews_gateway_info[1m]) > 2"), 60, every_s=0.2)
        for title, query in expressions().items():
            assert ask(query), (title, query)
        for name in names():
            assert ask(f'{{__name__=~"{name}(_bucket)?"}}'), name
        rules = client.get(f"{url}/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["name"] for rule in rules} == {rule["alert"] for rule in alerts()}
        wait_until(
            lambda: all(
                rule["health"] == "ok"
                for rule in client.get(f"{url}/api/v1/rules").json()["data"]["groups"][0]["rules"]
            ),
            30,
        )


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["targets"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    # No two in one place.
    taken = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
