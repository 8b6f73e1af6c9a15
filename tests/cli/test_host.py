"""`edge-ws status`, `stop` and `maintenance`: their words, codes and sentences; tests/worker shows what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import clean_environment, run_edge_ws
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(
        tmp_path, EDGE_WS_STATE_DIR=str(tmp_path / "state"), EDGE_WS_TOKEN="edgews_token"
    )


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def _worker(environment: dict[str, str], tmp_path: Path, port: int) -> Iterator[None]:
    """A worker that cannot reach its centre."""
    words = ["--url", f"http://127.0.0.1:{port}", "-H", "press-2", "-c", "3", "-q", "a,b"]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_ws.cli", "worker", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until((tmp_path / "state" / "control.sock").exists)
        assert any("next try in" in line for line in process.stderr)
        yield
        process.terminate()
        process.stderr.read()
        assert process.wait(30) == 0


@pytest.mark.usefixtures("_worker")
def test_status_of_a_worker_without_a_connection(environment: dict[str, str], port: int) -> None:
    done = run_edge_ws("status", environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    told = {name: text.strip() for name, text in lines.items()}
    assert told["worker"] == "press-2: starting"
    assert told["connection"].startswith(f"none to http://127.0.0.1:{port}: ")
    assert "cannot be reached" in told["connection"]
    assert told["jobs"] == "none"
    assert told["slots"] == "0 of 3 in use (wish none, default here 3)"
    assert told["queues"] == "a, b (wish none, default here a, b)"
    assert told["maintenance"] == "off"
    assert told["centre"] == "not reached yet"

    done = run_edge_ws("status", "-o", "json", environment=environment)
    condition = json.loads(done.stdout)
    assert condition["slots"] == {"in_force": 3, "used": 0, "wish": None, "default": 3}
    assert condition["centre_versions"] is None


@pytest.mark.usefixtures("_worker")
def test_maintenance_as_it_is_shown(environment: dict[str, str]) -> None:
    done = run_edge_ws("maintenance", "on", "-c", "a 'new' disk", "-w", "-o", "json", environment=environment)
    told = json.loads(done.stdout)
    assert told["maintenance"] == {"in_force": True, "comment": "a 'new' disk", "asked_by": "host"}
    assert told["state"] == "maintenance mode"
    assert 0 <= told["waited_s"] < 30
    done = run_edge_ws("status", environment=environment)
    assert "maintenance  on, asked for on this host: a 'new' disk\n" in done.stdout
    assert "takes jobs   no: maintenance\n" in done.stdout
    done = run_edge_ws("maintenance", "off", environment=environment)
    assert "maintenance  off\n" in done.stdout
    # Nothing to end is no fault.
    assert run_edge_ws("maintenance", "off", environment=environment).returncode == 0


@pytest.mark.usefixtures("_worker")
def test_stop_tells_the_time(environment: dict[str, str]) -> None:
    done = run_edge_ws("stop", "-w", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("press-2 has left after ")
    again = run_edge_ws("stop", "-w", environment=environment)
    assert (again.returncode, again.stdout) == (4, "")


@pytest.mark.parametrize("words", [["status"], ["stop", "-w"], ["maintenance", "on", "-c", "x", "-w"]])
def test_where_no_worker_runs(words: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    done = run_edge_ws(*words, environment=environment)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"edge-ws: no worker runs with the state directory {tmp_path / 'state'}; ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["maintenance", "on"], "maintenance on needs a reason: give --comments"),
        (["maintenance", "on", "-c", "  "], "maintenance on needs a reason: give --comments"),
        (["maintenance", "on", "-c", "a\nb"], "--comments: a reason is one line of printable characters"),
        (["maintenance", "on", "-c", "x" * 1025], "--comments: a reason is one line"),
        (["stop", "--wait-timeout", "3"], "--wait-timeout: it is of no use without --wait"),
        (["stop", "-w", "--wait-timeout", "nan"], "--wait-timeout: nan is no number of seconds to wait"),
        (["stop", "-w", "--wait-timeout", "-1"], "--wait-timeout: -1 is no number of seconds to wait"),
        (["maintenance", "perhaps"], "invalid choice"),
    ],
)
def test_wrong_words(words: list[str], sentence: str, environment: dict[str, str]) -> None:
    done = run_edge_ws(*words, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
