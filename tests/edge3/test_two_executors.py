"""edge3's executor and ours on the same database, in the same team: neither touches what is the other's."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session

from edge_ws.protocol.ids import GatewayId
from edge_ws.provider import compat, workload
from edge_ws.provider.executor import RECONCILE_S, EdgeWsExecutor
from edge_ws.store.records import JobKey
from edge_ws.store.store import Store
from tests.support.centre import SCHEDULER, Centre
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker

LONG_AGO = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ours(centre: Centre) -> EdgeWsExecutor:
    made = EdgeWsExecutor(clock=Clock())
    made.job_id = SCHEDULER
    made.start()
    return made


@pytest.fixture
def theirs(centre: Centre) -> Any:
    from airflow.providers.edge3.executors import EdgeExecutor

    made = EdgeExecutor()
    made.job_id = SCHEDULER
    return made


def queued(centre: Centre, executor: Any, **values: object) -> tuple[Any, JobKey]:
    """Queue a new task with that executor; return the task instance and its row's key."""
    ti = centre.task(**values)
    with create_session(scoped=False) as session:
        executor.queue_workload(centre.workload(ti), session=session)
    return ti, workload.task_row(ti, ti.try_number)


def set_worker(centre: Centre, name: str, **values: object) -> None:
    from edge_ws.store.tables import edge_worker

    with centre.engine.begin() as connection:
        connection.execute(edge_worker.update().where(edge_worker.c.worker_name == name).values(**values))


def worker_state(centre: Centre, name: str) -> str:
    with centre.engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT state FROM edge_worker WHERE worker_name = '{name}'")
        return str(found.scalar_one())


def events(executor: Any) -> dict[Any, str]:
    return {key: str(getattr(state, "value", state)) for key, (state, _) in executor.event_buffer.items()}


def test_each_reports_its_own_ends(centre: Centre, ours: EdgeWsExecutor, theirs: Any) -> None:
    mine, mine_key = queued(centre, ours)
    other, other_key = queued(centre, theirs)
    for key in (mine_key, other_key):
        # As either kind of worker would.
        centre.set_row(key, state="failed", edge_worker="w", last_update=dt.datetime.now(dt.UTC))
    ours.sync()
    theirs.sync()
    assert events(ours) == {compat.ti_key(mine): "failed"}
    assert events(theirs) == {compat.ti_key(other): "failed"}
    assert ours.running == theirs.running == set()


@pytest.mark.parametrize("state", ["queued", "restarting", "running"])
def test_neither_loses_or_takes_the_others_slots(
    centre: Centre, ours: EdgeWsExecutor, theirs: Any, state: str
) -> None:
    mine, mine_key = queued(centre, ours, state="running" if state == "running" else "queued")
    other, other_key = queued(centre, theirs, state="running" if state == "running" else "queued")
    for key in (mine_key, other_key):
        centre.set_row(key, state=state, edge_worker=None if state == "queued" else "w")
    for _ in range(2):
        ours.sync()
        theirs.sync()
        ours._clock.now += RECONCILE_S  # type: ignore[attr-defined]
    assert ours.running == {compat.ti_key(mine)}
    assert theirs.running == {compat.ti_key(other)}
    assert compat.ti_key(mine) not in theirs.event_buffer
    assert not ours.event_buffer
    assert {row.state for row in centre.rows().values()} == {state}


def test_neither_purges_what_the_other_has_not_reported(
    centre: Centre, ours: EdgeWsExecutor, theirs: Any
) -> None:
    """edge3's executor purges rows of its team that ended five minutes ago, ours too: not before that.

    We never purge edge3's before a day is over, for nobody can tell whether they are reported.
    """
    _, mine = queued(centre, ours)
    _, other = queued(centre, theirs)
    lately = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=4)
    for key in (mine, other):
        centre.set_row(key, state="success", edge_worker="w", last_update=lately)
    store = Store(centre.engine)
    theirs.sync()
    store.retention.purge(0.0)
    assert set(centre.rows()) == {mine, other}
    ours.sync()
    store.retention.purge(0.0)
    assert set(centre.rows()) == {other}


def test_a_row_of_ours_that_edge3_purged_gives_its_slot_back(
    centre: Centre, ours: EdgeWsExecutor, theirs: Any
) -> None:
    mine, key = queued(centre, ours)
    centre.set_row(key, state="success", edge_worker="w", last_update=LONG_AGO)
    theirs.sync()
    assert key not in centre.rows()
    ours._clock.now += RECONCILE_S  # type: ignore[attr-defined]
    ours.sync()
    assert ours.running == set()
    assert events(ours) == events(theirs) == {}
    assert centre.task_state(mine) == "queued"


def adopt(executor: Any, *tis: Any) -> set[Any]:
    """Let it adopt the tasks as the scheduler does; return the ids of those that it takes."""
    with create_session(scoped=False) as session:
        found = [session.get(TaskInstance, ti.id) for ti in tis]
        rejected = executor.try_adopt_task_instances(found)
        return {ti.id for ti in tis} - {ti.id for ti in rejected}


def test_each_is_asked_to_adopt_its_own_only_and_takes_them(
    centre: Centre, ours: EdgeWsExecutor, theirs: Any
) -> None:
    """Airflow asks an executor for the tasks that name it; here after both schedulers have died."""
    mine, mine_key = queued(centre, ours, state="running")
    other, other_key = queued(centre, theirs, state="running")
    for key in (mine_key, other_key):
        centre.set_row(key, state="running", edge_worker="w")
    heir = EdgeWsExecutor(clock=Clock())
    heir.job_id = SCHEDULER + 1
    heir.start()
    their_heir = type(theirs)()
    assert adopt(heir, mine) == {mine.id}
    assert adopt(their_heir, other) == {other.id}
    assert centre.rows()[mine_key].edge_ws_owner == SCHEDULER + 1
    assert centre.rows()[other_key].edge_ws_owner is None
    heir.sync()
    their_heir.sync()
    assert (heir.running, their_heir.running) == ({compat.ti_key(mine)}, {compat.ti_key(other)})


def test_an_executor_that_takes_the_name_over_adopts_the_others_jobs(
    centre: Centre, ours: EdgeWsExecutor, theirs: Any
) -> None:
    """The move of a site, and the way back: the tasks name one executor, `[core] executor` another class."""
    going_on, key = queued(centre, theirs, state="running")
    centre.set_row(key, state="running", edge_worker="w")
    assert adopt(ours, going_on) == {going_on.id}
    assert centre.rows()[key].edge_ws_owner == SCHEDULER
    assert adopt(type(theirs)(), going_on) == {going_on.id}
    centre.set_row(key, state="failed")
    ours.sync()
    assert events(ours) == {compat.ti_key(going_on): "failed"}


class TestEdge3LooksAfterLiveness:
    """Its executor times out workers and running rows of its team that nobody keeps fresh."""

    def running(self, centre: Centre, ours: EdgeWsExecutor) -> tuple[Store, FakeWorker, str, JobKey, Any]:
        ti, key = queued(centre, ours, state="running", queue="q")
        store = Store(centre.engine)
        worker = FakeWorker(store, "factory-7")
        gateway = GatewayId(worker.gateway)
        store.liveness.announce(gateway, "here", 1)
        connection = worker.register().connection
        (candidate,) = store.dispatch.candidates(None, 10)
        (claimed,) = store.dispatch.claim(
            gateway, [worker_takes(worker, candidate.key, candidate.place)], 10.0
        )
        worker.accept(claimed.claim)
        SingleReports(store.reports).started(worker.principal, claimed.claim, worker.host)
        assert centre.rows()[key].state == "running"
        return store, worker, connection, key, ti

    def test_a_heartbeat_keeps_worker_and_row(
        self, centre: Centre, ours: EdgeWsExecutor, theirs: Any
    ) -> None:
        store, worker, connection, key, _ = self.running(centre, ours)
        set_worker(centre, worker.name, last_update=LONG_AGO)
        centre.set_row(key, last_update=LONG_AGO)
        assert store.liveness.beat([connection]) == {connection}
        theirs.sync()
        assert worker_state(centre, worker.name) == "running"
        assert centre.rows()[key].state == "running"
        assert centre.rows()[key].last_update > LONG_AGO + dt.timedelta(hours=23)

    def test_what_it_did_while_no_gateway_was_there_is_undone(
        self, centre: Centre, ours: EdgeWsExecutor, theirs: Any
    ) -> None:
        store, worker, connection, key, ti = self.running(centre, ours)
        set_worker(centre, worker.name, last_update=LONG_AGO)
        # Long enough to be timed out, not to be purged.
        centre.set_row(key, last_update=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10))
        centre.set_task(ti, state="scheduled")
        theirs.sync()
        assert worker_state(centre, worker.name) == "unknown"
        assert centre.rows()[key].state == "scheduled"
        store.liveness.beat([connection])
        store.claims.repair()
        assert worker_state(centre, worker.name) == "running"
        assert centre.rows()[key].state == "running"
        ours.sync()
        assert not ours.event_buffer


def worker_takes(worker: FakeWorker, key: JobKey, place: str | None) -> Any:
    from edge_ws.protocol.ids import SiteId, WorkerName
    from edge_ws.store.records import Assignment

    return Assignment(
        key=key,
        slots=1,
        worker=WorkerName(worker.name),
        site=SiteId(worker.site),
        concurrency=worker.concurrency,
        place=place,
    )
