"""What the views read, on each kind of database, and in how many statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from edge_ws.protocol.frames import Applied
from edge_ws.protocol.ids import HINDRANCE, GatewayId, LifeId
from edge_ws.protocol.states import Phase
from edge_ws.store import views
from edge_ws.store.records import JobKey, Principal, Registration, Room
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, epoch_now, gateway, utc_now
from edge_ws.store.view_records import JobView
from edge_ws.store.workers import NOT_READY, STALE_SLOTS
from tests.support.reports import SingleReports
from tests.support.rows import OWNER, FakeWorker, change_job, enqueue, new_job


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


def add_edge3_worker(engine: sa.Engine, name: str = "e1", **changes: object) -> None:
    values = {
        "worker_name": name,
        "state": "idle",
        "queues": "['q']",
        "jobs_active": 0,
        "sysinfo": {"concurrency": 8, "free_concurrency": 8},
        "last_update": utc_now(),
    }
    with engine.begin() as connection:
        connection.execute(edge_worker.insert().values({**values, **changes}))


def set_gateway(engine: sa.Engine, seen_s: float) -> None:
    with engine.begin() as connection:
        connection.execute(gateway.update().values(seen_at=epoch_now() - seen_s))


def test_a_job_in_every_phase(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    jobs = [new_job(name) for name in ("a-waits", "b-offered", "c-accepted", "d-runs", "e-ended")]
    enqueue(engine, *jobs)
    one.claim(jobs[1])
    (accepted,) = one.claim(jobs[2])
    one.accept(accepted.claim)
    running = one.start(jobs[3])
    one.finish(one.start(jobs[4]))
    found = {job.key.task_id: job for job in store.views.jobs(10)}
    assert list(found) == ["d-runs", "b-offered", "c-accepted", "a-waits", "e-ended"]
    phases = {name: job.held_by.phase if job.held_by else None for name, job in found.items()}
    assert phases == {
        "d-runs": Phase.STARTED,
        "b-offered": Phase.OFFERED,
        "c-accepted": Phase.ACCEPTED,
        "a-waits": None,
        "e-ended": None,
    }
    assert found["d-runs"].claim is not None
    assert found["d-runs"].claim.id == running
    assert 0 <= found["a-waits"].waited_s < 60
    ended = found["e-ended"]
    assert ended.was_claimed
    assert (ended.state, ended.owner, ended.claim and ended.claim.result) == ("success", OWNER, "success")
    offered = found["b-offered"].held_by
    assert offered is not None
    assert 5 < offered.lease_s <= 10


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["runs", "offered", "waits", "other"]),
        ({"state": "queued"}, ["waits", "other"]),
        ({"state": "restarting"}, ["offered"]),
        ({"state": "offered"}, ["offered"]),
        ({"state": "started"}, ["runs"]),
        ({"state": "accepted"}, []),
        ({"queue": "q"}, ["runs", "offered", "waits"]),
        ({"worker": "w1"}, ["runs", "offered"]),
        ({"dag_id": "other-dag"}, ["other"]),
        ({"queue": "q", "state": "queued", "worker": None}, ["waits"]),
    ],
)
def test_filters(engine: sa.Engine, store: Store, filters: dict[str, str], names: list[str]) -> None:
    one = FakeWorker(store)
    one.register()
    jobs = [new_job(name) for name in ("waits", "offered", "runs")]
    other = new_job("other", key=JobKey("other-dag", "other", "run", -1, 1), queue="far")
    enqueue(engine, *jobs, other)
    one.claim(jobs[1])
    one.start(jobs[2])
    assert [job.key.task_id for job in store.views.jobs(10, **filters)] == names


def test_what_waits_is_listed_in_its_order_and_cut(engine: sa.Engine, store: Store) -> None:
    for job in (new_job("a-late"), new_job("urgent", priority=9), new_job("later")):
        enqueue(engine, job)
    assert [job.key.task_id for job in store.views.jobs(2)] == ["urgent", "a-late"]


def test_the_last_try_is_found(engine: sa.Engine, store: Store) -> None:
    enqueue(engine, new_job("t"), new_job("t", key=JobKey("dag", "t", "run", -1, 2)))
    latest, first = (store.views.find_job("dag", "run", "t", -1, number) for number in (None, 1))
    assert latest is not None
    assert first is not None
    assert (latest.key.try_number, first.key.try_number) == (2, 1)
    assert store.views.find_job("dag", "run", "t", 0, None) is None
    assert store.views.find_job("dag", "run", "t", -1, 3) is None


def found(store: Store, name: str) -> JobView:
    job = store.views.find_job("dag", "run", name, -1, None)
    assert job is not None
    return job


def test_the_history_of_a_job_and_what_goes_before_it(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    job, narrow = new_job("t"), new_job("urgent", priority=5)
    enqueue(engine, job, narrow, new_job("far", queue="far", priority=9))
    (claimed,) = one.claim(job)
    SingleReports(store.reports).refuse(one.principal, claimed.claim, "no room")
    claims, ahead = store.views.history(found(store, "t"), 5)
    assert [(claim.worker, claim.result, claim.detail) for claim in claims] == [("w1", "refused", "no room")]
    assert claims[0].ended_s is not None
    assert ahead == 1
    assert store.views.history(found(store, "urgent"), 5) == ([], 0)


def test_a_queue_is_counted_once(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    jobs = [new_job(name) for name in "abcd"]
    enqueue(engine, *jobs, new_job("far", queue="far"))
    one.claim(jobs[0])
    one.finish(one.start(jobs[1]))
    change_job(engine, jobs[2].key, queued_dttm=datetime(2026, 1, 1, tzinfo=UTC))
    far, q = store.views.backlogs()
    assert (far.queue, far.queued, far.running) == ("far", 1, 0)
    assert (q.queue, q.queued, q.running) == ("q", 2, 1)
    assert q.oldest_wait_s > 86_400
    assert far.oldest_wait_s < 60


def test_a_queue_where_nothing_waits(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    job = new_job()
    enqueue(engine, job)
    one.start(job)
    (q,) = store.views.backlogs()
    assert (q.queued, q.running, q.oldest_wait_s) == (0, 1, None)


def test_a_worker_of_ours(engine: sa.Engine, store: Store) -> None:
    secret = store.tokens.create_token(
        "plant", worker_pattern="w*", queues=["q"], team="red", expires_in_s=None
    )
    token, _ = store.tokens.find_token(secret)
    one = FakeWorker(store)
    principal = Principal(worker=one.principal.worker, team="red", token_id=token.id)
    store.liveness.announce(GatewayId(one.gateway), "api-1", 7)
    store.workers.register(principal, _registration(one))
    jobs = [new_job("a", slots=2), new_job("b")]
    enqueue(engine, *jobs)
    one.claim(*jobs)
    (view,) = store.views.workers()
    assert (view.name, view.is_ours, view.state, view.team) == ("w1", True, "idle", "red")
    assert (view.concurrency, view.taken, view.free, view.jobs) == (4, 3, 1, 2)
    assert (view.queues, view.wished_queues, view.local_queues) == (("q",), None, ("q",))
    assert (view.gateway, view.transport) == (one.gateway, "websocket")
    assert view.token is not None
    assert (view.token.name, view.token.queues, view.token.team, view.token.is_good) == (
        "plant",
        ("q",),
        "red",
        True,
    )
    assert 0 <= view.seen_s < 60
    store.tokens.revoke_token("plant")
    (view,) = store.views.workers(name="w1")
    assert view.token is not None
    assert not view.token.is_good
    assert store.views.workers(name="nobody") == []


def _registration(one: FakeWorker) -> Registration:
    return Registration(
        gateway=GatewayId(one.gateway),
        transport="websocket",
        concurrency=one.concurrency,
        queues=one.queues,
        inventory=one.inventory(),
        sysinfo={"concurrency": one.concurrency},
    )


def test_the_wish_and_what_is_in_force(store: Store) -> None:
    FakeWorker(store).register()
    wished = store.operators.wish_concurrency("w1", 9)
    (view,) = store.views.workers()
    assert (view.wished_concurrency, view.concurrency, view.local_concurrency) == (9, 4, 4)
    assert (view.wish_revision, view.applied_revision) == (wished.revision, 0)
    store.operators.request_maintenance("w1", "belt change")
    (view,) = store.views.workers()
    assert (view.state, view.comment, view.wishes_maintenance) == ("maintenance request", "belt change", True)


def test_what_keeps_slots_from_jobs(store: Store) -> None:
    one = FakeWorker(store)
    told = {NOT_READY: True, STALE_SLOTS: 9, HINDRANCE: "no\nAirflow"}
    one.register(sysinfo=told)
    # Only what the inventory says counts.
    assert store.views.workers()[0].room == Room()
    one.register(inventory=replace(one.inventory(), draining=True, stale_slots=1), sysinfo=told)
    (view,) = store.views.workers()
    assert (view.room, view.busy, view.free) == (Room(ready=False, stale_slots=1, why="no Airflow"), 1, 3)
    applied = Applied(revision=0, concurrency=4, queues=("q",))
    store.workers.note_applied(one.principal, applied)
    assert store.views.workers()[0].room == view.room
    store.workers.note_applied(one.principal, applied, Room())
    (view,) = store.views.workers()
    assert (view.room, view.free) == (Room(), 4)
    assert not {NOT_READY, HINDRANCE, STALE_SLOTS} & view.sysinfo.keys()


def test_since_when_it_is_connected_and_by_what(engine: sa.Engine, store: Store) -> None:
    """A loss begins the connection anew, another transport that, a new life of the daemon both."""
    one = FakeWorker(store)

    def since(life: str, losses: int, transport: str) -> tuple[bool, bool]:
        """Register so; return what is as old as before."""
        said = {"concurrency": 4, "connection_losses": losses}
        one.register(life=LifeId(life), transport=transport, sysinfo=said)
        (view,) = store.views.workers()
        found = tuple(view.sysinfo[name] == "long ago" for name in ("connected_since", "transport_since"))
        old = {**view.sysinfo, "connected_since": "long ago", "transport_since": "long ago"}
        with engine.begin() as connection:
            connection.execute(edge_worker.update().values(sysinfo=old))
        return found

    assert since("a", 0, "websocket") == (False, False)
    assert since("a", 0, "websocket") == (True, True)
    assert since("a", 1, "websocket") == (False, True)
    assert since("a", 1, "longpoll") == (True, False)
    assert since("b", 1, "longpoll") == (False, False)


def test_what_it_says_of_its_machine_is_kept_up_to_date(store: Store) -> None:
    one = FakeWorker(store)
    one.register(sysinfo={"edge_ws_version": "9", "disk_free_gb": 7.0})
    applied = Applied(revision=0, concurrency=4, queues=("q",))
    store.workers.note_applied(one.principal, applied, Room(), {"disk_free_gb": 0.1})
    (view,) = store.views.workers()
    assert (view.sysinfo["disk_free_gb"], view.sysinfo["edge_ws_version"]) == (0.1, "9")
    assert view.sysinfo["connected_since"]


def test_a_worker_of_edge3(engine: sa.Engine, store: Store) -> None:
    add_edge3_worker(engine)
    job = new_job()
    enqueue(engine, job)
    change_job(engine, job.key, state="running", edge_worker="e1")
    (view,) = store.views.workers()
    assert (view.is_ours, view.queues, view.concurrency, view.taken, view.free) == (False, ("q",), 8, 1, 7)
    assert view.token is None
    with engine.begin() as connection:
        connection.execute(edge_worker.update().values(concurrency=2))
    assert store.views.workers()[0].concurrency == 2


def test_a_name_that_edge3_took_over_is_edge3s(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register()
    with engine.begin() as connection:
        connection.execute(edge_worker.update().values(sysinfo={"concurrency": 3}))
    (view,) = store.views.workers()
    assert (view.is_ours, view.concurrency) == (False, 3)


def test_however_much_there_is_the_statements_are_the_same(engine: sa.Engine, store: Store) -> None:
    for number in range(5):
        FakeWorker(store, name=f"w{number}").register()
    enqueue(engine, *(new_job(f"t{number}") for number in range(20)))
    job = found(store, "t3")
    for verb, most in (
        (lambda: store.views.jobs(100), 1),
        (store.views.backlogs, 1),
        (store.views.workers, 1),
        (lambda: store.views.history(job, 10), 2),
    ):
        with statements(engine) as seen:
            verb()
        assert len(seen) == most


class TestStranded:
    def test_a_gateway_is_alive(self, engine: sa.Engine, store: Store) -> None:
        store.liveness.announce(GatewayId("g"), "api-1", 7)
        enqueue(engine, new_job())
        with statements(engine) as seen:
            assert store.views.stranded(OWNER, None) is None
        assert len(seen) == 1

    def test_nothing_waits(self, engine: sa.Engine, store: Store) -> None:
        job = new_job()
        enqueue(engine, job)
        change_job(engine, job.key, state="running", edge_worker="e1")
        assert store.views.stranded(OWNER, None) is None

    def test_no_gateway_ever(self, engine: sa.Engine, store: Store) -> None:
        enqueue(engine, new_job("a"), new_job("b"), new_job("c", owner=8), new_job("d", team="red"))
        left = store.views.stranded(OWNER, None)
        assert left is not None
        assert (left.jobs, left.gateway, left.seen_s) == (2, None, None)
        assert 0 <= left.waited_s < 60
        red = store.views.stranded(OWNER, "red")
        assert red is not None
        assert red.jobs == 1

    def test_a_gateway_that_was_there(self, engine: sa.Engine, store: Store) -> None:
        store.liveness.announce(GatewayId("g"), "api-1", 7)
        set_gateway(engine, 3600.0)
        enqueue(engine, new_job())
        left = store.views.stranded(OWNER, None)
        assert left is not None
        assert left.gateway == "api-1"
        assert 3590 < left.seen_s < 3700


def test_mysql_takes_the_queries() -> None:
    job = JobView(
        key=JobKey("d", "t", "r", -1, 1),
        state="queued",
        queue="q",
        slots=1,
        priority=1,
        team=None,
        owner=None,
        reported=False,
        worker=None,
        queued_at=datetime(2026, 1, 1, tzinfo=UTC),
        waited_s=1.0,
        updated_s=1.0,
        claim=None,
    )
    for query in (
        views.jobs_query({"state": "offered", "queue": "q", "worker": "w", "dag_id": "d"}, 5),
        views.claims_query(job.key, 5),
        views.ahead_query(job),
        views.backlogs,
        views.workers_query,
        views.last_gateway,
        views.left_waiting,
    ):
        assert "SELECT" in str(query.compile(dialect=mysql.dialect()))
