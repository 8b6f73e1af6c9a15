"""The health port of a real daemon: what it answers, to whom, and that its metrics are those of METRICS.md."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_ws.protocol.frames import Timers
from edge_ws.server.config import GatewaySettings
from edge_ws.server.views import list_workers, show_worker
from edge_ws.worker.health import CONNECTIONS, LONGEST
from tests.support.gateway import serving
from tests.support.programs import PACKAGE
from tests.support.stand import PATIENCE_S, Stand
from tests.support.waiting import free_port, wait_until

_SECTION = (PACKAGE / "METRICS.md").read_text().split("\n## The worker\n")[1].split("\n## ")[0]
_ROW = re.compile(r"\| `(edgews_worker_\w+)` \| (\w+) \|([^|]*)\|")
LISTED = {
    name: (kind, set(re.findall(r"`(\w+)`", labels.split(":")[0])))
    for name, kind, labels in _ROW.findall(_SECTION)
}
SITE_FACTS = """
import os

async def get():
    return {"press_temperature": 71.5, "press": "ready", "pid": 1, "odd": [1]}

def hangs():
    os.kill(os.getppid(), 0)
    while True:
        pass

def crashes():
    os._exit(3)

def raises():
    raise RuntimeError("the press does not answer")
"""


def ask(port: int, path: str, method: str = "GET", within_s: float = 20.0) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=within_s)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def reason(port: int) -> str | None:
    status, body = ask(port, "/readyz")
    told = json.loads(body)
    assert (status == 200) == (told["code"] is None) == (told["status"] == "ready")
    return None if told["code"] is None else str(told["code"])


def samples(page: str) -> dict[str, float]:
    rows = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def beats(stand: Stand) -> Iterator[Any]:
    """A gateway whose workers say something each second."""
    settings = GatewaySettings(
        hostname="test", execution_api_url=stand.api.url, timers=Timers(heartbeat_s=1.0)
    )
    with serving(stand.store, settings, stand.port, None) as running:
        yield running


def test_a_daemon_tells_how_it_is(stand: Stand, port: int, tmp_path: Path) -> None:
    (tmp_path / "our_facts.py").write_text(SITE_FACTS)
    stand.settings["PYTHONPATH"] = f"{tmp_path}:{stand.site.environment().get('PYTHONPATH', '')}"
    words = ("--health-listen", f"127.0.0.1:{port}", "--extended-system-info-function", "our_facts.get")
    daemon = stand.start(*words)
    stand.until(lambda: reason(port) == "not_connected")
    assert ask(port, "/healthz")[0] == 200
    with stand.gateway():
        stand.until(lambda: reason(port) is None)
        stand.cli("maintenance", "on", "-c", "new disk")
        stand.until(lambda: reason(port) == "maintenance")
        stand.cli("maintenance", "off")
        stand.until(lambda: reason(port) is None)
        job = stand.queue("hello")
        stand.until(lambda: stand.state_of(job) == "success")
        stand.until(lambda: "edgews_worker_site_fact" in ask(port, "/metrics")[1])
        stand.until(lambda: "edgews_worker_round_trip_seconds" in ask(port, "/metrics")[1])
        stand.until(lambda: samples(ask(port, "/metrics")[1])["edgews_worker_outbox_entries"] == 0)
        page = ask(port, "/metrics")[1]
        # The loop hangs: nobody answers.
        daemon.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            ask(port, "/healthz", within_s=1.0)
        daemon.send_signal(signal.SIGCONT)
        stand.until(lambda: ask(port, "/healthz")[0] == 200)
    told = samples(page)
    assert told['edgews_worker_connected{transport="websocket"}'] == 1
    assert told['edgews_worker_jobs_ended_total{outcome="success"}'] == 1
    assert told['edgews_worker_reports_sent_total{report="finished"}'] >= 1
    assert told["edgews_worker_log_sent_bytes_total"] > 0
    assert told["edgews_worker_slots"] == 2
    assert abs(told["edgews_worker_clock_skew_seconds"]) < 5
    assert 0 < told["edgews_worker_round_trip_seconds"] < 5
    assert told['edgews_worker_site_fact{fact="press_temperature"}'] == 71.5
    assert told["edgews_worker_resident_memory_bytes"] < 60 * 2**20
    # With the gateway gone, its connection was lost.
    stand.until(lambda: reason(port) == "not_connected")
    with stand.gateway():
        stand.until(lambda: reason(port) is None)
        page = ask(port, "/metrics")[1]
    assert sum(value for name, value in samples(page).items() if "reconnects_total" in name) == 1
    compare(page)


def compare(page: str) -> None:
    """Hold what is exported against the table."""
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", page))
    assert kinds == {name: kind for name, (kind, _) in LISTED.items()}
    for name, labels in re.findall(r"(?m)^(\w+)(?:\{(.*)\})? ", page):
        assert set(re.findall(r'(\w+)="', labels)) == LISTED[name][1], name


def test_the_centre_hears_it(stand: Stand, beats: object, tmp_path: Path) -> None:
    (tmp_path / "our_facts.py").write_text(SITE_FACTS)
    stand.settings["PYTHONPATH"] = f"{tmp_path}:{stand.site.environment().get('PYTHONPATH', '')}"
    daemon = stand.start("--extended-system-info-function", "our_facts.get")
    stand.until(lambda: stand.worker_state() == "idle")
    shown = show_worker(stand.store.views, "w1")
    settings = {one["name"]: (one["value"], one["origin"]) for one in shown["settings"]}
    assert settings["queues"] == ("q", "--queues")
    assert settings["log_level"] == ("info", "default")
    assert settings["token_file"][1] == "--token-file"
    assert not any(key.startswith("setting") for key in shown["sysinfo"])
    for key in (
        "memory_total_gb",
        "disk_usage",
        "daemon_rss_mb",
        "loop_lag_ms",
        "outbox_entries",
        "task_sdk_version",
    ):
        assert key in shown["sysinfo"], key
    # Killed, it is not said to run any longer than its heartbeats allow, though its state in the table stays.
    daemon.kill()
    daemon.wait(30)
    stand.until(lambda: not list_workers(stand.store.views)[0]["connected"])
    stand.until(lambda: list_workers(stand.store.views)[0]["state"] == "unknown")
    (row,) = list_workers(stand.store.views)
    assert row["takes_jobs"] is False
    assert row["last_seen_s"] < PATIENCE_S


def test_silence_shows_with_no_gateway_left(stand: Stand) -> None:
    settings = GatewaySettings(
        hostname="test", execution_api_url=stand.api.url, timers=Timers(heartbeat_s=1.0)
    )
    with serving(stand.store, settings, stand.port, None), ExitStack() as late:
        daemon = stand.start()
        stand.until(lambda: stand.worker_state() == "idle")
        late.callback(daemon.wait, 30)
        late.callback(daemon.kill)
    # Whoever would note it is gone.
    stand.until(lambda: stand.worker_state() == "unknown")


@pytest.mark.parametrize("function", ["raises", "crashes", "is_not_there"])
def test_the_sites_function_costs_its_facts_alone(stand: Stand, tmp_path: Path, function: str) -> None:
    (tmp_path / "our_facts.py").write_text(SITE_FACTS)
    stand.settings["PYTHONPATH"] = f"{tmp_path}:{stand.site.environment().get('PYTHONPATH', '')}"
    with stand.gateway():
        stand.start("--extended-system-info-function", f"our_facts.{function}")
        stand.until(lambda: f"our_facts.{function}" in stand.told)
        stand.until(lambda: stand.condition()["connection"]["connected"])
    assert stand.told.count(f"our_facts.{function}") == 1


def test_a_port_that_is_taken_is_a_bad_setting(stand: Stand, port: int) -> None:
    with closing(socket.create_server(("127.0.0.1", port))):
        words = ["--url", "http://127.0.0.1:1", "--state-dir", str(stand.state_dir), "-H", "w1"]
        done = subprocess.run(
            [sys.executable, "-m", "edge_ws.cli", "worker", *words, "--health-listen", f"127.0.0.1:{port}"],
            env=stand.site.environment(EDGE_WS_TOKEN="x"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert f"health_listen: cannot listen at 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_strangers_get_little_of_it(stand: Stand, port: int) -> None:
    daemon = stand.start("--health-listen", f"0.0.0.0:{port}")
    wait_until(lambda: "health and metrics at" in stand.told, PATIENCE_S)
    assert stand.told.count("can be reached from other machines") == 1
    assert ask(port, "/healthz", "POST")[0] == 405
    assert ask(port, "/healthz", "HEAD") == (200, "")
    assert ask(port, "/metrics?x=1")[0] == 200
    assert ask(port, "/etc/passwd")[0] == 404
    assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(port, b"GET /healthz HTTP/1.1\r\nx: " + LONGEST * b"x").startswith(b"HTTP/1.1 431 ")
    # Some that say nothing hold all places, for a few seconds.
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * CONNECTIONS)]
    wait_until(lambda: answers(port), PATIENCE_S)
    for one in silent:
        one.settimeout(PATIENCE_S)
        assert one.recv(1) == b""
        one.close()
    assert psutil.Process(daemon.pid).num_fds() < 60


def answers(port: int) -> bool:
    try:
        return ask(port, "/healthz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def raw(port: int, message: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while more := connection.recv(4096):
            found += more
        return found
