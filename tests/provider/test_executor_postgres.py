"""What the executor does in the scheduler's transaction, where one failed statement can break it all."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from airflow import settings
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.orm import Session

from edge_ws.provider import compat, workload
from edge_ws.provider.executor import EdgeWsExecutor
from tests.support.centre import SCHEDULER, Centre, callback_workload


@pytest.fixture
def executor(postgres_centre: Centre) -> EdgeWsExecutor:
    with postgres_centre.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM edge_job")
    made = EdgeWsExecutor()
    made.job_id = SCHEDULER
    made.start()
    return made


def row_of(centre: Centre, ti: Any) -> Any:
    return centre.rows()[workload.task_row(ti, ti.try_number)]


def test_one_bad_row_stops_nobody(postgres_centre: Centre, executor: EdgeWsExecutor) -> None:
    centre = postgres_centre
    first, bad, last = (centre.task() for _ in range(3))
    too_long = centre.workload(bad)
    too_long.ti.queue = "q" * 300
    with create_session(scoped=False) as session, prohibit_commit(session) as guard:
        for item in (centre.workload(first), too_long, centre.workload(last)):
            executor.queue_workload(item, session=session)
        guard.commit()
    assert row_of(centre, first).state == row_of(centre, last).state == "queued"
    assert len(centre.rows()) == 2
    assert executor.running == {compat.ti_key(first), compat.ti_key(last)}
    assert [str(state) for state, _ in executor.event_buffer.values()] == ["failed"]
    with create_session(scoped=False) as session:
        SchedulerJobRunner.process_executor_events(
            executor=executor, job_id=SCHEDULER, scheduler_dag_bag=DBDagBag(), session=session
        )
    assert centre.task_state(bad) == "failed"
    assert centre.task_state(first) == "queued"


def test_adoption_and_the_end(postgres_centre: Centre, executor: EdgeWsExecutor) -> None:
    centre = postgres_centre
    dead = EdgeWsExecutor()
    dead.job_id = SCHEDULER - 1
    going_on, over = (centre.task(state="running") for _ in range(2))
    never_queued = centre.task(state="queued")
    with create_session(scoped=False) as session:
        for ti in (going_on, over):
            dead.queue_workload(centre.workload(ti), session=session)
    centre.set_row(workload.task_row(over, 1), state="failed")
    with create_session(scoped=False) as session:
        ids = [ti.id for ti in (going_on, over, never_queued)]
        query = sa.select(TaskInstance).where(TaskInstance.id.in_(ids)).with_for_update()
        tis = session.scalars(query).all()
        assert [ti.id for ti in executor.try_adopt_task_instances(tis)] == [never_queued.id]
    assert row_of(centre, going_on).edge_ws_owner == SCHEDULER
    executor.sync()
    assert {key: str(state) for key, (state, _) in executor.event_buffer.items()} == {
        compat.ti_key(over): "failed"
    }
    assert executor.running == {compat.ti_key(going_on)}


def test_a_cleared_task(postgres_centre: Centre, executor: EdgeWsExecutor) -> None:
    centre = postgres_centre
    ti = centre.task()
    with create_session(scoped=False) as session:
        executor.queue_workload(centre.workload(ti), session=session)
    centre.set_task(ti, state="running")
    centre.clear(ti)
    centre.set_row(workload.task_row(ti, 1), state="failed")
    executor.sync()
    assert [str(state) for state, _ in executor.event_buffer.values()] == ["success"]


def test_revoking(postgres_centre: Centre, executor: EdgeWsExecutor) -> None:
    ti = postgres_centre.task()
    with create_session(scoped=False) as session:
        executor.queue_workload(postgres_centre.workload(ti), session=session)
    executor.revoke_task(ti=ti)
    assert postgres_centre.rows() == {}
    assert executor.running == set()


def test_what_nothing_waits_for(postgres_centre: Centre, executor: EdgeWsExecutor) -> None:
    centre = postgres_centre
    tis = [centre.task() for _ in range(4)]
    marked, deleted, waits, runs = tis
    callbacks = [str(uuid.uuid4()) for _ in range(2)]
    with create_session(scoped=False) as session:
        for ti in tis:
            executor.queue_workload(centre.workload(ti), session=session)
        for one in callbacks:
            centre.add_callback(one)
            executor.queue_workload(callback_workload(one), session=session)
    centre.set_task(marked, state="failed")
    centre.delete_run(deleted)
    centre.set_task(runs, state="running")
    centre.set_callback(callbacks[0], None)
    executor.sync()
    kept = {compat.ti_key(waits), compat.ti_key(runs), compat.callback_key(callbacks[1])}
    assert executor.running == kept
    assert sorted(row.state for row in centre.rows().values()) == ["queued"] * 3 + ["removed"] * 3
    assert executor.event_buffer == {}


def requeue(centre: Centre, executor: EdgeWsExecutor, ti: Any, session: Session) -> None:
    session.execute(sa.update(TaskInstance).where(TaskInstance.id == ti.id).values(state="queued"))
    executor.queue_workload(centre.workload(ti), session=session)


@pytest.mark.parametrize("before", ["BEGIN", "FOR UPDATE"])
def test_a_task_that_is_queued_again_at_that_moment_keeps_its_row(
    postgres_centre: Centre, executor: EdgeWsExecutor, before: str
) -> None:
    """Another scheduler queues it while the row is judged: once not committed yet, once just now."""
    centre = postgres_centre
    ti = centre.task(state="scheduled")
    with create_session(scoped=False) as session:
        executor.queue_workload(centre.workload(ti), session=session)
    other = settings.NonScopedSession()
    if before == "BEGIN":
        requeue(centre, executor, ti, other)
        executor.sync()
        other.commit()
    else:
        judged: list[str] = []

        def queue_again(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "SKIP LOCKED" in statement and "edge_job" in statement and not judged:
                judged.append(statement)
                requeue(centre, executor, ti, other)
                other.commit()

        sa.event.listen(centre.engine, "before_cursor_execute", queue_again)
        executor.sync()
        sa.event.remove(centre.engine, "before_cursor_execute", queue_again)
        assert judged
    other.close()
    assert row_of(centre, ti).state == "queued"
    assert executor.running == {compat.ti_key(ti)}
    assert centre.task_state(ti) == "queued"
