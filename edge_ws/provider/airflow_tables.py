"""What Airflow's own tables say of one task, read without Airflow's models, whose import takes seconds.

The columns are those of Airflow 3.1 to 3.4; which of two forms a table has is looked up in the database.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.store.live import age_s

STUCK = "stuck in queued reschedule"
"""The event that Airflow logs when it queues a task again that nobody took (scheduler_job_runner.py)."""


class Named(NamedTuple):
    """A task's name."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def _table(name: str, *columns: str) -> Any:  # noqa: ANN401 - SQLAlchemy 2.0 and 2.1 type it in different ways
    return sa.table(name, *(sa.column(one) for one in columns))


_dag = _table("dag", "dag_id", "is_paused", "is_stale")
_run = _table("dag_run", "dag_id", "run_id", "state")
_trigger = _table("trigger", "id", "classpath")
_log = _table("log", "dag_id", "run_id", "task_id", "map_index", "try_number", "event", "dttm")
_NAME = ("dag_id", "run_id", "task_id")
_TASK = (
    *_NAME,
    "id",
    "state",
    "executor",
    "queue",
    "try_number",
    "pool",
    "end_date",
    "trigger_id",
)


class AirflowTables:
    """Airflow's tables in one database."""

    def __init__(self, connection: Connection) -> None:
        """Take a connection that is in a transaction."""
        self._connection = connection

    @cached_property
    def _columns(self) -> frozenset[str]:
        found = sa.inspect(self._connection).get_columns("task_instance")
        return frozenset(column["name"] for column in found)

    @property
    def _index(self) -> str:
        # From 3.4 on a mapped task's index is one within a region.
        return "map_index" if "map_index" in self._columns else "region_index"

    @property
    def _keeps_tries(self) -> bool:
        """The tries of the past are in the same table (from 3.4 on)."""
        return "working_set" in self._columns

    @cached_property
    def _task(self) -> Any:  # noqa: ANN401
        more = ("working_set",) if self._keeps_tries else ()
        return _table("task_instance", *_TASK, self._index, *more)

    def _is(self, table: Any, task: Named, index: str) -> list[Any]:  # noqa: ANN401
        c = table.c
        return [*(c[name] == getattr(task, name) for name in _NAME), c[index] == task.map_index]

    def find(self, task: Named) -> Any | None:  # noqa: ANN401 - a row
        """Return the task's present attempt with its DAG's and its run's state, None if there is none."""
        c = self._task.c
        query = (
            sa.select(
                *(c[name] for name in ("state", "executor", "queue", "try_number", "pool")),
                age_s(c.end_date).label("ended_s"),
                _dag.c.is_paused,
                _dag.c.is_stale,
                _run.c.state.label("run_state"),
                _trigger.c.classpath,
            )
            .outerjoin(_dag, _dag.c.dag_id == c.dag_id)
            .outerjoin(_run, sa.and_(_run.c.dag_id == c.dag_id, _run.c.run_id == c.run_id))
            .outerjoin(_trigger, _trigger.c.id == c.trigger_id)
            .where(*self._is(self._task, task, self._index), *self._present)
        )
        # A task in a loop may have the index once for each pass: the last one made counts.
        return self._connection.execute(query.order_by(c.id.desc())).first()

    @property
    def _present(self) -> list[Any]:
        return [self._task.c.working_set.is_(sa.true())] if self._keeps_tries else []

    def try_state(self, task: Named, try_number: int) -> str | None:
        """Return how a try of the past has ended, None if that is not known."""
        table, index = self._task, self._index
        if not self._keeps_tries:
            index = "map_index"
            table = _table("task_instance_history", *_NAME, index, "try_number", "state", "end_date")
        c = table.c
        query = sa.select(c.state).where(*self._is(table, task, index), c.try_number == try_number)
        if self._keeps_tries:
            query = query.where(c.working_set.is_not(sa.true()))
        found: str | None = self._connection.scalar(query.order_by(c.end_date.desc()).limit(1))
        return found

    def requeued(self, task: Named, try_number: int) -> tuple[int, float | None]:
        """Return how often Airflow has queued the try again that nobody took, and since when, seconds."""
        c = _log.c
        query = sa.select(sa.func.count(), age_s(sa.func.min(c.dttm))).where(
            *self._is(_log, task, "map_index"), c.try_number == try_number, c.event == STUCK
        )
        count, first_s = self._connection.execute(query).one()
        return count, None if first_s is None else float(first_s)

    def map_indexes(self, task: Named) -> tuple[int, int] | None:
        """Return the first and last map index of a task (-1: it is not mapped), None if there is none."""
        c = self._task.c
        query = sa.select(sa.func.min(c[self._index]), sa.func.max(c[self._index])).where(
            *(c[name] == getattr(task, name) for name in _NAME), *self._present
        )
        first, last = self._connection.execute(query).one()
        return None if first is None else (first, last)

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether Airflow knows the DAG."""
        query = sa.select(sa.func.count()).select_from(_dag).where(_dag.c.dag_id == dag_id)
        return bool(self._connection.scalar(query))

    def has_run(self, dag_id: str, run_id: str) -> bool:
        """Tell whether Airflow knows the DAG's run."""
        c = _run.c
        query = sa.select(sa.func.count()).select_from(_run).where(c.dag_id == dag_id, c.run_id == run_id)
        return bool(self._connection.scalar(query))
