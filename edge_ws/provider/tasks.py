"""Asks Airflow about one task, for the view of a job that has no row here."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from edge_ws.errors import UsageError
from edge_ws.provider import compat
from edge_ws.server.scene import AirflowTask
from edge_ws.store.database import Database


def look_up(dag_id: str, run_id: str, task_id: str, map_index: int) -> AirflowTask:
    """Return the task as Airflow has it now.

    Raises:
        UsageError: there is no such task; it says which part of its name is unknown.
        UnreachableError: the metadata database is away, or this process has none.
    """
    with Database(compat.engine()).read() as connection:
        row = compat.find_task(connection, dag_id, run_id, task_id, map_index)
        if row is None:
            raise UsageError(_unknown(connection, dag_id, run_id, task_id, map_index))
    return AirflowTask(
        state=row.state, executor=row.executor, queue=row.queue, try_number=row.try_number or 0
    )


def _unknown(connection: Connection, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    indexes = compat.map_indexes(connection, dag_id, run_id, task_id)
    task = f"task {task_id} in run {run_id} of DAG {dag_id}"
    if indexes == (-1, -1):
        # A mapped one has no others until what it is mapped over is known.
        return f"{task} has no map index {map_index} now: leave --map-index out"
    if indexes is not None:
        which = "is mapped" if map_index == -1 else f"has no map index {map_index}"
        return f"{task} {which}: give --map-index ({indexes[0]} to {indexes[1]})"
    if compat.has_run(connection, dag_id, run_id):
        return f"Airflow knows no {task}"
    if compat.has_dag(connection, dag_id):
        return f"Airflow knows no run {run_id} of DAG {dag_id}"
    return f"Airflow knows no DAG {dag_id}"
