"""Asks Airflow about one task, for the view of its job: the task's own state, and where its log ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.engine import Engine

from edge_ws.errors import UsageError
from edge_ws.provider.airflow_tables import AirflowTables, Named
from edge_ws.server.diagnosis import AirflowTask, Unmet
from edge_ws.store.database import Database

WAITING = frozenset({None, "scheduled", "up_for_retry", "up_for_reschedule"})
"""States in which Airflow itself has yet to queue the task."""
TAIL = 64 * 1024
"""Bytes of a log's end that are read."""


class AirflowTasks:
    """The tasks in Airflow's database; see `server.ports.Tasks`."""

    def __init__(
        self,
        engine: Engine,
        log_folder: Callable[[], Path],
        unmet: Callable[[Named], tuple[Unmet, ...]] | None = None,
    ) -> None:
        """Make it.

        Args:
            engine: of Airflow's database.
            log_folder: the folder of task logs.
            unmet: asks Airflow why it does not queue a task; None: nobody does.
        """
        self._database = Database(engine)
        self._log_folder = log_folder
        self._unmet = unmet

    def look_up(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None = None
    ) -> AirflowTask:
        """Return the task as Airflow has it now; see `server.ports.Tasks`."""
        task = Named(dag_id, run_id, task_id, map_index)
        with self._database.read() as connection:
            tables = AirflowTables(connection)
            row = tables.find(task)
            if row is None:
                raise UsageError(_unknown(tables, task))
            present = row.try_number or 0
            past = try_number if try_number is not None and try_number < present else None
            requeues, requeued_s = tables.requeued(task, present)
            past_state = None if past is None else tables.try_state(task, past)
        waits = row.state in WAITING and self._unmet is not None
        return AirflowTask(
            state=row.state,
            executor=row.executor,
            queue=row.queue,
            try_number=present,
            pool=row.pool,
            ended_s=None if row.ended_s is None else float(row.ended_s),
            dag_paused=bool(row.is_paused),
            dag_stale=bool(row.is_stale),
            run_state=row.run_state,
            trigger=row.classpath,
            requeues=requeues,
            requeued_s=requeued_s,
            past_state=past_state,
            unmet=self._unmet(task) if waits and self._unmet is not None else (),
        )

    def log_end(self, log_path: str) -> bytes:
        """Return the end of a log in Airflow's folder; see `server.ports.Tasks`."""
        folder = self._log_folder()
        path = folder / log_path
        try:
            if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
                return b""
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL))
                return file.read()
        except OSError:
            # What cannot be read here is left out; Airflow's own page says why.
            return b""


def _unknown(tables: AirflowTables, task: Named) -> str:
    indexes = tables.map_indexes(task)
    told = f"task {task.task_id} in run {task.run_id} of DAG {task.dag_id}"
    if indexes == (-1, -1):
        # A mapped one has no others until what it is mapped over is known.
        return f"{told} has no map index {task.map_index} now: leave --map-index out"
    if indexes is not None:
        which = "is mapped" if task.map_index == -1 else f"has no map index {task.map_index}"
        return f"{told} {which}: give --map-index ({indexes[0]} to {indexes[1]})"
    if tables.has_run(task.dag_id, task.run_id):
        return f"Airflow knows no {told}"
    if tables.has_dag(task.dag_id):
        return f"Airflow knows no run {task.run_id} of DAG {task.dag_id}"
    return f"Airflow knows no DAG {task.dag_id}"
