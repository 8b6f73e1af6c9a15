"""The real daemon process against a real gateway: light, quick to say what is wrong, and clean when it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Timers
from edge_ws.server.config import GatewaySettings
from edge_ws.store.store import Store
from edge_ws.worker.control import ask
from tests.support.gateway import RunningGateway, make_token, serving
from tests.support.programs import PACKAGE, clean_environment, run_python
from tests.support.rows import FakeWorker
from tests.support.waiting import free_port, wait_until

HEAVY = ("airflow", "sqlalchemy", "starlette", "pydantic", "uvicorn", "httpx2")


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def gateway(store: Store) -> Iterator[RunningGateway]:
    with serving(store) as gateway:
        yield gateway


def flags(folder: Path, url: str, token: str) -> list[str]:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    names = ["-H", "w1", "-q", "q", "--token-file", str(path), "--state-dir", str(folder / "state")]
    return ["-m", "edge_ws.cli", "worker", "--url", url, *names]


@contextmanager
def daemon(folder: Path, url: str, token: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *flags(folder, url, token)]
    environment = clean_environment(folder, **settings)
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def test_a_fresh_interpreter_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import edge_ws.worker.daemon, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = run_python("-c", code, environment=clean_environment(tmp_path))
    loaded = json.loads(done.stdout)
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []


def test_it_connects_is_light_and_leaves_nothing_behind(
    tmp_path: Path, store: Store, gateway: RunningGateway
) -> None:
    with daemon(tmp_path, gateway.base_url, make_token(store)) as process:
        told = read_until(process, "connected: w1 by websocket, ")
        assert re.search(
            r"queues q, 8 slots; here edge-ws \S+, Airflow \S+, Python \S+; at the centre ", told
        )
        told = read_until(process, "taking jobs")
        memory = psutil.Process(process.pid).memory_info()
        assert memory.rss <= 40 * 2**20
        wait_until(lambda: store.views.workers()[0].state == "idle")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert store.views.workers()[0].state == "offline"
    left = {path.suffix for path in (tmp_path / "state" / "hosts").iterdir()}
    assert left <= {".log"}
    assert not any(
        str(tmp_path) in " ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])
    )


def test_it_says_why_it_has_no_job_host(tmp_path: Path, store: Store) -> None:
    """Airflow is broken on the host: the centre is told what `edge-ws status` says there."""
    for package in ("airflow", "airflow/sdk"):
        (tmp_path / "broken" / package).mkdir(parents=True)
        (tmp_path / "broken" / package / "__init__.py").touch()
    path = os.pathsep.join([str(PACKAGE.parent), str(tmp_path / "broken")])
    settings = GatewaySettings(hostname="test", timers=Timers(heartbeat_s=0.5))
    with (
        serving(store, settings) as gateway,
        daemon(tmp_path, gateway.base_url, make_token(store), PYTHONPATH=path),
    ):
        wait_until(lambda: any(one.room.code == "no_job_host" for one in store.views.workers()), 60.0)
        (found,) = store.views.workers()
    assert not found.room.ready
    assert found.room.why.startswith("Airflow cannot be loaded on this worker: ")


def test_a_proven_worker_that_is_refused_takes_no_jobs_and_does_not_say_so(
    tmp_path: Path, store: Store, gateway: RunningGateway
) -> None:
    """The job host comes up all the same; only a worker that is connected says that it takes jobs."""
    with daemon(tmp_path, gateway.base_url, make_token(store)) as process:
        read_until(process, "taking jobs")
    (tmp_path / "token").write_text("edgews_wrong")
    with daemon(tmp_path, gateway.base_url, "edgews_wrong") as process:
        told = read_until(process, "ERROR not connected: token refused")
        state = tmp_path / "state"
        # Until its job host is up, that is the reason.
        wait_until(lambda: ask(state, "status")["no_jobs_code"] == "not_connected", 60.0)
        assert ask(state, "status")["why_no_jobs"].startswith("not connected: token refused")
        process.terminate()
        told += process.stderr.read()
    assert "taking jobs" not in told


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unknown token", "it is unknown here); at the centre: airflow edge-ws token create"),
        ("expired token", "(expired 20"),
        ("other name", "(it admits workers named other, not w1)"),
        ("wrong url", "no edge-ws is there; --url is Airflow's base URL"),
        ("name in use", "the name w1 is in use by a connected worker with another state directory"),
    ],
)
def test_a_refusal_is_one_sentence_and_exit_code_3(
    tmp_path: Path, store: Store, gateway: RunningGateway, fault: str, sentence: str
) -> None:
    url, token = gateway.base_url, make_token(store)
    if fault == "unknown token":
        token = "edgews_wrong"
    elif fault == "expired token":
        token = make_token(store, expires_in_s=-1.0)
    elif fault == "other name":
        token = make_token(store, "other")
    elif fault == "wrong url":
        url += "/elsewhere"
    elif fault == "name in use":
        FakeWorker(store).register()
    done = run_python(*flags(tmp_path, url, token), environment=clean_environment(tmp_path))
    assert done.returncode == 3, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unreachable_server_is_tried_again_with_pauses(tmp_path: Path) -> None:
    with daemon(tmp_path, f"http://127.0.0.1:{free_port()}", "edgews_token") as process:
        begun = time.monotonic()
        for _ in range(3):
            told = read_until(process, "next try in")
            assert "cannot be reached" in told
        assert time.monotonic() - begun > 0.1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_one_state_directory_one_daemon(tmp_path: Path, store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    with daemon(tmp_path, gateway.base_url, token) as process:
        read_until(process, "connected: ")
        second = run_python(
            *flags(tmp_path, gateway.base_url, token), environment=clean_environment(tmp_path)
        )
        assert (second.returncode, "another worker runs with the state directory" in second.stderr) == (
            2,
            True,
        )


def test_a_proven_credential_that_is_revoked_keeps_the_daemon(
    tmp_path: Path, store: Store, gateway: RunningGateway
) -> None:
    with daemon(tmp_path, gateway.base_url, make_token(store)) as process:
        read_until(process, "connected: ")
        store.tokens.revoke_token("test")
        told = read_until(process, "running tasks go on, next try in")
        assert "token refused by" in told
        assert process.poll() is None
