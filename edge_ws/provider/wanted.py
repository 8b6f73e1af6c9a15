"""Whether Airflow waits for what a row runs, as a condition on the tables of both. Pure."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.provider.compat import CALLBACKS, TASKS, index_of, present
from edge_ws.store.tables import edge_job

_WAITING = ("queued", "running", "restarting")
"""States of a task that an executor has, or may have: its row is not taken from it here."""
_ATTEMPT = ("dag_id", "task_id", "run_id", "try_number")
_OVER = ("success", "failed")
"""States of a callback that has ended."""


def is_wanted() -> sa.ColumnElement[bool]:
    """Return the condition that the row's task is queued or runs, or that its callback has not ended.

    A paused DAG's queued task is waited for, too: LocalExecutor runs it.
    """
    return sa.case((_is_callback(), _callback()), else_=_task())


def _is_callback() -> sa.ColumnElement[bool]:
    c = edge_job.c
    return sa.and_(
        c.dag_id == CALLBACK_DAG_ID, c.run_id == sa.literal(f"{CALLBACK_DAG_ID}-").concat(c.task_id)
    )


def _task() -> sa.ColumnElement[bool]:
    c = TASKS.c
    same = [c[name] == edge_job.c[name] for name in _ATTEMPT]
    same.append(index_of(TASKS) == edge_job.c.map_index)
    # From Airflow 3.4 on a row is named by its task's id; before, another id has another try, too.
    named = edge_job.c.task_instance_id
    its_own = sa.or_(named == "", as_stored(named) == sa.cast(c.id, sa.String))
    query = sa.select(c.id).where(*same, its_own, c.state.in_(_WAITING), *present(TASKS))
    return sa.exists(query.correlate(edge_job))


def _callback() -> sa.ColumnElement[bool]:
    c = CALLBACKS.c
    same = sa.cast(c.id, sa.String) == as_stored(edge_job.c.task_id)
    query = sa.select(c.id).where(same, c.type == "executor", c.state.not_in(_OVER))
    return sa.exists(query.correlate(edge_job))


class as_stored(FunctionElement[str]):  # noqa: N801 - used as a SQL function
    """An id's usual text as an id column of Airflow's has it as text."""

    type = sa.String()
    inherit_cache = True


@compiles(as_stored, "postgresql")
def _stored_postgresql(element: as_stored, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return compiler.process(element.clauses, **kw)


@compiles(as_stored)
def _stored_elsewhere(element: as_stored, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    # Where the database has no type for it, SQLAlchemy stores it without dashes.
    return f"replace({compiler.process(element.clauses, **kw)}, '-', '')"
