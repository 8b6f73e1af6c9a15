"""What the executor does in the scheduler's transaction, where one failed statement can break it all."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit

from edge_ws.provider import compat, workload
from edge_ws.provider.executor import EdgeWsExecutor
from tests.support.centre import SCHEDULER, Centre


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
