"""A task's end while the Execution API is away: kept on disk, and delivered whatever is restarted meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from edge_ws.host.outcome import is_verdict
from edge_ws.store.records import NewJob
from edge_ws.worker.outcomes import Fate, judge
from tests.support.execution_api import ExecutionApi, execution_api
from tests.support.gateway import RunningGateway
from tests.support.jobs import make_site
from tests.support.rows import job_row
from tests.support.stand import Stand
from tests.support.waiting import free_port

KINDS = ("success", "failed", "up_for_retry", "skipped", "up_for_reschedule", "deferred")
QUICKLY = {
    # How long Airflow's client waits before it tries again.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.05",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
}


@pytest.fixture
def api() -> Iterator[ExecutionApi]:
    with execution_api() as running:
        yield running


@pytest.fixture
def stand(tmp_path: Path, sqlite_engine: sa.Engine, api: ExecutionApi) -> Iterator[Stand]:
    made = Stand(make_site(tmp_path / "site"), sqlite_engine, free_port(), api, QUICKLY)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def gateway(stand: Stand) -> Iterator[RunningGateway]:
    with stand.gateway() as running:
        yield running


def subject(job: NewJob) -> str:
    return str(json.loads(job.command)["ti"]["id"])


def says(stand: Stand, text: str) -> None:
    stand.until(lambda: text in stand.told)


def records(stand: Stand) -> list[str]:
    return sorted(path.name for path in (stand.state_dir / "outbox").glob("*.json"))


def delivered(stand: Stand, job: NewJob, state: str) -> None:
    """Wait for the job's end; check that Airflow was told its outcome once, by the worker itself."""
    stand.until(lambda: stand.state_of(job) == "success")
    (one,) = [call for call in stand.api.calls_of(subject(job)) if call.path.endswith("/state")]
    assert one.body["state"] == state
    assert one.token == f"token for the outcome of {subject(job)}"


def test_every_kind_of_end_is_delivered_when_the_line_is_back(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    stand.start("-c", str(len(KINDS)))
    jobs = {kind: stand.queue(kind) for kind in KINDS}
    api.may_retry.add(subject(jobs["up_for_retry"]))
    for kind in KINDS:
        stand.note(kind)
    api.away = "reset"
    stand.let_go()
    for kind in KINDS:
        says(stand, f"kept: jobs r1 {kind} try 1: Airflow has not taken its outcome {kind} yet")
    # Nothing has ended, as Airflow knows of no end; and the slots are free.
    stand.until(lambda: stand.condition()["slots"]["used"] == 0)
    assert {stand.state_of(job) for job in jobs.values()} == {"running"}
    assert len(records(stand)) == len(KINDS)
    api.away = ""
    for kind, job in jobs.items():
        delivered(stand, job, kind)
        says(stand, f"ended: jobs r1 {kind} try 1, {kind} after ")
    stand.until(lambda: records(stand) == [])
    assert "exit code" not in stand.told


def test_a_foreign_answer_is_none(stand: Stand, api: ExecutionApi, gateway: RunningGateway) -> None:
    """What is not Airflow's answer proves nothing; nor does one that says that a token is over."""
    stand.start()
    for number, status in enumerate(("200", "302", "401", "403", "404", "409", "502"), 1):
        for name in ("success", "enough"):
            (stand.site.notes / name).unlink(missing_ok=True)
        job = stand.queue("success")
        stand.note("success")
        api.away = status
        stand.let_go()
        stand.until(lambda number=number: stand.told.count("kept: ") == number)
        says(stand, f"is not delivered yet: the Execution API's URL answers with status {status}")
        assert stand.state_of(job) == "running"
        api.away = ""
        delivered(stand, job, "success")


@pytest.mark.parametrize("who", ["daemon", "host", "supervisor", "machine"])
def test_it_outlives_whoever_is_killed(stand: Stand, api: ExecutionApi, who: str) -> None:
    with stand.gateway():
        daemon = stand.start()
        job = stand.queue("calls_back")
        stand.note("calls_back")
        api.away = "reset"
        stand.let_go()
        says(stand, "kept: ")
    # Its callback runs on, the gateway is away as well, and now somebody dies.
    stand.note("callback")
    (journal,) = (stand.state_dir / "hosts").glob("*.json")
    host = json.loads(journal.read_text())
    dying = {"host": [host["pid"]], "supervisor": [host["jobs"][0]["pid"]], "machine": [host["pid"]]}
    if who in {"daemon", "machine"}:
        daemon.kill()
        daemon.wait()
    for pid in dying.get(who, []):
        os.kill(pid, signal.SIGKILL)
    if who == "daemon":
        (stand.site.notes / "enough-called").touch()
    if who in {"daemon", "machine"}:
        stand.start()
    stand.until(lambda: not stand.condition()["slots"]["used"])
    api.away = ""
    with stand.gateway():
        stand.until(lambda: stand.state_of(job) == ("failed" if who == "supervisor" else "success"))
    assert api.states_of(subject(job)) == ["success"]
    stand.until(lambda: records(stand) == [])


def test_a_callback_runs_to_its_end_while_the_outcome_is_delivered(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    stand.start()
    job = stand.queue("calls_back")
    stand.note("calls_back")
    api.away = "reset"
    stand.let_go()
    says(stand, "kept: ")
    stand.note("callback")
    api.away = ""
    says(stand, "delivered: jobs r1 calls_back try 1: success")
    assert api.states_of(subject(job)) == ["success"]
    assert stand.state_of(job) == "running"
    (stand.site.notes / "enough-called").touch()
    delivered(stand, job, "success")
    assert "called back to the end" in stand.task_log()


def test_a_supervisor_that_is_killed_while_it_tells(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    """Whether the report has arrived nobody knows: it is told again."""
    stand.start()
    job = stand.queue("success")
    stand.note("success")
    held = api.hold_state[subject(job)] = threading.Event()
    stand.let_go()
    stand.until(lambda: api.states_of(subject(job)) == ["success"])
    (journal,) = (stand.state_dir / "hosts").glob("*.json")
    os.kill(json.loads(journal.read_text())["jobs"][0]["pid"], signal.SIGKILL)
    says(stand, "kept: ")
    held.set()
    stand.until(lambda: stand.state_of(job) == "failed")
    assert api.states_of(subject(job)) == ["success", "success"]
    says(stand, "delivered: jobs r1 success try 1: success")
    says(stand, "ended: jobs r1 success try 1, success, exit code -9 after ")


def test_what_airflow_refuses_is_not_tried_again(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    stand.start()
    job = stand.queue("success")
    stand.note("success")
    api.away = "reset"
    stand.let_go()
    says(stand, "kept: ")
    detail = {"reason": "not_found", "message": "Task Instance not found"}
    api.refuse_state[subject(job)] = 410, detail
    api.away = ""
    stand.until(lambda: stand.state_of(job) == "failed")
    assert api.states_of(subject(job)) == ["success"]
    row = job_row(stand.engine, job.key)
    says(stand, "Airflow has not taken the outcome success: Task Instance not found")
    assert row is not None


def test_what_the_centre_counts_no_more_is_dropped(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    stand.start()
    job = stand.queue("success")
    stand.note("success")
    api.away = "reset"
    stand.let_go()
    says(stand, "kept: ")
    stand.store.jobs.revoke(job.key)
    says(stand, "dropped: jobs r1 success try 1: its outcome was not delivered")
    stand.until(lambda: records(stand) == [])
    assert api.states_of(subject(job)) == []


def test_a_process_that_ends_with_0_and_no_word_has_not_succeeded(
    stand: Stand, api: ExecutionApi, gateway: RunningGateway
) -> None:
    stand.start()
    job = stand.queue("silent")
    stand.note("silent")
    stand.let_go()
    stand.until(lambda: stand.state_of(job) == "failed")
    assert api.states_of(subject(job)) == []
    says(stand, "exit code 1 after ")
    says(stand, "the task's process ended without telling its outcome")


@pytest.mark.parametrize(
    ("status", "body", "fate"),
    [
        (204, "", Fate.TAKEN),
        (200, "", Fate.TAKEN),
        (200, "null", Fate.TAKEN),
        (200, "<html>log in</html>", Fate.FAILED),
        (200, '{"ok": true}', Fate.FAILED),
        (404, '{"detail": {"reason": "not_found", "message": "gone"}}', Fate.REFUSED),
        (409, '{"detail": {"reason": "invalid_state", "previous_state": "failed"}}', Fate.REFUSED),
        (410, '{"detail": {"reason": "not_found"}}', Fate.REFUSED),
        (422, '{"detail": [{"loc": ["body"]}]}', Fate.REFUSED),
        (404, '{"detail": "Not Found"}', Fate.FAILED),
        (404, "<html>", Fate.FAILED),
        (409, "[]", Fate.FAILED),
        (403, '{"detail": "Invalid auth token"}', Fate.FAILED),
        (500, '{"detail": {"reason": "not_found"}}', Fate.FAILED),
        (302, "", Fate.FAILED),
    ],
)
def test_whose_answer_it_is(status: int, body: str, fate: Fate) -> None:
    assert judge(httpx2.Response(status, text=body))[0] is fate
    found = fate is Fate.REFUSED
    assert is_verdict(httpx2.Response(status, text=body)) is found
