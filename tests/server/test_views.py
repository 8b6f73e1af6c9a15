"""What operators are shown, read from a database."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Bye
from edge_ws.protocol.ids import GatewayId
from edge_ws.server.diagnosis import AirflowTask
from edge_ws.server.views import list_jobs, list_queues, list_workers, show_job, show_worker
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, utc_now
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, change_job, enqueue, new_job

WISHED = ("wished_concurrency", "wished_queues", "wished_maintenance", "wished_shutdown")


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    store = Store(engine)
    store.liveness.announce(GatewayId("g"), "api-1", 7)
    return store


def a_worker(store: Store, name: str = "w1", **changes: object) -> FakeWorker:
    one = FakeWorker(store, name=name, gateway="g", **changes)
    one.register()
    return one


def add_edge3_worker(engine: sa.Engine, name: str, queues: str | None) -> None:
    with engine.begin() as connection:
        connection.execute(
            edge_worker.insert().values(
                worker_name=name,
                state="idle",
                queues=queues,
                jobs_active=0,
                sysinfo={"concurrency": 8},
                last_update=utc_now(),
            )
        )


def test_jobs(engine: sa.Engine, store: Store) -> None:
    one = a_worker(store)
    waits, runs = new_job("waits", priority=3, team="red"), new_job("runs", slots=2)
    enqueue(engine, waits, runs)
    one.start(runs)
    first, second = list_jobs(store.views)
    assert (first["task_id"], first["state"], first["phase"], first["worker"]) == (
        "runs",
        "running",
        "started",
        "w1",
    )
    assert (first["slots"], first["waited_s"]) == (2, None)
    assert (second["task_id"], second["state"], second["phase"], second["worker"]) == (
        "waits",
        "queued",
        None,
        None,
    )
    assert (second["dag_id"], second["run_id"], second["map_index"], second["try_number"]) == (
        "dag",
        "run",
        -1,
        1,
    )
    assert (second["priority"], second["team_name"]) == (3, "red")
    assert isinstance(second["waited_s"], float)
    assert [row["task_id"] for row in list_jobs(store.views, state="queued", queue="q")] == ["waits"]
    assert [row["task_id"] for row in list_jobs(store.views, worker="w1", dag_id="dag", limit=1)] == ["runs"]
    json.dumps([first, second])


@pytest.mark.parametrize(
    ("asked", "part"),
    [({"state": "walking"}, "no job has the state 'walking'; states are queued"), ({"limit": 0}, "limit 0")],
)
def test_jobs_that_there_cannot_be(store: Store, asked: dict[str, object], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        list_jobs(store.views, **asked)


def test_queues(engine: sa.Engine, store: Store) -> None:
    busy = a_worker(store, "w1", queues=("q", "idle"))
    a_worker(store, "every", queues=None, concurrency=2)
    resting = a_worker(store, "resting", queues=("rests",))
    store.operators.request_maintenance(resting.name, "belt")
    add_edge3_worker(engine, "e1", "['q']")
    jobs = [new_job("a"), new_job("b"), new_job("nobodys", queue="nobodys")]
    enqueue(engine, *jobs)
    busy.start(jobs[0])
    rows = {row["queue"]: row for row in list_queues(store.views)}
    assert list(rows) == ["idle", "nobodys", "q", "rests"]
    # Three of w1's four, two of the one that serves every queue, eight of edge3's.
    told = {
        name: [row[key] for key in ("queued", "running", "workers", "free_slots")]
        for name, row in rows.items()
    }
    assert told == {
        "idle": [0, 0, 2, 5],
        "nobodys": [1, 0, 1, 2],
        "q": [1, 1, 3, 13],
        "rests": [0, 0, 1, 2],
    }
    assert rows["idle"]["oldest_wait_s"] is None
    assert isinstance(rows["q"]["oldest_wait_s"], float)
    json.dumps(list(rows.values()))


def test_nothing_at_all(store: Store) -> None:
    assert list_jobs(store.views) == []
    assert list_queues(store.views) == []


def test_a_worker(engine: sa.Engine, store: Store) -> None:
    one = a_worker(store)
    runs, ended = new_job("runs"), new_job("ended")
    enqueue(engine, runs, ended)
    one.start(runs)
    one.finish(one.start(ended))
    wished = store.operators.wish_concurrency("w1", 9)
    row = show_worker(store.views, "w1")
    assert (row["worker_name"], row["kind"], row["state"], row["connected"]) == (
        "w1",
        "edge-ws",
        "idle",
        True,
    )
    assert (row["concurrency"], row["wished_concurrency"], row["local_concurrency"]) == (4, 9, 4)
    assert (row["wish_revision"], row["applied_revision"], row["applied"]) == (wished.revision, 0, False)
    assert (row["queues"], row["wished_queues"], row["local_queues"]) == (["q"], None, ["q"])
    assert (row["transport"], row["gateway"], row["gateway_hostname"]) == ("websocket", "g", "api-1")
    assert row["transport_since"]
    assert (row["slots_taken"], row["free_slots"], row["jobs_active"]) == (1, 3, 1)
    (job,) = row["jobs"]
    assert (job["task_id"], job["phase"]) == ("runs", "started")
    json.dumps(row)


def test_a_worker_of_edge3(engine: sa.Engine, store: Store) -> None:
    add_edge3_worker(engine, "e1", None)
    row = show_worker(store.views, "e1")
    assert (row["kind"], row["connected"], row["queues"], row["concurrency"]) == ("edge3", True, None, 8)
    assert (row["wish_revision"], row["applied"], row["transport"], row["gateway"]) == (
        None,
        None,
        None,
        None,
    )
    json.dumps(row)


def test_a_worker_that_nobody_knows(store: Store) -> None:
    with pytest.raises(UsageError, match="no worker named nobody has connected yet"):
        show_worker(store.views, "nobody")


def test_a_job_that_nobody_serves(engine: sa.Engine, store: Store) -> None:
    a_worker(store)
    enqueue(engine, new_job("t", queue="gpu"))
    row = show_job(store.views, "dag", "run", "t")
    assert row["code"] == "no_worker_serves_queue"
    assert "no worker serves queue gpu; the only known worker, w1, serves only queue q" in row["verdict"]
    assert "-q gpu" in row["advice"]
    assert (row["state"], row["executor"], row["reported"], row["claim"]) == ("queued", "edge-ws", None, None)
    (seat,) = row["workers"]
    assert seat == {
        "worker": "w1",
        "kind": "edge-ws",
        "reason": "other_queues",
        "why": "w1 serves only queue q",
    }
    assert row["gateways"][0]["hostname"] == "api-1"
    assert row["gateways"][0]["alive"] is True
    json.dumps(row)


def test_a_job_from_offer_to_end(engine: sa.Engine, store: Store) -> None:
    one = a_worker(store)
    job = new_job("t")
    enqueue(engine, job)
    assert show_job(store.views, "dag", "run", "t")["code"] == "about_to_be_offered"
    (claimed,) = one.claim(job)
    row = show_job(store.views, "dag", "run", "t", -1, 1)
    assert (row["code"], row["claim"], row["phase"]) == ("offered", claimed.claim, "offered")
    assert row["lease_until"] > row["offered_at"]
    one.accept(claimed.claim)
    assert show_job(store.views, "dag", "run", "t")["code"] == "accepted"
    SingleReports(store.reports).started(one.principal, claimed.claim, one.host)
    assert show_job(store.views, "dag", "run", "t")["code"] == "running"
    one.finish(claimed.claim, 1)
    row = show_job(store.views, "dag", "run", "t")
    assert (row["code"], row["reported"], row["executor"]) == ("failed", False, "edge-ws")
    store.jobs.reported(job.owner, [job.key])
    row = show_job(store.views, "dag", "run", "t")
    assert (row["reported"], row["executor"]) == (True, None)
    (claim,) = row["claims"]
    assert (claim["worker"], claim["result"]) == ("w1", "failed")
    json.dumps(row)


def test_a_job_that_an_edge3_worker_runs(engine: sa.Engine, store: Store) -> None:
    add_edge3_worker(engine, "e1", None)
    job = new_job("t")
    enqueue(engine, job)
    change_job(engine, job.key, state="running", edge_worker="e1", edge_ws_owner=None)
    row = show_job(store.views, "dag", "run", "t")
    assert (row["code"], row["worker"], row["executor"]) == ("edge3_running", "e1", "another (edge3's)")


@pytest.mark.parametrize("ran_by", ["w1", "e1"])
@pytest.mark.parametrize("is_ours", [True, False])
def test_who_has_taken_note_of_an_end(engine: sa.Engine, store: Store, ran_by: str, *, is_ours: bool) -> None:
    """Of our executor's rows we know, whoever ran them; of edge3's nobody does."""
    one = a_worker(store)
    add_edge3_worker(engine, "e1", None)
    job = new_job("t")
    enqueue(engine, job)
    if not is_ours:
        change_job(engine, job.key, edge_ws_owner=None)
    if ran_by == "w1":
        one.finish(one.start(job))
    else:
        change_job(engine, job.key, state="success", edge_worker="e1")
    assert show_job(store.views, "dag", "run", "t")["reported"] is (False if is_ours else None)
    store.jobs.reported(job.owner, [job.key])
    row = show_job(store.views, "dag", "run", "t")
    assert row["reported"] is (True if is_ours else None)
    assert ("the scheduler has taken note" in row["verdict"]) is is_ours


class KnownTasks:
    """An Airflow that knows one task, and one log."""

    def __init__(self, task: AirflowTask, log: bytes = b"") -> None:
        self.task = task
        self.log = log
        self.asked: list[tuple[object, ...]] = []

    def look_up(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None = None
    ) -> AirflowTask:
        self.asked.append((dag_id, run_id, task_id, map_index, try_number))
        return self.task

    def log_end(self, log_path: str) -> bytes:
        self.asked.append((log_path,))
        return self.log


def test_a_job_is_judged_by_its_task_and_its_log(engine: sa.Engine, store: Store) -> None:
    """The process ended well: the task had told Airflow that it is to run again."""
    one = FakeWorker(store)
    one.register()
    job = new_job("t")
    enqueue(engine, job)
    one.finish(one.start(job))
    waits = AirflowTask(state="up_for_retry", executor=None, queue="q", try_number=1, pool="p")
    tasks = KnownTasks(waits, b'{"level": "error", "event": "it jams"}')
    row = show_job(store.views, "dag", "run", "t", tasks=tasks)
    assert tasks.asked[0] == ("dag", "run", "t", -1, 1)
    assert (row["code"], row["state"], row["task_state"]) == ("up_for_retry", "success", "up_for_retry")
    assert (row["last_log_line"], row["pool"], row["unmet"]) == ("it jams", "p", [])
    assert "Try 1 failed on worker w1" in str(row["verdict"])
    assert '"it jams"' in str(row["verdict"])
    json.dumps(row)


def test_a_task_without_a_row(store: Store) -> None:
    tasks = KnownTasks(AirflowTask(state="running", executor=None, queue="default", try_number=2))
    row = show_job(store.views, "dag", "run", "t", 3, tasks=tasks)
    assert tasks.asked == [("dag", "run", "t", 3, None)]
    assert (row["code"], row["state"], row["queue"], row["map_index"]) == (
        "another_executors",
        "running",
        "default",
        3,
    )
    assert show_job(store.views, "dag", "run", "t")["code"] == "no_such_job"
    json.dumps(row)


def test_a_try_without_a_row(engine: sa.Engine, store: Store) -> None:
    """What Airflow says is of its present try alone."""
    tasks = KnownTasks(AirflowTask(state="queued", executor=None, queue="default", try_number=2))
    enqueue(engine, new_job("t"))
    with pytest.raises(UsageError, match="there has been no try 4 of the task; the last is 2"):
        show_job(store.views, "dag", "run", "t", try_number=4, tasks=tasks)
    row = show_job(store.views, "dag", "run", "t", try_number=2, tasks=tasks)
    assert (row["code"], row["state"], row["try_number"]) == ("another_executors", "queued", 2)
    row = show_job(store.views, "dag", "run", "purged", try_number=1, tasks=tasks)
    assert (row["code"], row["state"], row["queue"], row["try_number"]) == ("over", None, None, 1)


def test_workers_are_listed_with_the_wish_beside_what_is_in_force(engine: sa.Engine, store: Store) -> None:
    one = a_worker(store)
    job = new_job("runs")
    enqueue(engine, job)
    one.start(job)
    add_edge3_worker(engine, "e1", "['q']")
    theirs, row = list_workers(store.views)
    assert (row["worker_name"], row["kind"], row["queues"], row["jobs_active"]) == ("w1", "edge-ws", ["q"], 1)
    assert (row["concurrency"], row["free_concurrency"], row["applied"]) == (4, 3, True)
    assert (row["transport"], datetime.fromisoformat(row["last_update"]).tzinfo) == ("websocket", UTC)
    assert row["transport_since"]
    assert [row[name] for name in WISHED] == [None, None, False, False]
    assert (theirs["kind"], theirs["concurrency"], theirs["free_concurrency"]) == ("edge3", 8, 8)
    assert (theirs["applied"], theirs["transport"]) == (None, None)
    assert [theirs[name] for name in WISHED] == [None] * 4
    store.operators.wish_concurrency("w1", 9)
    store.operators.add_queues("w1", ["r"])
    store.operators.request_maintenance("w1", "belt")
    _, row = list_workers(store.views)
    assert [row[name] for name in WISHED] == [9, ["q", "r"], True, False]
    assert (row["concurrency"], row["queues"], row["applied"]) == (4, ["q"], False)
    store.operators.request_shutdown("w1")
    _, row = list_workers(store.views)
    assert row["wished_shutdown"] is True
    json.dumps([theirs, row])


@pytest.mark.parametrize("why", ["maintenance", "shutdown", "no job host", "away"])
def test_a_worker_that_takes_nothing_has_nothing_free(store: Store, why: str) -> None:
    """As `show-worker` says."""
    one = a_worker(store)
    assert list_workers(store.views)[0]["free_concurrency"] == 4
    match why:
        case "maintenance":
            store.operators.request_maintenance("w1", "belt")
        case "shutdown":
            store.operators.request_shutdown("w1")
        case "no job host":
            one.register(inventory=replace(one.inventory(), draining=True))
        case _:
            store.workers.disconnected(one.principal, one.register().connection, left=Bye(reason="done"))
    (row,) = list_workers(store.views)
    assert (row["concurrency"], row["free_concurrency"]) == (4, 0)
    assert show_worker(store.views, "w1")["free_slots"] == 0
