"""The live predicate, and how old something is, each in one place: every verb on a claim goes through them.

A claim is live iff its row still carries it and its worker and the row is restarting or running. An end
state written past an open claim (edge3's PATCH knows no claims) is put back first; `queued` never is: it is
a new round, and makes the old claim stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.records import JobKey
from edge_ws.store.tables import claim, edge_job, utc_now


class age_s(FunctionElement[float]):  # noqa: N801 - used as a SQL function
    """Seconds since that time by the database's clock; NULL for none."""

    type = sa.Double()
    inherit_cache = True


@compiles(age_s, "postgresql")
def _age_postgresql(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return (
        f"CAST(extract(epoch FROM clock_timestamp() - {compiler.process(element.clauses, **kw)}) AS float8)"
    )


@compiles(age_s, "sqlite")
def _age_sqlite(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return f"((julianday('now') - julianday({compiler.process(element.clauses, **kw)})) * 86400.0)"


@compiles(age_s, "mysql")
def _age_mysql(element: age_s, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    time = compiler.process(element.clauses, **kw)
    return f"(timestampdiff(microsecond, {time}, utc_timestamp(6)) / 1e6)"


QUEUED = "queued"
CLAIMED = "restarting"
RUNNING = "running"
OPEN_STATES = (CLAIMED, RUNNING)
SUCCESS = "success"
FAILED = "failed"
REMOVED = "removed"

REPORTED = 0
"""The owner of a row that an executor of ours has reported; that of edge3's rows is NULL."""

has_ended = edge_job.c.state.not_in([sa.literal_column(f"'{state}'") for state in (QUEUED, *OPEN_STATES)])
"""The row has ended. Written out: the index of an owner's ended rows is for exactly this condition."""

KEY_COLUMNS = ("dag_id", "task_id", "run_id", "map_index", "try_number", "task_instance_id")

same_job = sa.and_(*(claim.c[name] == edge_job.c[name] for name in KEY_COLUMNS))
"""Joins a claim to the row of its job."""
held = sa.and_(
    same_job,
    edge_job.c.edge_ws_claim == claim.c.id,
    edge_job.c.edge_worker == claim.c.worker,
    edge_job.c.state != QUEUED,
    claim.c.ended_at.is_(None),
)
"""The predicate before end states are put back."""


MANY_KEYS = 200
"""Job keys in one statement where they are written out: SQLite's expression depth is 1,000."""
key_columns = tuple(edge_job.c[name] for name in KEY_COLUMNS)


def these_jobs(keys: Sequence[JobKey]) -> sa.ColumnElement[bool]:
    """Return the condition that selects the rows of these jobs (at most MANY_KEYS)."""
    return sa.tuple_(*key_columns).in_(keys)


def is_job(key: JobKey) -> sa.ColumnElement[bool]:
    """Return the condition that selects one `edge_job` row."""
    return sa.and_(*(edge_job.c[name] == getattr(key, name) for name in KEY_COLUMNS))


def key_of(row: Row[Any]) -> JobKey:
    """Return the job key in a row of either table."""
    return JobKey(row.dag_id, row.task_id, row.run_id, row.map_index, row.try_number, row.task_instance_id)


def row_state(phase: Phase) -> str:
    """Return the state that `edge_job` has while a claim is in that phase."""
    return RUNNING if phase is Phase.STARTED else CLAIMED


def locking(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return the query of claims and their jobs so that it locks both, in key order as everywhere.

    With the job's lock alone, the claim that is read would be the one from before the wait for that lock: an
    offer that was accepted meanwhile would still look unanswered.
    """
    return query.order_by(*key_columns).with_for_update(of=[edge_job, claim])


def find_live(connection: Connection, claim_id: ClaimId, worker: WorkerName) -> Row[Any] | None:
    """Return the claim's row if it is live and that worker's, both locked; else None."""
    query = sa.select(claim, edge_job.c.state.label("job_state")).join(edge_job, held)
    query = query.where(claim.c.id == claim_id, claim.c.worker == worker)
    row = connection.execute(locking(query)).one_or_none()
    if row is not None and row.job_state not in OPEN_STATES:
        set_job(connection, key_of(row), claim_id, state=row_state(Phase(row.phase)))
    return row


def set_job(connection: Connection, key: JobKey, claim_id: ClaimId, **values: object) -> int:
    """Change the row of the job if it still carries the claim; return how many rows changed."""
    changed = connection.execute(
        edge_job.update()
        .where(is_job(key), edge_job.c.edge_ws_claim == claim_id)
        .values(last_update=utc_now(), **values)
    )
    return changed.rowcount


def set_claim(connection: Connection, claim_id: ClaimId, **values: object) -> None:
    """Change a claim that the caller knows to be live."""
    connection.execute(claim.update().where(claim.c.id == claim_id).values(**values))
