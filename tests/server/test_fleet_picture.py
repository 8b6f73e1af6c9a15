"""The fleet's picture and its pages: statuses, flags, verdicts, filters and order. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from edge_ws.protocol.ids import GatewayId
from edge_ws.server.fleet_pages import read_query, render
from edge_ws.server.fleet_picture import STATUSES, Picture
from edge_ws.store.picture import MOST_JOBS, FleetRecord
from edge_ws.store.records import GatewayRecord, JobKey, Room
from edge_ws.store.view_records import Backlog, JobView, QueuePause, WorkerView
from tests.support.job_facts import a_job, a_worker

NOW = 1_800_000_000.0
HERE = GatewayId("here")
NOT_READY = Room(ready=False, why="no job host", code="no_job_host")


def _worker(name: str, **changes: Any) -> WorkerView:
    """Return a worker of queue `a` with eight slots, heard of five seconds ago."""
    slots = {"concurrency": 8, "local_concurrency": 8, "queues": ("a",), "local_queues": ("a",)}
    heard = {"seen_s": 5.0, "seen_at": NOW - 5.0, "gateway": HERE}
    return a_worker(name, **{**slots, **heard, **changes})


def _job(name: str, **changes: Any) -> JobView:
    """Return a job of queue `a` that has waited for twelve seconds."""
    waits = {"queued_at": datetime.fromtimestamp(NOW - 12, UTC), "waited_s": 12.0, "updated_s": 12.0}
    return a_job(**{"key": JobKey("dag", name, "run", -1, 1), "queue": "a", **waits, **changes})


def _picture(*workers: WorkerView, jobs: tuple[JobView, ...] = (), **changes: Any) -> Picture:
    record = FleetRecord(
        now=NOW,
        workers=workers,
        backlogs=changes.pop("backlogs", ()),
        gateways=(GatewayRecord(id=HERE, hostname="centre", pid=1, seen_s=1.0),),
        jobs=jobs,
    )
    return Picture(1, replace(record, **changes), gateway=HERE, versions={"airflow": "3.3.2"})


def _page(picture: Picture, query: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(picture, read_query(QueryParams(query))))
    return found


def _names(picture: Picture, query: str) -> list[str]:
    return [row["worker_name"] for row in _page(picture, f"of=workers&{query}")["rows"]]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "idle"),
        ({"jobs": 2, "taken": 2, "state": "running"}, "running"),
        ({"concurrency": 0}, "paused"),
        ({"state": "maintenance mode"}, "maintenance"),
        ({"state": "maintenance request"}, "maintenance"),
        ({"state": "shutdown request"}, "leaving"),
        ({"state": "terminating"}, "leaving"),
        ({"state": "offline"}, "offline"),
        ({"state": "offline maintenance"}, "offline"),
        ({"room": NOT_READY}, "not_ready"),
        # Its own code may be any word, and does not make it look like one that is away.
        ({"room": replace(NOT_READY, code="offline")}, "not_ready"),
        # Killed: its connection is closed. Or its gateway was: the row still says that it runs.
        ({"gateway": None, "state": "running", "jobs": 1}, "away"),
        ({"seen_s": 46.0, "seen_at": NOW - 46, "state": "running", "jobs": 1}, "away"),
        ({"seen_s": None, "seen_at": None}, "away"),
        ({"is_ours": False, "gateway": None}, "idle"),
    ],
)
def test_a_worker_is_what_was_heard_of_it(changes: dict[str, Any], status: str) -> None:
    picture = _picture(_worker("oven", **changes))
    (row,) = _page(picture, "of=workers")["rows"]
    assert row["status"] == status
    assert row["status"] in STATUSES
    assert (row["silent_at"] is None) == (status in {"away", "offline"})
    assert _page(picture, "of=summary")["summary"]["workers"][status] == 1
    assert not {name for name in row if name.endswith("_s")} - {"clock_skew_s"}


def test_the_next_picture_is_due_when_the_first_one_falls_silent() -> None:
    assert _picture(_worker("a"), _worker("b", seen_s=44.0)).silent_in_s == pytest.approx(1.0)
    assert _picture(_worker("b", seen_s=46.0)).silent_in_s == pytest.approx(44.0)  # the gateway


FLEET = _picture(
    _worker("press-1", team="red", sysinfo={"cpu_usage": 20.0, "airflow_version": "3.2.0"}),
    _worker("press-2", queues=("b",), transport="longpoll", sysinfo={"cpu_usage": "?"}),
    _worker("Press-3", queues=None, state="maintenance mode", sysinfo={"cpu_usage": 3}),
    _worker("oven", gateway=None, transport=None, sysinfo={"cpu_usage": 100.0}),
)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["press-1", "press-2", "Press-3", "oven"]),
        ("q=press", ["press-1", "press-2", "Press-3"]),
        ("q=press-?&q=ov", ["press-1", "press-2", "Press-3", "oven"]),
        ("q=*-2", ["press-2"]),
        ("queue=b", ["press-2", "Press-3"]),
        ("team=red", ["press-1"]),
        ("team=-&queue=b", ["press-2", "Press-3"]),
        ("transport=longpoll", ["press-2"]),
        ("transport=-", ["oven"]),
        ("state=away&state=maintenance", ["Press-3", "oven"]),
        ("version_mismatch=1", ["press-1"]),
        ("sort=worker_name&desc=1", ["press-2", "press-1", "oven", "Press-3"]),
        # What is no number, or not there, comes last both ways.
        ("sort=cpu_usage", ["Press-3", "press-1", "oven", "press-2"]),
        ("sort=cpu_usage&desc=1", ["oven", "press-1", "Press-3", "press-2"]),
        ("sort=team_name", ["press-1", "press-2", "Press-3", "oven"]),
        ("offset=1&limit=2", ["press-2", "Press-3"]),
        ("offset=9", []),
    ],
)
def test_workers_are_found_sorted_and_cut(query: str, names: list[str]) -> None:
    assert _names(FLEET, query) == names


def test_totals_are_of_all_that_fit_whatever_the_filter_of_states_says() -> None:
    page = _page(FLEET, "of=workers&q=press&state=maintenance&limit=1")
    assert (page["total"], page["totals"]) == (1, {"idle": 2, "maintenance": 1})
    assert page["summary"]["workers"]["all"] == 4
    assert page["summary"]["workers"]["here"] == 3


def test_queues_say_why_they_stand_out() -> None:
    waiting = Backlog(
        queue="b", queued=3, running=0, oldest_wait_s=61.0, oldest_at=datetime.fromtimestamp(NOW - 61, UTC)
    )
    picture = _picture(
        _worker("oven", gateway=None),
        _worker("press", queues=("c",), state="maintenance mode"),
        _worker("scale", queues=("d",), taken=3, jobs=3),
        backlogs=(waiting, replace(waiting, queue="d", oldest_wait_s=1.0)),
    )
    rows = {row["queue"]: row for row in _page(picture, "of=queues")["rows"]}
    assert {name: row["flags"] for name, row in rows.items()} == {
        "a": ["all_away"],
        "b": ["unserved", "waits"],
        "c": ["none_take"],
        "d": [],
    }
    assert (rows["d"]["workers"], rows["d"]["slots"], rows["d"]["free_slots"]) == (1, 8, 5)
    assert [one["code"] for one in picture.summary["hints"]] == ["queue_unserved"]  # type: ignore[attr-defined]
    assert [row["queue"] for row in _page(picture, "of=queues&sort=queued&desc=1&limit=2")["rows"]] == [
        "b",
        "d",
    ]


def test_a_paused_queue_stands_out_and_its_jobs_say_why_they_wait() -> None:
    pause = QueuePause(queue="q", since=NOW - 60, paused_s=60.0, by="ann", note="the press is moved")
    pauses = {"q": pause, "nobody": replace(pause, queue="nobody", by=None)}
    waiting = Backlog(queue="q", queued=1, running=0, oldest_wait_s=12.0)
    picture = _picture(_worker("w1"), jobs=(_job("waits", queue="q"),), backlogs=(waiting,), pauses=pauses)
    rows = {row["queue"]: row for row in _page(picture, "of=queues")["rows"]}
    assert rows["q"]["flags"][0] == rows["nobody"]["flags"][0] == "paused"
    assert (rows["q"]["paused_by"], rows["q"]["pause_note"]) == ("ann", "the press is moved")
    assert picture.summary["queues"]["paused"] == 2
    (job,) = _page(picture, "of=jobs")["rows"]
    assert job["code"] == "queue_paused"
    assert "the press is moved" in job["verdict"]


def test_hints_say_what_to_do_of_an_empty_fleet() -> None:
    def codes(picture: Picture) -> list[str]:
        return [one["code"] for one in picture.summary["hints"]]  # type: ignore[attr-defined]

    assert codes(_picture()) == ["no_worker"]
    assert codes(_picture(gateways=())) == ["no_gateway", "no_worker"]
    assert codes(_picture(_worker("oven", gateway=None))) == ["workers_away"]
    assert codes(_picture(_worker("oven"))) == []


def test_each_job_that_waits_has_its_own_verdict() -> None:
    jobs = (
        _job("first"),
        _job("second", waited_s=3.0),
        _job("wide", slots=9),
        _job("lost", queue="nobodys"),
        _job("ran", state="failed", worker="oven"),
    )
    picture = _picture(_worker("oven", taken=8, jobs=8), jobs=jobs)
    rows = {row["task_id"]: row for row in _page(picture, "of=jobs")["rows"]}
    codes = {name: row["code"] for name, row in rows.items()}
    assert codes == {
        "first": "all_full",
        "second": "all_full",
        "wide": "too_wide",
        "lost": "no_worker_serves_queue",
        "ran": "failed",
    }
    full = "the only worker that takes jobs of queue a now is full: oven is full (8 of 8 slots busy)."
    assert rows["first"]["verdict"] == f"Queued for 12 s: {full}"
    assert rows["second"]["verdict"] == f"Queued for 3 s: {full}"
    assert [rows[name]["jobs_before_it"] for name in ("first", "second", "lost")] == [0, 1, 0]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["first", "second", "ran"]),
        ("q=SEC", ["second"]),
        ("task_id=first&task_id=ran", ["first", "ran"]),
        ("task_id=fir", []),
        ("dag_id=dag&run_id=run&map_index=-1", ["first", "second", "ran"]),
        ("map_index=0", []),
        ("queue=b", ["second"]),
        ("worker=oven", ["ran"]),
        ("worker=-", ["first", "second"]),
        ("state=failed", ["ran"]),
        ("state=open", ["first", "second"]),
        ("sort=task_id&desc=1", ["second", "ran", "first"]),
    ],
)
def test_jobs_are_found_and_sorted(query: str, names: list[str]) -> None:
    jobs = (_job("first"), _job("second", queue="b"), _job("ran", state="failed", worker="oven"))
    page = _page(_picture(jobs=jobs), f"of=jobs&{query}")
    assert [row["task_id"] for row in page["rows"]] == names
    assert page["complete"] is True


def test_a_page_says_that_there_are_more_jobs_than_it_knows() -> None:
    jobs = tuple(_job(f"t{number}") for number in range(MOST_JOBS))
    page = _page(_picture(jobs=jobs), "of=jobs&limit=1")
    assert (page["complete"], page["total"]) == (False, MOST_JOBS)


def test_a_worker_s_own_page_has_its_jobs_and_what_the_site_says() -> None:
    facts = {"site_facts": "vibration", "vibration": 0.3, "round_trip_ms": 12}
    picture = _picture(_worker("oven", sysinfo=facts), jobs=(_job("x", state="running", worker="oven"),))
    row = _page(picture, "of=worker&worker=oven")["row"]
    assert (row["facts"], row["round_trip_ms"]) == ({"vibration": 0.3}, 12)
    assert [job["task_id"] for job in row["jobs"]] == ["x"]
    assert row["gateway_hostname"] == "centre"
    assert _page(picture, "of=worker&worker=nobody")["row"] is None
