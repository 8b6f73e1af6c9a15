"""Which workers could not start a job through their own fault, and whether another one is left to try.

A fault counts for one round of the job: queued anew by an executor, it may go anywhere again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.live import KEY_COLUMNS, OPEN_STATES, QUEUED, age_s, is_job
from edge_ws.store.records import JobKey
from edge_ws.store.tables import edge_job, edge_worker, epoch_now, fault, silent_after_s, token, worker
from edge_ws.store.wishes import split_queues
from edge_ws.store.worker_states import AWAY, WorkerState, state_of

MOST_WORKERS = 3
"""A job that so many workers could not start fails: the fault may be its own."""
KEPT_S = 3600.0
"""For so long a fault is kept after its job has gone from the queue."""
_LEAVING = AWAY | {WorkerState.SHUTDOWN_REQUEST, WorkerState.TERMINATING}
_of_job = sa.and_(*(fault.c[name] == edge_job.c[name] for name in KEY_COLUMNS))
_counts = sa.and_(_of_job, fault.c.queued_dttm.is_not_distinct_from(edge_job.c.queued_dttm))


def failed_on(columns: sa.ColumnCollection[str, Any]) -> sa.ScalarSelect[Any]:
    """Return the expression for the workers that could not start a job in this round, joined by commas.

    Args:
        columns: of the job: its key and `queued_dttm`.
    """
    names = sa.select(sa.func.aggregate_strings(fault.c.worker, ","))
    same = (fault.c[name] == columns[name] for name in KEY_COLUMNS)
    round_ = fault.c.queued_dttm.is_not_distinct_from(columns["queued_dttm"])
    return names.where(*same, round_).scalar_subquery()


def faults_of(connection: Connection, key: JobKey) -> dict[WorkerName, str]:
    """Return the workers that could not start the job in this round, with their reasons, the first first."""
    query = sa.select(fault.c.worker, fault.c.reason).join(edge_job, _counts).where(is_job(key))
    rows = connection.execute(query.order_by(fault.c.noted_at)).all()
    return {WorkerName(row.worker): row.reason for row in rows}


@dataclass(frozen=True, slots=True)
class Faults:
    """What is known of a job once another worker could not start it."""

    reasons: Mapping[WorkerName, str]
    others: bool
    """A worker that is here now, and has not tried, may take the job sooner or later."""

    @property
    def is_hopeless(self) -> bool:
        """Whether the job is not to be tried again."""
        return len(self.reasons) >= MOST_WORKERS or not self.others

    def told(self) -> str:
        """Return it as a sentence."""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        if len(self.reasons) == 1:
            ((name, reason),) = self.reasons.items()
            return f"Worker {name} could not start the task, and no other one that takes it is here: {reason}"
        return f"{len(self.reasons)} workers could not start the task: {reasons}"


def note_fault(
    connection: Connection, key: JobKey, name: WorkerName, reason: str, edge3_alive_s: float
) -> Faults:
    """Note that the worker could not start the job, whose row is locked; return what that makes of it.

    `edge3_alive_s`: how long ago a worker of edge3's that is here was last heard of, at the most.
    """
    job = connection.execute(sa.select(edge_job).where(is_job(key))).one()
    same = sa.and_(*(fault.c[column] == value for column, value in key._asdict().items()))
    connection.execute(fault.delete().where(same, fault.c.worker == name))
    connection.execute(
        fault.insert().values(
            **key._asdict(),
            worker=name,
            queued_dttm=job.queued_dttm,
            reason=reason[:1000],
            noted_at=epoch_now(),
        )
    )
    reasons = faults_of(connection, key)
    return Faults(reasons, _has_others(connection, job, reasons, edge3_alive_s))


@cache
def _here_query() -> sa.Select[Any]:
    ours = sa.and_(worker.c.gateway.is_not(None), worker.c.seen_at > epoch_now() - silent_after_s(worker))
    edge3s = sa.and_(
        worker.c.worker_name.is_(None), age_s(edge_worker.c.last_update) < sa.bindparam("edge3_alive_s")
    )
    return (
        sa.select(
            edge_worker.c.worker_name,
            edge_worker.c.state,
            edge_worker.c.queues.label("edge3_queues"),
            edge_worker.c.team_name,
            worker.c.worker_name.label("ours"),
            worker.c.local_concurrency,
            worker.c.applied_concurrency,
            worker.c.applied_queues,
            token.c.queues.label("token_queues"),
            token.c.team.label("token_team"),
        )
        .outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
        .outerjoin(token, token.c.id == worker.c.token_id)
        .where(sa.or_(ours, edge3s))
    )


def _has_others(
    connection: Connection, job: sa.Row[Any], tried: Mapping[WorkerName, str], edge3_alive_s: float
) -> bool:
    here = connection.execute(_here_query(), {"edge3_alive_s": edge3_alive_s})
    return any(row.worker_name not in tried and _may_take(row, job) for row in here)


def _may_take(row: sa.Row[Any], job: sa.Row[Any]) -> bool:
    """Tell whether a worker that is here takes the job, sooner or later."""
    if state_of(row.state) in _LEAVING:
        return False
    is_ours = row.ours is not None
    queues = row.applied_queues if is_ours else split_queues(row.edge3_queues)
    served = all(names is None or job.queue in names for names in (queues, row.token_queues))
    teams = {row.team_name, row.token_team} - {None}
    widest = (row.applied_concurrency or row.local_concurrency) if is_ours else None
    return served and teams <= {job.team_name} and (widest is None or widest >= job.concurrency_slots)


def forget_faults(connection: Connection) -> None:
    """Delete what no job of the queue or of a worker needs any more."""
    waits = sa.exists().where(_counts, edge_job.c.state.in_((QUEUED, *OPEN_STATES)))
    connection.execute(fault.delete().where(fault.c.noted_at < epoch_now() - KEPT_S, ~waits))
