"""`edge-ws status`, `stop` and `maintenance`: their words, codes and sentences; tests/worker shows what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from edge_ws.cli import host
from edge_ws.cli.host import directory_of
from edge_ws.errors import UnreachableError
from edge_ws.store.store import Store
from edge_ws.worker.config import Place
from edge_ws.worker.network import ws_url
from tests.support.gateway import make_token, serving
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
    assert "messages" not in told["connection"]
    assert told["connection"].startswith(f"none to http://127.0.0.1:{port}: ")
    assert "cannot be reached" in told["connection"]
    assert told["jobs"] == "none"
    assert told["slots"] == "0 of 3 in use (wish none, default here 3)"
    assert told["queues"] == "a, b (wish none, default here a, b)"
    assert told["maintenance"] == "off, but the centre's wish is not known yet"
    assert told["takes jobs"].startswith("no: not connected: ")
    assert told["centre"] == "not reached yet"

    done = run_edge_ws("status", "-o", "json", environment=environment)
    condition = json.loads(done.stdout)
    assert condition["slots"] == {"in_force": 3, "used": 0, "wish": None, "default": 3}
    assert condition["centre_versions"] is None
    assert condition["takes_jobs"] is False


def test_status_tells_of_a_way_that_lets_only_small_messages_pass(
    environment: dict[str, str], tmp_path: Path, sqlite_engine: sa.Engine
) -> None:
    (tmp_path / "state").mkdir()
    store = Store(sqlite_engine)
    with serving(store) as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        (tmp_path / "state" / "sizes").write_text(json.dumps({ws_url(url): 65_536}))
        environment["EDGE_WS_TOKEN"] = make_token(store, "*")
        words = ["--url", url, "-H", "press-2", "-q", "q", "--transport", "websocket"]
        command = [sys.executable, "-m", "edge_ws.cli", "worker", *words]
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            wait_until((tmp_path / "state" / "control.sock").exists, 60)

            def connection() -> dict[str, Any]:
                done = run_edge_ws("status", "-o", "json", environment=environment)
                return dict(json.loads(done.stdout)["connection"])

            wait_until(lambda: connection()["connected"], 60)
            assert connection()["message_limit"] == 65_536
            done = run_edge_ws("status", environment=environment)
            process.terminate()
            process.wait(60)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("connection ")]
    assert line.endswith("; messages of at most 64 KiB pass on this way")


@pytest.mark.usefixtures("_worker")
def test_a_worker_listens_to_nobody_elsewhere(environment: dict[str, str], tmp_path: Path) -> None:
    wait_until(lambda: list((tmp_path / "state").glob("hosts/*.sock")), 60)
    done = run_edge_ws("status", "-o", "json", environment=environment)
    daemon = psutil.Process(json.loads(done.stdout)["pid"])
    family = [daemon, *daemon.children(recursive=True)]
    assert len(family) >= 2  # the job host, too
    listening = [one for each in family for one in each.net_connections("inet") if one.status == "LISTEN"]
    assert listening == []


@pytest.mark.usefixtures("_worker")
def test_maintenance_as_it_is_shown(environment: dict[str, str]) -> None:
    done = run_edge_ws("maintenance", "on", "-c", "a 'new' disk", "-w", "-o", "json", environment=environment)
    told = json.loads(done.stdout)
    assert told["maintenance"] == {"in_force": True, "comment": "a 'new' disk", "asked_by": "host"}
    assert told["state"] == "maintenance mode"
    assert 0 <= told["waited_s"] < 30
    done = run_edge_ws("status", environment=environment)
    assert "maintenance  on, asked for on this host: a 'new' disk\n" in done.stdout
    assert "takes jobs   no: in maintenance" in done.stdout
    done = run_edge_ws("maintenance", "off", environment=environment)
    assert "maintenance  off, " in done.stdout
    # Nothing to end is no fault.
    assert run_edge_ws("maintenance", "off", environment=environment).returncode == 0


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize("words", [["status"], ["stop", "--now"], ["maintenance", "on", "-c", "x"]])
def test_another_worker_than_that_of_the_name_is_left_alone(
    words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    done = run_edge_ws(*words, "-H", "press-3", environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    there = f"the worker with the state directory {tmp_path / 'state'} is press-2, not press-3"
    assert done.stderr == f"edge-ws: -H: {there}\n"
    told = json.loads(run_edge_ws("status", "-H", "press-2", "-o", "json", environment=environment).stdout)
    assert (told["leaving"]["in_force"], told["maintenance"]["in_force"]) == (False, False)


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


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """A folder of state directories; four have a daemon, one had one, and one thing is none."""
    (tmp_path / "a file").touch()
    held = [tmp_path / f"press-{number}" for number in range(4)]
    code = "import sys, time, pathlib; from edge_ws.worker.state import StateDirectory as S;"
    code += "held = [S(pathlib.Path(one)) for one in sys.argv[1:]]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, held)],
        env=clean_environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.read(1)
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone" / "lock").touch()
        yield tmp_path
        holder.stdin.close()


@pytest.mark.parametrize("name", ["gone", "absent"])
def test_where_no_worker_has_the_default_name_those_that_run_are_told(folders: Path, name: str) -> None:
    with pytest.raises(UnreachableError) as fault:
        directory_of(Place(folders / name, is_default=True), None)
    beside = ", ".join(str(folders / f"press-{number}") for number in range(3))
    assert str(fault.value) == (
        f"no worker runs with the state directory {folders / name}; workers run here with {beside}"
        " and 1 more: give -H or --state-dir"
    )
    # Where somebody has named it, that is what was meant.
    named = Place(folders / name, is_default=False)
    assert directory_of(named, None) == named.directory
    assert directory_of(Place(folders / "press-1", is_default=True), None) == folders / "press-1"


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
        (
            ["status", "--state-dir", "/dev/null"],
            "the state directory /dev/null cannot be used: Not a directory",
        ),
        (["stop", "-w", "--state-dir", "x" * 300], "cannot be used: File name too long; see --state-dir"),
    ],
)
def test_wrong_words(words: list[str], sentence: str, environment: dict[str, str]) -> None:
    done = run_edge_ws(*words, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_daemon_of_an_older_release_is_shown_all_the_same() -> None:
    """After an upgrade the command is newer than the daemon, until that is restarted."""
    told = {
        "worker": "w1",
        "state": "idle",
        "pid": 7,
        "host": "here",
        "started_at": "2026-01-02T03:04:05+00:00",
        "state_dir": "/state",
        "connection": {"url": "u", "connected": False, "transport": None, "since": None, "reason": None},
        "slots": {"in_force": 1, "used": 0, "wish": None, "default": 1},
        "queues": {"in_force": None, "wish": None, "default": None},
        "maintenance": {"in_force": False, "comment": None, "asked_by": None},
        "leaving": {"in_force": False, "why": None},
        "takes_jobs": False,
        "jobs": [],
        "versions": {},
        "centre_versions": None,
    }
    rows = dict(host._rows(told))
    assert rows["takes jobs"] == "no: it has not said why"
    assert rows["line"] == "unknown: the worker is of an older release than this command"
    assert "faults" not in rows
