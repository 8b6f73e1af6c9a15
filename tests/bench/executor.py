"""An executor by itself, either system's, asked by lines: how long `sync` and `queue_workload` take.

`python -m tests.bench.executor CLASS` in that system's environment; knows nothing of edge-ws.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Any

import sqlalchemy as sa
from airflow import settings
from airflow._shared.module_loading import import_string
from airflow.executors.workloads import BundleInfo, ExecuteTask
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session

OWNER = 7
BATCH = 16
"""Tasks that a scheduler queues in one transaction (`[scheduler] max_tis_per_query`)."""


class Verbs:
    """What can be asked."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._statements = 0
        sa.event.listen(settings.engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self._statements += 1

    async def hold(self, names: list[str]) -> int:
        """Hold the slots of these jobs, whose tasks are queued, as the executor that queued them does."""
        _make_tasks(names)
        self._executor.running = {TaskInstanceKey("bench", name, "bench", 1, -1) for name in names}
        self._executor.sync()
        return len(self._executor.running)

    async def sync(self, times: int) -> dict[str, Any]:
        """Call `sync` so often; return the seconds of each call and the statements of the last."""
        took = []
        for _ in range(times):
            self._statements, begun = 0, time.perf_counter()
            self._executor.sync()
            took.append(time.perf_counter() - begun)
        return {"seconds": took, "statements": self._statements}

    async def queue(self, batches: int, mark: str) -> dict[str, Any]:
        """Queue so many batches, a transaction each; return for each the seconds of its calls, and of its commit."""
        calls, commits = [], []
        for number in range(batches):
            items = [_workload(f"w-{mark}-{number}-{one}") for one in range(BATCH)]
            with create_session(scoped=False) as session:
                session.execute(sa.text("SELECT 1"))
                self._statements, begun = 0, time.perf_counter()
                for item in items:
                    self._executor.queue_workload(item, session=session)
                session.flush()
                then = time.perf_counter()
                session.commit()
                calls.append(then - begun)
                commits.append(time.perf_counter() - then)
        return {"calls": calls, "commits": commits, "statements": self._statements / BATCH, "batch": BATCH}


def _make_tasks(names: list[str]) -> None:
    """Have Airflow's table hold these tasks and no others, all queued; PostgreSQL only."""
    table = TaskInstance.__table__
    row = {
        "dag_id": "bench",
        "run_id": "bench",
        "try_number": 1,
        "state": "queued",
        "pool": "p",
        "pool_slots": 1,
    }
    with settings.engine.begin() as connection:
        # Without their DAG and its run: nobody looks at those.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.execute(table.delete())
        tasks = [{**row, "id": uuid.uuid4(), "task_id": name} for name in names]
        if tasks:
            connection.execute(table.insert(), tasks)
    with settings.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE task_instance")


def _workload(name: str) -> ExecuteTask:
    ti = TaskInstanceDTO(
        id=uuid.uuid4(),
        task_id=name,
        dag_id="bench",
        run_id="bench",
        try_number=1,
        map_index=-1,
        dag_version_id=uuid.uuid4(),
        pool_slots=1,
        queue="nobody",
        priority_weight=1,
    )
    return ExecuteTask(
        token="e" * 336,
        dag_rel_path="bench.py",
        bundle_info=BundleInfo(name="dags-folder"),
        log_path=f"dag_id=bench/run_id=bench/task_id={name}/attempt=1.log",
        ti=ti,
    )


def main(path: str) -> None:
    executor = import_string(path)()
    executor.job_id = OWNER
    executor.start()
    verbs = Verbs(executor)
    asyncio.run(obey_all(verbs))


async def obey_all(verbs: Verbs) -> None:
    from tests.bench.control import obey

    await obey({name: getattr(verbs, name) for name in ("hold", "sync", "queue")})


if __name__ == "__main__":
    main(sys.argv[1])
