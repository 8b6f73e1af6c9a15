"""The job host's process, spoken to over its socket, with real supervisors and a small Execution API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.airflow_release import from_3_4_on
from tests.support.execution_api import ExecutionApi
from tests.support.host_jobs import events_in, go, is_running, job_of, note_of, prepare
from tests.support.jobs import Site, callback_workload, task_workload
from tests.support.raw_host import Line, RawHost, raw_host
from tests.support.services import missing
from tests.support.waiting import wait_until

# The way of a job


def test_a_task_runs_to_its_end(line: Line, api: ExecutionApi, site: Site) -> None:
    workload = task_workload("hello")
    claim = str(uuid.uuid4())
    line.say("prepare", claim=claim, payload=workload.payload, server=api.url)
    prepared = line.hear("prepared", claim)
    assert prepared["log_path"] == str(site.logs / workload.log_path)
    line.say("go", claim=claim, token="secret-token")
    line.hear("started", claim)
    ended = line.hear("ended", claim)
    assert (ended["exit_code"], ended["detail"], ended["log_uploaded"]) == (0, "", False)
    assert "hello from the task" in events_in(site.logs / workload.log_path)
    assert api.states_of(workload.id) == ["success"]
    start = api.calls_of(workload.id)[0]
    assert start.token == "secret-token"
    assert start.body["hostname"] == "factory-7"
    line.say("forget", claim=claim)
    assert claim not in {job["claim"] for job in line.hello()["jobs"]}


def test_a_jobs_environment(line: Line, api: ExecutionApi, site: Site) -> None:
    line.hear("ended", go(line, api, task_workload("hello")))
    environment = dict(
        text.split("=", 1) for text in (site.notes / "environment").read_text().splitlines() if "=" in text
    )
    assert environment["AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS"] == "60"
    assert environment["EDGE_WS_WORKER_NAME"] == "factory-7"
    assert "_AIRFLOW_PROCESS_CONTEXT" not in environment
    assert "secret-token" not in str(environment)
    assert not [name for name in environment if "OTEL_ON" in name]


def test_a_task_holds_none_of_the_hosts_files(
    line: Line, api: ExecutionApi, site: Site, shared_host: RawHost
) -> None:
    waiting = prepare(line, api, task_workload("wait"))
    line.hear("ended", go(line, api, task_workload("hello")))
    held = (site.notes / "descriptors").read_text()
    for name in ("eventpoll", ".lock", ".sock"):
        assert name not in held
    sockets = {text for text in held.splitlines() if text.startswith("socket:")}
    assert len(sockets) == 4  # the supervisor's: requests (as stdin), stdout, stderr, logs
    line.say("drop", claim=waiting)
    line.hear("dropped", waiting)


def test_nothing_starts_without_go(line: Line, api: ExecutionApi, shared_host: RawHost) -> None:
    workload = task_workload("hello")
    claim = prepare(line, api, workload)
    line.hear("ended", go(line, api, task_workload("hello")))  # a later one starts and ends meanwhile
    job = job_of(shared_host, claim)
    assert job["phase"] == "prepared"
    assert api.calls_of(workload.id) == []
    line.say("drop", claim=claim)
    line.hear("dropped", claim)
    assert not psutil.pid_exists(int(str(job["pid"])))
    assert api.calls_of(workload.id) == []


def test_a_waiting_job_that_dies_is_not_started(line: Line, api: ExecutionApi, shared_host: RawHost) -> None:
    claim = prepare(line, api, task_workload("hello"))
    line.hello()
    os.kill(int(str(job_of(shared_host, claim)["pid"])), signal.SIGKILL)
    assert "killed by SIGKILL before the task began" in line.hear("not_started", claim)["reason"]


def test_requests_may_be_repeated(line: Line, api: ExecutionApi) -> None:
    workload = task_workload("hello")
    claim = prepare(line, api, workload)
    prepare(line, api, workload, claim)
    for _ in range(2):
        line.say("go", claim=claim, token="t")
    line.hear("ended", claim)
    assert [call.path.rsplit("/")[-1] for call in api.calls_of(workload.id)].count("run") == 1
    for _ in range(2):
        line.say("forget", claim=claim)
    line.say("cancel", claim=claim, grace_s=1, reason="too late")
    line.say("drop", claim=claim)
    line.hear("dropped", claim)


def test_an_exit_code_of_the_task(line: Line, api: ExecutionApi) -> None:
    workload = task_workload("vanish")
    ended = line.hear("ended", go(line, api, workload))
    assert (ended["exit_code"], ended["detail"]) == (7, "the task's process exited with code 7")
    assert api.states_of(workload.id) == ["failed"]


def test_an_end_is_known_at_once(site: Site, api: ExecutionApi) -> None:
    """Not after `min_heartbeat_interval`, as it would be for more than half of the jobs."""
    environment = site.environment(AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="120")
    with raw_host(site.folder / "patient", environment) as host:
        line = host.connect()
        line.hello()
        began = time.monotonic()
        for _ in range(4):
            line.hear("ended", go(line, api, task_workload("bash")))
        assert time.monotonic() - began < 120


def test_a_callback_runs_as_a_task_does(line: Line, api: ExecutionApi, site: Site) -> None:
    good, bad = callback_workload("builtins.print"), callback_workload("nowhere.at_all")
    claims = [go(line, api, workload) for workload in (good, bad)]
    for claim in claims:
        line.hear("started", claim)
    assert line.hear("ended", claims[0])["exit_code"] == 0
    ended = line.hear("ended", claims[1])
    assert ended["exit_code"] != 0
    assert "code 1" in ended["detail"]
    assert "Callback executed successfully" in events_in(site.logs / good.log_path)


# Bad input


@pytest.mark.parametrize(
    ("status", "detail", "sentence"),
    [
        (409, {"reason": "invalid_state", "previous_state": "running"}, "409"),
        (409, {"reason": "invalid_state", "previous_state": "success"}, "previous_state success"),
        (403, "Invalid auth token: Signature has expired", "Signature has expired"),
        (404, {"reason": "not_found"}, "404"),
    ],
)
def test_a_refused_start_is_not_started(
    line: Line, api: ExecutionApi, status: int, detail: object, sentence: str
) -> None:
    workload = task_workload("hello")
    api.refuse_run[workload.id] = (status, detail)
    began = time.monotonic()
    never = line.hear("not_started", go(line, api, workload))
    reason = never["reason"]
    assert never["fault"] == ""
    assert time.monotonic() - began < 4
    assert reason.startswith(f"the Execution API refused the start with {status}")
    assert sentence in reason
    assert api.states_of(workload.id) == []


@from_3_4_on
def test_a_callback_that_airflow_refuses_was_not_started(line: Line, api: ExecutionApi) -> None:
    """Its token is for one start; whoever has had that start ends the callback."""
    workload = callback_workload("builtins.print")
    api.refuse_run[workload.id] = (409, {"reason": "invalid_state", "previous_state": "running"})
    reason = line.hear("not_started", go(line, api, workload))["reason"]
    assert reason.startswith("the Execution API refused the start with 409")


@from_3_4_on
def test_a_task_in_a_fresh_interpreter(site: Site, api: ExecutionApi) -> None:
    """With the site's own setting, which the supervisor reads; it is reported and stopped as any other."""
    environment = site.environment(AIRFLOW__CORE__EXECUTE_TASKS_NEW_PYTHON_INTERPRETER="True")
    with raw_host(site.folder / "fresh", environment) as host:
        line = host.connect()
        workload = task_workload("hello")
        assert line.hear("ended", go(line, api, workload))["exit_code"] == 0
        assert "hello from the task" in events_in(site.logs / workload.log_path)
        # A process that is forked has what the job host keeps out of the collector's way.
        assert note_of(site, "frozen") == "0"
        claim = go(line, api, task_workload("wait"))
        line.hear("started", claim)
        pid = int(wait_until((lambda: note_of(site, "wait")), 60))
        line.say("cancel", claim=claim, grace_s=0.2, reason="not wanted")
        line.hear("ended", claim)
        wait_until(lambda: not is_running(pid))


def test_an_execution_api_that_is_not_there(site: Site, api: ExecutionApi) -> None:
    environment = site.environment(AIRFLOW__WORKERS__EXECUTION_API_RETRIES="1")
    with raw_host(site.folder / "offline", environment) as host:
        line = host.connect()
        workload, claim = task_workload("hello"), str(uuid.uuid4())
        line.say("prepare", claim=claim, payload=workload.payload, server="http://127.0.0.1:1/execution/")
        line.say("go", claim=claim, token="t")
        never = line.hear("not_started", claim)
        assert (never["reason"], never["fault"]) == ("ConnectError: [Errno 111] Connection refused", "host")
        assert job_of(host, claim)["fault"] == "host"


def test_an_execution_api_that_fails_may_have_started_the_task(site: Site, api: ExecutionApi) -> None:
    environment = site.environment(AIRFLOW__WORKERS__EXECUTION_API_RETRIES="1")
    with raw_host(site.folder / "failing", environment) as host:
        line, workload = host.connect(), task_workload("hello")
        api.refuse_run[workload.id] = (500, "out of order")
        never = line.hear("not_started", go(line, api, workload))
        assert never["fault"] == "unsure"


def test_a_log_folder_that_cannot_be_made(site: Site, api: ExecutionApi) -> None:
    blocked = site.folder / "a-file"
    blocked.touch()
    environment = site.environment(AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(blocked / "logs"))
    with raw_host(site.folder / "blocked", environment) as host:
        line, workload = host.connect(), task_workload("hello")
        never = line.hear("not_started", go(line, api, workload))
        assert "Not a directory" in never["reason"]
        assert never["fault"] == "host"
        assert api.calls_of(workload.id) == []


def test_a_log_path_that_is_too_long(line: Line, api: ExecutionApi) -> None:
    workload = task_workload("hello")
    too_long = replace(workload, payload=workload.payload.replace("task_id=hello", f"task_id={'x' * 250}"))
    never = line.hear("not_started", go(line, api, too_long))
    assert "File name too long" in never["reason"]
    assert never["fault"] == "host"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("", "is not a workload's JSON"),
        ("[1]", "is not a workload's JSON"),
        ('{"type": "TestConnection"}', "of type 'TestConnection', and only ExecuteTask"),
        (
            '{"type": "ExecuteTask", "token": ""}',
            "ExecuteTask payload is not valid: dag_rel_path: Field required (and",
        ),
        ('{"type": "ExecuteCallback", "token": 1}', "ExecuteCallback payload is not valid: token: "),
        ("[" * 100_000, "is not a workload's JSON"),
    ],
)
def test_an_invalid_payload_is_refused(
    line: Line, api: ExecutionApi, claim: str, payload: str, reason: str
) -> None:
    line.say("prepare", claim=claim, payload=payload, server=api.url)
    refused = line.hear("refused", claim)["reason"]
    assert reason in refused
    assert "\n" not in refused
    line.say("go", claim=claim, token="t")
    assert "does not know the claim" in line.hear("not_started", claim)["reason"]


def test_a_bundle_unknown_here(line: Line, api: ExecutionApi, site: Site) -> None:
    workload = task_workload("hello", bundle="press-shop")
    claim = prepare(line, api, workload)
    assert not (site.logs / workload.log_path).exists()  # only after go
    line.say("go", claim=claim, token="t")
    never = line.hear("not_started", claim)
    sentence = (
        "DAG bundle 'press-shop' is not configured on worker factory-7 (it has: dags-folder); "
        "add it to [dag_processor] dag_bundle_config_list there and restart the worker"
    )
    assert (never["reason"], never["fault"]) == (sentence, "host")
    assert api.calls_of(workload.id) == []


@pytest.mark.parametrize(
    ("bundle", "advice"),
    [
        ("example_dags", "set [core] load_examples = True there"),
        (
            "apache-airflow-providers-http-example-dags",
            "set [core] load_examples = True there, have apache-airflow-providers-http installed",
        ),
    ],
)
def test_examples_are_no_entry_of_the_list_of_bundles(
    line: Line, api: ExecutionApi, bundle: str, advice: str
) -> None:
    claim = prepare(line, api, task_workload("hello", bundle=bundle))
    line.say("go", claim=claim, token="t")
    never = line.hear("not_started", claim)
    assert f"(it has: dags-folder); {advice} and restart the worker" in never["reason"]
    assert never["fault"] == "host"


def test_a_new_daemon_replaces_the_old_one(shared_host: RawHost) -> None:
    old, new = shared_host.connect(), shared_host.connect()
    new.say("ping", n=4)
    assert new.hear("pong")["n"] == 4
    assert old.is_closed()


# The host's own life


_STRANGER = """
import os, socket, sys
one = socket.socket(socket.AF_UNIX)
os.setresuid(65534, 65534, 65534)
one.settimeout(10)
# Relative: the folders above are closed to others.
one.connect(sys.argv[1])
try:
    one.sendall(b'{"op": "hello"}\\n')
    print(one.recv(100))
except (ConnectionResetError, BrokenPipeError):
    print(b"")
"""


def test_another_user_is_neither_heard_nor_takes_the_daemons_place(line: Line, shared_host: RawHost) -> None:
    if os.geteuid() != 0:
        missing("the rights to become another user")
    sock = shared_host.directory / f"{shared_host.id}.sock"
    assert sock.stat().st_mode & 0o777 == 0o600
    # By its mode alone nobody would come so far.
    sock.chmod(0o666)
    shared_host.directory.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, sock.name],
        cwd=shared_host.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    sock.chmod(0o600)
    assert done.stdout == "b''\n"
    assert line.hello()["host"] == shared_host.id


def test_what_supervisors_print_is_not_kept_for_ever(
    line: Line, api: ExecutionApi, shared_host: RawHost
) -> None:
    log = shared_host.directory / f"{shared_host.id}.log"
    os.truncate(log, 9 * 1024 * 1024)
    for _ in range(2):
        line.hear("ended", go(line, api, task_workload("hello")))
    assert log.with_suffix(".log.1").stat().st_size > 9 * 1024 * 1024
    assert log.stat().st_size < 100_000
    assert "Workload finished" in log.read_text()


def test_a_host_outlives_its_daemon_and_its_jobs_go_on(site: Site, api: ExecutionApi) -> None:
    (site.notes / "enough").unlink(missing_ok=True)
    with raw_host(site.folder / "lives", site.environment()) as host:
        line = host.connect()
        first, second = task_workload("wait"), task_workload("hello")
        running, waiting = go(line, api, first), prepare(line, api, second)
        line.hear("started", running)
        line.close()
        assert host.is_locked()
        (site.notes / "enough").touch()
        wait_until(lambda: job_of(host, running)["phase"] == "ended", 20)
        line = host.connect()
        jobs = {job["claim"]: job for job in line.hello()["jobs"]}
        assert (jobs[running]["phase"], jobs[running]["exit_code"]) == ("ended", 0)
        assert jobs[waiting]["phase"] == "prepared"

        # Retired: what was promised is kept, what is new is refused.
        line.say("retire")
        line.say("prepare", claim="new", payload=task_workload("hello").payload, server=api.url)
        assert line.hear("refused", "new")["reason"] == "this job host takes nothing new"
        line.say("go", claim=waiting, token="t")
        line.hear("ended", waiting)
        line.say("forget", claim=running)
        assert line.hello()["closed"]
        line.say("forget", claim=waiting)
        assert host.wait() == 0
        assert not host.is_locked()
        assert host.journal["jobs"] == []


def test_a_killed_hosts_waiting_jobs_leave_without_a_trace(site: Site, api: ExecutionApi) -> None:
    with raw_host(site.folder / "killed", site.environment()) as host:
        line = host.connect()
        workloads = [task_workload("hello") for _ in range(3)]
        claims = [prepare(line, api, workload) for workload in workloads]
        line.hello()
        pids = [int(str(job_of(host, claim)["pid"])) for claim in claims]
        host.process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids))
        assert not host.is_locked()
        assert [api.calls_of(workload.id) for workload in workloads] == [[], [], []]
        assert not any((site.logs / workload.log_path).exists() for workload in workloads)


def test_an_idle_host_leaves_and_its_journal_stays(site: Site, api: ExecutionApi) -> None:
    with raw_host(site.folder / "idle", site.environment(), "--idle-s", "0.3") as host:
        line = host.connect()
        claim = go(line, api, task_workload("hello"))
        line.hear("ended", claim)
        waiting = prepare(line, api, task_workload("hello"))
        line.close()
        assert host.wait() == 0
        assert job_of(host, claim)["phase"] == "ended"
        assert job_of(host, waiting)["phase"] == "not_started"
        assert job_of(host, waiting)["detail"] == "the job host is leaving, as it was left alone"


def test_sigterm_lets_the_running_jobs_end(site: Site, api: ExecutionApi) -> None:
    (site.notes / "enough").unlink(missing_ok=True)
    with raw_host(site.folder / "sigterm", site.environment()) as host:
        line = host.connect()
        running = go(line, api, task_workload("wait"))
        waiting = prepare(line, api, task_workload("hello"))
        line.hear("started", running)
        host.process.terminate()
        reason = line.hear("not_started", waiting)["reason"]
        assert reason == "the job host is leaving, as it was told to by SIGTERM"
        assert host.process.poll() is None
        (site.notes / "enough").touch()
        assert host.wait() == 0
        assert job_of(host, running)["exit_code"] == 0


def test_a_host_with_threads_starts_fresh_interpreters(
    site: Site, api: ExecutionApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "airflow_local_settings.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    environment = site.environment()
    environment["PYTHONPATH"] += f":{config}"
    # Fresh interpreters look for modules no more than the host does where somebody happened to stand.
    (tmp_path / "structlog.py").write_text("raise SystemExit('imported from the working directory')\n")
    monkeypatch.chdir(tmp_path)
    with raw_host(site.folder / "threads", environment) as host:
        line = host.connect()
        assert line.hello()["versions"]["job_start"] == "spawn"
        workload = task_workload("hello")
        claim = go(line, api, workload)
        assert line.hear("ended", claim)["exit_code"] == 0
        assert "hello from the task" in events_in(site.logs / workload.log_path)
        dropped = prepare(line, api, task_workload("hello"))
        line.say("drop", claim=dropped)
        line.hear("dropped", dropped)


def test_airflow_that_is_not_installed(site: Site, tmp_path: Path) -> None:
    environment = site.environment()
    (tmp_path / "airflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'airflow'\", name='airflow')"
    )
    environment["PYTHONPATH"] += f":{tmp_path}"
    with raw_host(site.folder / "bare", environment) as host:
        assert host.wait() == 6
        sentence = "apache-airflow-task-sdk is not installed; run: pip install 'edge-ws[worker]'"
        assert host.journal["failure"] == sentence
        assert host.log == f"edge-ws host: {sentence}\n"


def test_airflow_that_does_not_load(site: Site) -> None:
    environment = site.environment(AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="often")
    with raw_host(site.folder / "broken", environment) as host:
        assert host.wait() == 1
        assert host.journal["failure"].startswith(
            "Airflow cannot be loaded on this worker: AirflowConfigException"
        )
        assert "Traceback" not in host.log.splitlines()[-1]
