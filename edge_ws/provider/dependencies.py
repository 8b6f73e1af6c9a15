"""Why Airflow does not queue a task: its own answer, as its scheduler and its UI have it.

Takes Airflow's models and the serialized DAG: only what waits for Airflow itself is asked about here.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from airflow import settings
from airflow.configuration import conf
from airflow.exceptions import TaskNotFound
from airflow.jobs.job import Job
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.ti_deps.dep_context import DepContext
from airflow.ti_deps.dependencies_deps import SCHEDULER_QUEUED_DEPS
from sqlalchemy.orm import Session

from edge_ws.provider.airflow_tables import Named
from edge_ws.server.diagnosis import Code, Unmet

_CODES = {
    "Dag Not Paused": Code.DAG_PAUSED,
    "Dagrun Running": Code.RUN_NOT_RUNNING,
    "Trigger Rule": Code.WAITS_FOR_UPSTREAM,
    "Previous Dagrun State": Code.WAITS_FOR_UPSTREAM,
    "Mapped dependencies have succeeded": Code.WAITS_FOR_UPSTREAM,
    "Pool Slots Available": Code.POOL_FULL,
    "Task Instance Slots Available": Code.LIMIT_REACHED,
    "Task Concurrency": Code.LIMIT_REACHED,
    "Not In Retry Period": Code.UP_FOR_RETRY,
    "Ready To Reschedule": Code.UP_FOR_RESCHEDULE,
}
"""By the names of Airflow's dependencies (ti_deps/deps)."""
_ORDER = tuple(dict.fromkeys(_CODES.values()))
_OPEN = ("queued", "running")


def unmet(task: Named) -> tuple[Unmet, ...]:
    """Return what Airflow waits for before it queues the task, the most general first; empty: nothing."""
    assert settings.NonScopedSession is not None
    with settings.NonScopedSession() as session:
        found = [*_dependencies(session, task)]
        if not found:
            found = [*_scheduler(session)]
        session.rollback()
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.code) if one.code in _ORDER else len(_ORDER)))


def _dependencies(session: Session, task: Named) -> list[Unmet]:
    query = sa.select(TaskInstance).where(
        TaskInstance.dag_id == task.dag_id,
        TaskInstance.run_id == task.run_id,
        TaskInstance.task_id == task.task_id,
        TaskInstance.map_index == task.map_index,
    )
    ti = session.scalars(query.limit(1)).first()
    run_query = sa.select(DagRun).where(DagRun.dag_id == task.dag_id, DagRun.run_id == task.run_id)
    run = session.scalars(run_query).first()
    dag = DBDagBag().get_dag_for_run(run, session=session) if run is not None else None
    if ti is None or dag is None:
        return []
    try:
        ti.task = dag.get_task(task.task_id)
    except TaskNotFound:
        return [Unmet(Code.NOT_QUEUED_YET, "the DAG's present version has no such task")]
    context = DepContext(deps=SCHEDULER_QUEUED_DEPS)
    return [
        Unmet(_CODES.get(one.dep_name, Code.NOT_QUEUED_YET), one.reason)
        for one in ti.get_failed_dep_statuses(dep_context=context, session=session)
        # For these it is the others that say why.
        if one.dep_name not in {"Task Instance State", "Task Instance Not Running"}
    ]


def _scheduler(session: Session) -> list[Unmet]:
    """Return what keeps the scheduler from a task that could be queued."""
    alive_s = conf.getint("scheduler", "scheduler_health_check_threshold")
    rows = session.execute(
        sa.select(Job.id, Job.latest_heartbeat).where(Job.job_type == "SchedulerJob", Job.state == "running")
    ).all()
    ages = {row.id: time.time() - row.latest_heartbeat.timestamp() for row in rows}
    alive = [one for one, age_s in ages.items() if age_s < alive_s]
    if not alive:
        seen = f"the last one was heard {min(ages.values()):.0f} s ago" if ages else "none has registered"
        return [Unmet(Code.NO_SCHEDULER, f"no scheduler is alive; {seen}")]
    parallelism = conf.getint("core", "parallelism")
    c = TaskInstance.__table__.c
    held = sa.select(sa.func.count()).where(c.state.in_(_OPEN), c.queued_by_job_id.in_(alive))
    count = session.scalar(held) or 0
    most = parallelism * len(alive)
    if parallelism and count >= most:
        reason = f"{count} tasks are queued or running, and [core] parallelism lets {most} be"
        return [Unmet(Code.LIMIT_REACHED, reason)]
    return []
