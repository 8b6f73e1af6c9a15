"""Asks Airflow about one task, for the view of a job that has no row here."""

from __future__ import annotations

from edge_ws.provider import compat
from edge_ws.server.scene import AirflowTask
from edge_ws.store.database import Database


def look_up(dag_id: str, run_id: str, task_id: str, map_index: int) -> AirflowTask | None:
    """Return the task as Airflow has it now, None if there is none.

    Raises:
        UnreachableError: the metadata database is away, or this process has none.
    """
    with Database(compat.engine()).read() as connection:
        row = compat.find_task(connection, dag_id, run_id, task_id, map_index)
    return None if row is None else AirflowTask(state=row.state, executor=row.executor, queue=row.queue)
