"""Maintenance that ends by itself: what was asked for it, and its end at the time that was given.

The time is the database's, the end is the same wish that an operator writes, and the row goes with it in one
transaction: of several gateways one ends it, once, and one that comes back late ends it at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.database import Database, Failed, each, fail
from edge_ws.store.tables import edge_worker, epoch_now, maintenance, worker
from edge_ws.store.wishes import read_wish
from edge_ws.store.worker_states import AWAY, MAINTENANCE, Event, WorkerState, after, state_of
from edge_ws.store.workers import MARK

_Row = Any
"""A row of one of these queries; SQLAlchemy 2.0 and 2.1 write its type in different ways."""
LONGEST_BY = 250
"""Characters of who has asked for it."""

_marked = sa.select(
    maintenance.c.worker_name,
    maintenance.c.comment,
    maintenance.c.ends_at,
    (maintenance.c.ends_at - epoch_now()).label("left_s"),
    edge_worker.c.state,
    edge_worker.c.maintenance_comment,
    edge_worker.c.sysinfo,
    worker.c.wish_maintenance,
)
_joined = maintenance.outerjoin(
    edge_worker, edge_worker.c.worker_name == maintenance.c.worker_name
).outerjoin(worker, worker.c.worker_name == maintenance.c.worker_name)
_with_end = _marked.select_from(_joined).where(maintenance.c.ends_at.is_not(None))


class Ended(NamedTuple):
    """What a look has done."""

    workers: list[WorkerName]
    """Whose maintenance it has ended."""
    next_s: float
    """Until the next end; infinite: there is none."""


def note_maintenance(
    connection: Connection, name: str, comment: str, *, by: str | None, ends_at: float | None
) -> None:
    """Note who has asked for a worker's maintenance and when it ends, in place of what was noted before.

    The caller has locked the worker's rows, and writes the same comment there.
    """
    forget_maintenance(connection, name)
    connection.execute(
        maintenance.insert().values(
            worker_name=name,
            comment=comment,
            wished_by=by[:LONGEST_BY] if by is not None else None,
            wished_at=epoch_now(),
            ends_at=ends_at,
        )
    )


def change_comment(connection: Connection, name: str, before: str, comment: str) -> None:
    """Note that our own verb has changed the comment: the maintenance, and its end, stay the same."""
    here = maintenance.c.worker_name == name, maintenance.c.comment == before
    connection.execute(maintenance.update().where(*here).values(comment=comment))


def forget_maintenance(connection: Connection, name: str) -> None:
    """Forget what was noted: the maintenance is over, or is another one."""
    connection.execute(maintenance.delete().where(maintenance.c.worker_name == name))


def forget_orphans(connection: Connection) -> None:
    """Forget what was noted of workers that are no more: edge3's verbs and older releases leave it."""
    known = sa.exists().where(edge_worker.c.worker_name == maintenance.c.worker_name)
    connection.execute(maintenance.delete().where(~known))


class EndsStore:
    """Ends what is due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def end_due(self, failed: Failed = fail) -> Ended:
        """End the maintenance whose time has come.

        One statement while nothing is due. A maintenance that others than our verbs have ended or asked for
        anew is theirs: its end is forgotten.

        Args:
            failed: told of a worker whose maintenance cannot be ended.
        """
        with self._database.read() as connection:
            rows = connection.execute(_with_end.order_by(maintenance.c.worker_name)).all()
        ended, next_s = [], math.inf
        for row in rows:
            if _stands(row) and (row.left_s > 0 or _is_leaving(row)):
                next_s = min(next_s, float(row.left_s)) if row.left_s > 0 else next_s
                continue
            name = WorkerName(row.worker_name)
            # A transaction each: whoever holds the rows of several workers has to take them in order.
            with each(name, failed), self._database.write() as connection:
                if _end(connection, name):
                    ended.append(name)
        return Ended(ended, next_s)


def _stands(row: _Row) -> bool:
    """Tell whether the worker is in the maintenance that was noted."""
    return is_noted(row.comment, row.maintenance_comment, row.state, returns=bool(row.wish_maintenance))


def is_noted(noted: str | None, comment: str | None, state: str | None, *, returns: bool) -> bool:
    """Tell whether the worker is in the maintenance that was noted, and not in one that others asked for.

    Args:
        noted: its comment; None: none was noted.
        comment: the worker's now.
        state: the worker's now; None: it is no more.
        returns: it is in maintenance again when it has left.
    """
    if noted is None or state is None or noted != comment:
        return False
    return state_of(state) in MAINTENANCE or (returns and state_of(state) is WorkerState.SHUTDOWN_REQUEST)


def _is_leaving(row: _Row) -> bool:
    """Tell whether the worker is to leave first, and will be in maintenance when it has."""
    return state_of(row.state) is WorkerState.SHUTDOWN_REQUEST and bool(row.wish_maintenance)


def shown_maintenance(row: _Row) -> dict[str, Any]:
    """Return what a view's row of a worker shows of who asked for its maintenance, and until when."""
    returns = bool(row.our_wish_maintenance)
    if not is_noted(row.asked_comment, row.maintenance_comment, row.state, returns=returns):
        return {}
    return {
        "maintenance_since": row.asked_at,
        "maintenance_until": row.ends_at,
        "maintenance_by": row.asked_by,
    }


def shown_deadline(row: _Row) -> float | None:
    """Return the same of the deadline of a shutdown that is under way."""
    state = state_of(row.state)
    comes_back = state in AWAY and bool(row.our_wish_shutdown) and row.our_life is not None
    deadline: float | None = row.our_wish_deadline
    return deadline if state is WorkerState.SHUTDOWN_REQUEST or comes_back else None


def _end(connection: Connection, name: WorkerName) -> bool:
    """End the worker's maintenance if that is still due; return whether it was."""
    # Locked as everywhere, ours before edge3's: whoever asks for another end is seen, or waits.
    for table in (worker, edge_worker):
        column = table.c.worker_name
        connection.execute(sa.select(column).where(column == name).with_for_update())
    row = connection.execute(_with_end.where(maintenance.c.worker_name == name)).one_or_none()
    if row is None:
        return False
    if not _stands(row):
        forget_maintenance(connection, name)
        return False
    event = after(state_of(row.state), Event.EXIT_MAINTENANCE)
    if row.left_s > 0 or event is None:
        return False
    here = edge_worker.c.worker_name == name
    connection.execute(edge_worker.update().where(here).values(state=event.value, maintenance_comment=None))
    forget_maintenance(connection, name)
    if MARK in (row.sysinfo or {}):
        read_wish(connection, name)
    return True
