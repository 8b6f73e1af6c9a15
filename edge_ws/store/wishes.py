"""What operators want of a worker, numbered: edge3's columns are the wish, our table holds its revision.

edge3's CLI (or psql) writes `edge_worker.concurrency`, `.queues`, `.state` and `.maintenance_comment`;
whoever reads them first here and sees that they differ from the numbered copy gives the new wish its number.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.records import WishRecord
from edge_ws.store.tables import edge_worker, epoch_now, worker
from edge_ws.store.worker_states import AWAY, MAINTENANCE, WorkerState, state_of

_WishRow = Any
"""A row of `_query`; SQLAlchemy 2.0 and 2.1 write its type in different ways."""

_COPY = ("concurrency", "queues", "maintenance", "comment", "shutdown", "asked")
"""The wish's parts; `wish_...` is the numbered copy of each."""
_query = sa.select(
    worker.c.worker_name,
    worker.c.local_queues,
    worker.c.asked_number,
    worker.c.wish_revision,
    worker.c.applied_revision,
    worker.c.life,
    (worker.c.wish_deadline - epoch_now()).label("leave_in_s"),
    *(worker.c[f"wish_{part}"] for part in _COPY),
    edge_worker.c.concurrency,
    edge_worker.c.queues,
    edge_worker.c.state,
    edge_worker.c.maintenance_comment,
).join(edge_worker, edge_worker.c.worker_name == worker.c.worker_name)


LARGEST_REVISION = 2**31 - 1
"""That the column and the wire hold."""


def next_number(revision: int) -> dict[str, int]:
    """Return what gives a wish the number after that one, for the worker's row.

    After the greatest one the numbers begin anew; what was applied under the old ones counts no more.
    """
    if revision < LARGEST_REVISION:
        return {"wish_revision": revision + 1}
    return {"wish_revision": 1, "applied_revision": 0}


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


def _wanted_queues(row: _WishRow) -> list[str] | None:
    shown: list[str] | None = split_queues(row.queues)
    local = row.local_queues
    is_own = sorted(shown or []) == sorted(local or []) and (shown is None) == (not local)
    return None if row.wish_queues is None and is_own else shown


def may_come_back(row: _WishRow, state: WorkerState) -> bool:
    """Tell whether the worker is silent only, and is to shut down if that life of it is heard again.

    The column cannot say both; a goodbye blanks the life.
    """
    return state in AWAY and bool(row.wish_shutdown) and row.life is not None


def _wanted(row: _WishRow) -> dict[str, Any]:
    """Return what edge3's columns wish for, by part."""
    state = state_of(row.state)
    is_leaving = state is WorkerState.SHUTDOWN_REQUEST or may_come_back(row, state)
    # A request to shut down takes the place of what the column said of maintenance.
    maintenance = row.wish_maintenance if is_leaving else state in MAINTENANCE
    return {
        "concurrency": row.concurrency,
        "queues": _wanted_queues(row),
        "maintenance": bool(maintenance),
        "comment": (row.maintenance_comment or None) if maintenance else None,
        "shutdown": is_leaving,
        "asked": row.asked_number,
    }


def _changed(row: _WishRow) -> bool:
    return any(row._mapping[f"wish_{part}"] != value for part, value in _wanted(row).items())  # noqa: SLF001


def _is_unheard(row: _WishRow) -> bool:
    """Tell whether a request asks for what the worker has applied: it is told once more, and says so."""
    requests = {WorkerState.MAINTENANCE_REQUEST.value, WorkerState.MAINTENANCE_EXIT.value}
    return row.state in requests and bool(row.applied_revision >= row.wish_revision)


def read_wish(connection: Connection, name: WorkerName) -> WishRecord | None:
    """Return the wish for one worker, numbering it if it is new; None if the worker has been removed."""
    here = worker.c.worker_name == name
    # Locked first: who reads, numbers what nobody else does.
    connection.execute(sa.select(worker.c.worker_name).where(here).with_for_update())
    row = connection.execute(_query.where(here)).one_or_none()
    if row is None:
        return None
    wanted, revision = _wanted(row), row.wish_revision
    if _changed(row):
        number = next_number(revision)
        revision = number["wish_revision"]
        copy = {f"wish_{part}": value for part, value in wanted.items()}
        connection.execute(worker.update().where(here).values(**number, **copy))
    queues = wanted["queues"]
    return WishRecord(
        revision=revision,
        concurrency=wanted["concurrency"],
        queues=tuple(queues) if queues is not None else None,
        maintenance=wanted["maintenance"],
        comment=wanted["comment"] or "",
        shutdown=wanted["shutdown"],
        asked=wanted["asked"],
        leave_at=_leave_at(row) if wanted["shutdown"] else None,
    )


def _leave_at(row: _WishRow) -> float | None:
    return None if row.leave_in_s is None else time.monotonic() + float(row.leave_in_s)


def changed_wishes(connection: Connection, sent: Mapping[WorkerName, int]) -> list[WorkerName]:
    """Return those workers whose wish is another than the one they were sent; writes nothing."""
    rows = connection.execute(_query.where(worker.c.worker_name.in_(list(sent)))).all()
    return [WorkerName(row.worker_name) for row in rows if _is_news(row, sent[WorkerName(row.worker_name)])]


def _is_news(row: _WishRow, sent: int) -> bool:
    try:
        return row.wish_revision != sent or _changed(row) or _is_unheard(row)
    except Exception:  # noqa: BLE001 - it fails once more where it is read alone, and is told there
        return True


def admitted(connection: Connection, name: WorkerName, wish: WishRecord) -> tuple[int, list[str] | None]:
    """Return the slots and the queues (None: every one) that the worker has once the wish is in force."""
    local = connection.execute(
        sa.select(worker.c.local_concurrency, worker.c.local_queues).where(worker.c.worker_name == name)
    ).one()
    slots = local.local_concurrency if wish.concurrency is None else wish.concurrency
    return slots, local.local_queues if wish.queues is None else list(wish.queues)
