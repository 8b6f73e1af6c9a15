"""An executor and its Airflow in a process of their own, told what to do line by line.

Runs with either release of edge-ws, so it knows little of it but the executor's class. Lines are JSON, in and
out.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

DAG_ID = "jobs"


def furnish() -> str:
    """Put the DAG of tests/support/jobs.py and a token into the database; return the token, for any worker."""
    from airflow import settings
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.sdk import DAG, BaseOperator
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    from edge_ws.store.store import Store

    with DAG(DAG_ID, schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
        for name in ("hello", "wait"):
            BaseOperator(task_id=name)
    lazy = LazyDeserializedDAG.from_dag(dag)
    with create_session(scoped=False) as session:
        session.add(DagBundleModel(name="dags-folder"))
        session.flush()
        SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name="dags-folder", session=session)
    store = Store(settings.engine)
    # The last release's store is one object.
    tokens = store if hasattr(store, "create_token") else store.tokens
    return tokens.create_token("any", worker_pattern="*", queues=None, team=None, expires_in_s=None)


class Scheduler:
    """What a scheduler does with its executor."""

    def __init__(self, job_id: int) -> None:
        from edge_ws.provider.executor import EdgeWsExecutor

        self._job_id = job_id
        self._runs = itertools.count(1)
        self._executor = EdgeWsExecutor()
        self._executor.job_id = job_id
        self._executor.start()

    def queue(self, task: str, queue: str, count: int) -> list[tuple[str, str]]:
        """Queue tasks of new runs, which are running as far as Airflow knows; return their ids and log paths."""
        from airflow.executors.workloads import BundleInfo, ExecuteTask
        from airflow.models.dagbag import DBDagBag
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        made = []
        for _ in range(count):
            now = dt.datetime.now(dt.UTC)
            with create_session(scoped=False) as session:
                run = (
                    DBDagBag()
                    .get_latest_version_of_dag(DAG_ID, session=session)
                    .create_dagrun(
                        run_id=f"run-{self._job_id}-{next(self._runs)}",
                        run_after=now,
                        run_type=DagRunType.MANUAL,
                        triggered_by=DagRunTriggeredByType.TEST,
                        state=DagRunState.RUNNING,
                        logical_date=now,
                        session=session,
                    )
                )
                ti = next(ti for ti in run.get_task_instances(session=session) if ti.task_id == task)
                ti.try_number, ti.queued_by_job_id, ti.queue, ti.state = 1, self._job_id, queue, "running"
                _ = ti.dag_model.relative_fileloc, ti.dag_run.bundle_version
                session.flush()
                bundle = BundleInfo(name="dags-folder")
                item = ExecuteTask.make(ti, bundle_info=bundle, dag_rel_path=Path("jobs.py"))
                self._executor.queue_workload(item, session=session)
                made.append((str(ti.id), str(item.log_path)))
        return made

    def ends(self) -> dict[str, str]:
        """Let it report; return what it has told, by task instance."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        self._executor.sync()
        told = {}
        with create_session(scoped=False) as session:
            for key, (state, _) in self._executor.get_event_buffer().items():
                same = {"dag_id": key.dag_id, "task_id": key.task_id, "run_id": key.run_id}
                ti = session.query(TaskInstance).filter_by(**same).one()
                told[str(ti.id)] = str(state)
                # As the scheduler does with it.
                ti.state = str(state)
        return told

    def adopt(self, ids: list[str]) -> list[str]:
        """Take over another scheduler's tasks; return those that it would have reset."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            tis = [session.get(TaskInstance, uuid.UUID(one)) for one in ids]
            reset = [str(ti.id) for ti in self._executor.try_adopt_task_instances(tis)]
            for ti in tis:
                ti.queued_by_job_id = self._job_id
        return reset

    def clear(self, ids: list[str]) -> None:
        """Clear tasks as the UI does."""
        from airflow.models.taskinstance import TaskInstance, clear_task_instances
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            clear_task_instances([session.get(TaskInstance, uuid.UUID(one)) for one in ids], session)

    def log(self, ti_id: str) -> str:
        """Return the log of a running task, as the api-server reads it."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        with create_session(scoped=False) as session:
            ti = session.get(TaskInstance, uuid.UUID(ti_id))
            return "\n".join(self._executor.get_task_log(ti, 1)[1])


def main() -> None:
    """Do what the lines ask for until they end; the argument is the scheduler's `job_id`, or `furnish`."""
    from airflow import settings

    import edge_ws

    if settings.engine is None:
        settings.initialize()
    if sys.argv[1] == "furnish":
        print(furnish(), file=_OUT)
        return
    try:
        scheduler = Scheduler(int(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - what an executor refuses with is what is asked for
        print(json.dumps({"refused": type(error).__name__, "why": str(error)}), file=_OUT, flush=True)
        return
    print(json.dumps({"package": str(Path(edge_ws.__file__).parents[1])}), file=_OUT, flush=True)
    for line in sys.stdin:
        verb, *words = json.loads(line)
        answer: Any = getattr(scheduler, verb)(*words)
        print(json.dumps(answer), file=_OUT, flush=True)


if __name__ == "__main__":
    main()
