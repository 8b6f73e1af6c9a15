"""What operators want of a worker, numbered: edge3's columns are the wish, our table holds its revision.

edge3's CLI (or psql) writes `edge_worker.concurrency` and `.queues`; whoever reads them first here and sees
that they differ from the numbered copy gives the new wish its number.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.records import WishRecord
from edge_ws.store.tables import edge_worker, worker

_WishRow = Any
"""A row of `_query`; SQLAlchemy 2.0 and 2.1 write its type in different ways."""

_wish_columns = (
    worker.c.worker_name,
    worker.c.wish_revision,
    worker.c.wish_concurrency,
    worker.c.wish_queues,
    worker.c.local_queues,
    edge_worker.c.concurrency,
    edge_worker.c.queues,
)
_query = sa.select(*_wish_columns).join(edge_worker, edge_worker.c.worker_name == worker.c.worker_name)


def join_queues(queues: Iterable[str] | None) -> str | None:
    """Return queues in the form of edge3's column: the repr of a list, NULL for none named."""
    return str(list(queues)) if queues else None


def split_queues(text: str | None) -> list[str] | None:
    """Read edge3's column; unreadable text counts as no queue at all, so that nothing runs by mistake."""
    if not text:
        return None
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return []
    return [str(entry) for entry in value] if isinstance(value, (list, tuple)) else []


def _wanted(row: _WishRow) -> tuple[int | None, list[str] | None]:
    """Return the concurrency and queues that edge3's columns wish for."""
    shown: list[str] | None = split_queues(row.queues)
    local = row.local_queues
    if (
        row.wish_queues is None
        and sorted(shown or []) == sorted(local or [])
        and (shown is None) == (not local)
    ):
        return row.concurrency, None
    return row.concurrency, shown


def _changed(row: _WishRow) -> bool:
    return _wanted(row) != (row.wish_concurrency, row.wish_queues)


def _number(connection: Connection, row: _WishRow) -> WishRecord:
    concurrency, queues = _wanted(row)
    if _changed(row):
        connection.execute(
            worker.update()
            # Compare-and-set: another gateway may have numbered the same wish.
            .where(worker.c.worker_name == row.worker_name, worker.c.wish_revision == row.wish_revision)
            .values(
                wish_revision=row.wish_revision + 1,
                wish_concurrency=concurrency,
                wish_queues=queues,
            )
        )
        revision = row.wish_revision + 1
    else:
        revision = row.wish_revision
    return WishRecord(
        revision=revision,
        concurrency=concurrency,
        queues=tuple(queues) if queues is not None else None,
    )


def read_wish(connection: Connection, name: WorkerName) -> WishRecord:
    """Return the wish for one registered worker, numbering it if it is new."""
    row = connection.execute(_query.where(worker.c.worker_name == name)).one()
    return _number(connection, row)


def changed_wishes(connection: Connection, sent: Mapping[WorkerName, int]) -> list[WorkerName]:
    """Return those workers whose wish is another than the one they were sent; writes nothing."""
    rows = connection.execute(_query.where(worker.c.worker_name.in_(list(sent)))).all()
    return [
        WorkerName(row.worker_name)
        for row in rows
        if _changed(row) or row.wish_revision != sent[WorkerName(row.worker_name)]
    ]
