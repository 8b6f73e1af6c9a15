"""Reads the jobs that wait to be handed out, in the order in which they are.

Every queue by its own: what waits in others, be it 50,000 rows for workers that are gone, is not read. Takes
no locks and judges nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.store.bulk import one_of, place_of, rows_of
from edge_ws.store.faults import failed_on
from edge_ws.store.live import KEY_COLUMNS, age_s, key_columns
from edge_ws.store.records import Candidate, JobKey
from edge_ws.store.tables import edge_job

# Literals, not parameters: the index is of these rows only, and a statement that is prepared before its
# parameters are known cannot tell that it may use it.
_queued = edge_job.c.state == sa.literal_column("'queued'")


_KEY = len(KEY_COLUMNS)
_columns = (
    *key_columns,
    edge_job.c.queue,
    edge_job.c.concurrency_slots,
    edge_job.c.priority_weight,
    edge_job.c.team_name,
    edge_job.c.queued_dttm,
)


def read_waiting(
    connection: Connection,
    queues: Collection[str] | None,
    limit: int,
    *,
    teams: Collection[str] | None,
    widest: int | None,
) -> list[Candidate]:
    """Return queued jobs by priority and age.

    Args:
        connection: an open transaction.
        queues: only of these; None: of every queue.
        limit: jobs at the most.
        teams: only of these; None: of every team, and of none.
        widest: only with so many slots or less.
    """
    values: dict[str, object] = {"most": limit}
    if queues is not None:
        values["queues"] = sorted(queues)
    if teams is not None:
        values["teams"] = sorted(teams)
    if widest is not None:
        values["widest"] = widest
    query = _query(connection.dialect.name, frozenset(values))
    return [
        Candidate(
            key=JobKey._make(row[:_KEY]),
            queue=row[_KEY],
            slots=row[_KEY + 1],
            priority=row[_KEY + 2],
            team=row[_KEY + 3],
            place=row[_KEY + 4],
            waited_s=row[_KEY + 5] or 0.0,
            failed_on=frozenset(row[_KEY + 6].split(",")) if row[_KEY + 6] else frozenset(),
        )
        for row in connection.execute(query, values)
    ]


def queues_of_others(
    connection: Connection, queues: Collection[str] | None, teams: Collection[str]
) -> set[str]:
    """Return in which of the queues jobs wait that belong to none of these teams.

    Args:
        connection: an open transaction.
        queues: of these; None: of all.
        teams: whose jobs do not count.
    """
    values: dict[str, object] = {"teams": sorted(teams)}
    if queues is not None:
        values["queues"] = sorted(queues)
    return set(connection.scalars(_others_query(connection.dialect.name, queues is not None), values))


@cache
def _others_query(dialect: str, some_queues: bool) -> sa.Select[Any]:
    teams: sa.BindParameter[Any] = sa.bindparam("teams", expanding=True)
    other = _queued, sa.or_(edge_job.c.team_name.is_(None), edge_job.c.team_name.not_in(teams))
    if some_queues and dialect == "postgresql":
        # One is enough to know: a backlog is not read.
        names = rows_of("queues", "queue")
        one = sa.exists().where(*other, edge_job.c.queue == names.c.queue)
        return sa.select(names.c.queue).where(one)
    query = sa.select(edge_job.c.queue).where(*other).distinct()
    return query.where(one_of(dialect, edge_job.c.queue, "queues")) if some_queues else query


@cache
def _query(dialect: str, given: frozenset[str]) -> sa.Select[Any]:
    """Return the statement with a parameter for each of the given; made once: that takes a millisecond."""
    place = sa.cast(place_of(dialect, edge_job), sa.Text)
    query = sa.select(*_columns, place.label("place")).where(_queued)
    query = query.order_by(*_in_order(edge_job.c)).limit(sa.bindparam("most", type_=sa.Integer))
    if "teams" in given:
        query = query.where(edge_job.c.team_name.in_(sa.bindparam("teams", expanding=True)))
    if "widest" in given:
        query = query.where(edge_job.c.concurrency_slots <= sa.bindparam("widest", type_=sa.Integer))
    if "queues" in given:
        query = _of_each(query) if dialect == "postgresql" else _of_all(query, dialect)
    found = query.subquery()
    shown = [column for column in found.c if column.name != "queued_dttm"]
    waited_s, failed = age_s(found.c.queued_dttm).label("waited_s"), failed_on(found.c).label("failed_on")
    return sa.select(*shown, waited_s, failed).order_by(*_in_order(found.c))


def _in_order(columns: sa.ColumnCollection[str, Any]) -> tuple[sa.ColumnElement[Any], ...]:
    return columns["priority_weight"].desc(), columns["queued_dttm"]


def _of_all(query: sa.Select[Any], dialect: str) -> sa.Select[Any]:
    query = query.where(one_of(dialect, edge_job.c.queue, "queues"))
    if dialect != "sqlite":
        return query
    # The sign keeps SQLite from using edge3's index, which gives the order but holds all other queues' jobs.
    sign = sa.literal_column("+edge_job.priority_weight", sa.Integer)
    return query.order_by(None).order_by(sign.desc(), edge_job.c.queued_dttm)


def _of_each(query: sa.Select[Any]) -> sa.Select[Any]:
    """Read each queue's first jobs alone, in the index's order.

    One condition for all queues would read the whole backlog of each, and sort it.
    """
    names = rows_of("queues", "queue")
    of_one = query.where(edge_job.c.queue == names.c.queue).lateral()
    found = sa.select(of_one).select_from(names.join(of_one, sa.true())).order_by(*_in_order(of_one.c))
    return found.limit(sa.bindparam("most", type_=sa.Integer))
