"""A real Airflow's metadata database with one DAG in it, and no processes: the test plays them all."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.store import schema, tables
from edge_ws.store.live import is_job
from edge_ws.store.records import JobKey

SCHEDULER = 7
"""The `job_id` of the scheduler under test."""


@contextmanager
def configured(url: str) -> Iterator[sa.Engine]:
    """Have Airflow's engine and sessions on that database for the length of the block."""
    from airflow import settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
        settings.dispose_orm(do_log=False)
        settings.configure_vars()
        settings.configure_orm()
        yield settings.engine
        settings.dispose_orm(do_log=False)


def migrate_airflow(url: str, home: Path) -> None:
    """Make Airflow's tables and ours, with one DAG."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with configured(url) as engine:
        schema.migrate(engine)
        write_dag()


def write_dag() -> None:
    """Put the DAG `factory` into the configured database."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.sdk import DAG, BaseOperator
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    with DAG("factory", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        BaseOperator(task_id="press")
        BaseOperator(task_id="weld", retries=2, on_retry_callback=print)
    lazy = LazyDeserializedDAG.from_dag(dag)
    with create_session(scoped=False) as session:
        session.add(DagBundleModel(name="dags-folder"))
        session.flush()
        SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name="dags-folder", session=session)


def _present(session: Any, ti: Any) -> Any:
    from airflow.models.taskinstance import TaskInstance

    same = (TaskInstance.dag_id == ti.dag_id, TaskInstance.run_id == ti.run_id)
    return session.scalars(sa.select(TaskInstance).where(*same, TaskInstance.task_id == ti.task_id)).one()


def callback_workload(callback_id: str) -> Any:
    """Return what the scheduler queues for a callback."""
    from airflow.executors.workloads import BundleInfo, ExecuteCallback

    return ExecuteCallback(
        callback={
            "id": callback_id,
            "fetch_method": "import_path",
            "data": {"path": "a.b", "kwargs": {}},
        },
        dag_rel_path="factory.py",
        token="",
        log_path="executor_callbacks/factory/run-1/1",
        bundle_info=BundleInfo(name="dags-folder"),
    )


class Centre:
    """An Airflow without processes: the test is the scheduler, the workers and the Execution API."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._runs = itertools.count(1)
        self._mark = secrets.token_hex(4)

    def task(self, task_id: str = "press", *, state: str | None = "queued", **values: Any) -> Any:
        """Make a run and return its task instance of that name, detached, as the scheduler would leave it."""
        from airflow.models.dagbag import DBDagBag
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        now = dt.datetime.now(dt.UTC)
        number = next(self._runs)
        with create_session(scoped=False) as session:
            dag = DBDagBag().get_latest_version_of_dag("factory", session=session)
            run = dag.create_dagrun(
                run_id=f"run-{self._mark}-{number}",
                run_after=now,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                logical_date=now + dt.timedelta(seconds=number),
                session=session,
            )
            ti = next(ti for ti in run.get_task_instances(session=session) if ti.task_id == task_id)
            ti.try_number = 1
            ti.queued_by_job_id = SCHEDULER
            ti.state = state
            for name, value in values.items():
                setattr(ti, name, value)
            _ = ti.dag_model.relative_fileloc, ti.dag_run.bundle_version
            session.flush()
            return ti

    def copies(self, ti: Any, names: Mapping[uuid.UUID, str]) -> None:
        """Give the task's run further tasks like it: id -> name."""
        from airflow.models.taskinstance import TaskInstance

        table = TaskInstance.__table__
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == ti.id)).mappings().one()
            copies = [{**row, "id": one, "task_id": name} for one, name in names.items()]
            connection.execute(table.insert(), copies)

    def workload(self, ti: Any) -> Any:
        """Return what the scheduler queues for the task instance."""
        from airflow.executors.workloads import BundleInfo, ExecuteTask

        return ExecuteTask.make(
            ti, bundle_info=BundleInfo(name="dags-folder"), dag_rel_path=Path("factory.py")
        )

    def add_callback(self, callback_id: str) -> None:
        """Make a callback that the scheduler has just queued, as a deadline that was missed does."""
        from airflow.models.callback import Callback

        values = {
            "id": uuid.UUID(callback_id),
            "type": "executor",
            "fetch_method": "import_path",
            "data": {"path": "a.b", "kwargs": {}},
            "state": "queued",
            "priority_weight": 1,
            "created_at": dt.datetime.now(dt.UTC),
        }
        with self.engine.begin() as connection:
            connection.execute(Callback.__table__.insert().values(values))

    def set_callback(self, callback_id: str, state: str | None) -> None:
        """Give the callback that state; None: delete it."""
        from airflow.models.callback import Callback

        table = Callback.__table__
        change = table.delete() if state is None else table.update().values(state=state)
        with self.engine.begin() as connection:
            connection.execute(change.where(table.c.id == uuid.UUID(callback_id)))

    def set_task(self, ti: Any, **values: Any) -> None:
        """Change the task instance behind everybody's back."""
        from airflow.models.taskinstance import TaskInstance

        table = TaskInstance.__table__
        with self.engine.begin() as connection:
            connection.execute(table.update().where(table.c.id == ti.id).values(**values))

    def task_state(self, ti: Any) -> str | None:
        """Return the state of the task now, whatever its id is."""
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            state = _present(session, ti).state
        return state if state is None else str(state)

    def scheduler(self, job_id: int, state: str) -> None:
        """Make a scheduler known to Airflow."""
        from airflow.jobs.job import Job

        values = {"id": job_id, "job_type": "SchedulerJob", "state": state}
        with self.engine.begin() as connection:
            connection.execute(Job.__table__.insert().values(values))

    def clear(self, ti: Any) -> None:
        """Clear the task as the UI does, whatever its id is now."""
        from airflow.models.taskinstance import clear_task_instances
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            clear_task_instances([_present(session, ti)], session)

    def retry(self, ti: Any) -> None:
        """Take the task's own report of a retry, as the Execution API does."""
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            present = _present(session, ti)
            present.state = "up_for_retry"
            present.prepare_db_for_next_try(session)

    def set_present(self, ti: Any, **values: Any) -> None:
        """Change what the task is now, whatever its id is."""
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            present = _present(session, ti)
            for name, value in values.items():
                setattr(present, name, value)

    def delete_run(self, ti: Any) -> None:
        """Delete the task's run, as the UI does."""
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            session.delete(_present(session, ti).dag_run)

    def rows(self) -> dict[JobKey, Any]:
        """Return all rows of `edge_job`."""
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(tables.edge_job)).all()
        return {JobKey(*row[:6]): row for row in found}

    def set_row(self, key: JobKey, **values: Any) -> None:
        """Change one row of `edge_job`, as a gateway does."""
        with self.engine.begin() as connection:
            done = connection.execute(tables.edge_job.update().where(is_job(key)).values(**values))
        assert done.rowcount == 1

    def delete_row(self, key: JobKey) -> None:
        """Delete one row of `edge_job`, as edge3's purge does."""
        with self.engine.begin() as connection:
            connection.execute(tables.edge_job.delete().where(is_job(key)))
