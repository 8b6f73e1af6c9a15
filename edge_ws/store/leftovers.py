"""Rows that no claim of ours carries: edge3 ran them, they are unreadable, or nothing waits for them.

edge3's executor would purge them with its own, but it need not be there any more. What a worker of ours holds
is settled by its claim, never here.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.store.bulk import PLACE, UpdateMany, place_of
from edge_ws.store.live import (
    KEY_COLUMNS,
    OPEN_STATES,
    QUEUED,
    REMOVED,
    REPORTED,
    has_ended,
    held,
    key_columns,
    key_of,
    same_job,
)
from edge_ws.store.records import JobKey
from edge_ws.store.tables import claim, edge_job, edge_logs, utc_now

_LOG_KEY = ("dag_id", "task_id", "run_id", "map_index", "try_number")
"""What edge3's logs have in common with their job."""


def unclaimed(keep_s: float) -> sa.ColumnElement[bool]:
    """Return the condition: of ours, reported, without a claim, and not touched for so long."""
    # By this machine's clock, as edge3 writes that column by its api-server's: nobody waits for these rows.
    before = datetime.now(UTC) - timedelta(seconds=keep_s)
    carried = sa.exists().where(same_job, edge_job.c.edge_ws_claim == claim.c.id)
    return sa.and_(edge_job.c.edge_ws_owner == REPORTED, has_ended, edge_job.c.last_update < before, ~carried)


def forget_unclaimed(connection: Connection, keep_s: float) -> None:
    """Delete them, and what edge3's workers pushed of logs whose job is gone; it is in the log folder."""
    connection.execute(edge_job.delete().where(unclaimed(keep_s)))
    job = sa.exists().where(*(edge_job.c[name] == edge_logs.c[name] for name in _LOG_KEY))
    connection.execute(edge_logs.delete().where(~job))


EDGE3_S = 3600.0
"""What edge3's executor has queued is its own to end for so long, which is how long it keeps what failed."""
_END = UpdateMany(
    edge_job,
    KEY_COLUMNS,
    (),
    by_place=True,
    state=REMOVED,
    edge_ws_owner=REPORTED,
    # edge3 queues a row again without clearing our claim: in any state but queued that would be live again.
    edge_ws_claim=None,
    last_update=utc_now(),
)


def unwanted(
    is_wanted: sa.ColumnElement[bool], *, others: Collection[int], team: str | None, lifeless_s: float
) -> sa.ColumnElement[bool]:
    """Return the condition that nobody holds the row and nothing waits for it.

    Args:
        is_wanted: whether the row's task or callback waits for it, over the columns of `edge_job`.
        others: the living schedulers whose rows these are not to be.
        team: only rows of this team; None: of none.
        lifeless_s: a row of ours that an edge3 worker has is left alone for so long after its last word, as
            edge3's executor leaves its own.
    """
    c = edge_job.c
    # By this machine's clock, as edge3 writes these columns by its own.
    now = datetime.now(UTC)
    queued = c.state == sa.literal_column(f"'{QUEUED}'")
    claimed = sa.exists(sa.select(claim.c.id).where(held).correlate(edge_job))
    left = sa.and_(c.state.in_(OPEN_STATES), c.last_update < now - timedelta(seconds=lifeless_s), ~claimed)
    ours = sa.and_(c.edge_ws_owner.not_in(others), sa.or_(queued, left))
    edge3s = sa.and_(c.edge_ws_owner.is_(None), queued, c.queued_dttm < now - timedelta(seconds=EDGE3_S))
    return sa.and_(sa.or_(ours, edge3s), c.team_name.is_not_distinct_from(team), ~is_wanted)


def end_them(connection: Connection, condition: sa.ColumnElement[bool]) -> list[JobKey]:
    """End the rows that fulfil the condition and return their keys: three statements, however many.

    A row is judged again once it is locked. Whoever queues its task anew writes the row and the task's state
    in one transaction: either that is committed by then and seen, or it waits and begins a new round.
    """
    place = place_of(connection.dialect.name, edge_job)
    rows: sa.Select[Any] = sa.select(*key_columns, place.label(PLACE)).where(condition)
    locking = rows.order_by(*key_columns).with_for_update(of=edge_job, skip_locked=True)
    locked = {key_of(row) for row in connection.execute(locking)}
    still = {key: row.place for row in connection.execute(rows) if (key := key_of(row)) in locked}
    _END.run(connection, [{**key._asdict(), PLACE: place} for key, place in still.items()])
    return list(still)
