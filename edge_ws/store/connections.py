"""Which connections speak for a worker: the one that has its name, and those that it has replaced itself."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.errors import RefusedError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.ids import SiteId
from edge_ws.store.records import Principal
from edge_ws.store.tables import token, worker

REMEMBERED = 8
"""Former connections. A worker whose polls wander between gateways makes one with each, and what it said
before the last one may still be on its way."""
MAX_WORKERS = 1000
"""Names that workers can have by one token, unless it says otherwise: each is a row that is kept for long."""


def has_name(principal: Principal) -> sa.ColumnElement[bool]:
    """Return the condition that the worker's name is its site's, who speaks."""
    return sa.and_(worker.c.worker_name == principal.worker, worker.c.site == principal.site)


def former_connections(before: Row[Any] | None, site: SiteId) -> list[str]:
    """Return the connections that still speak for the site once a new one has the name."""
    if before is None or before.site != site:
        return []
    return [before.connection, *(before.former_connections or [])][:REMEMBERED]


def site_of(connection: Connection, principal: Principal, connection_id: str) -> SiteId | None:
    """Return the site for which the connection speaks, None if that is not the worker's."""
    query = sa.select(worker.c.site, worker.c.connection, worker.c.former_connections).where(
        worker.c.worker_name == principal.worker, worker.c.token_id == principal.token_id
    )
    row = connection.execute(query).one_or_none()
    if row is None or connection_id not in {row.connection, *(row.former_connections or [])}:
        return None
    return SiteId(row.site)


def check_room(connection: Connection, principal: Principal) -> None:
    """Check that one more worker may be known by this credential.

    Raises:
        RefusedError: there are as many as it admits.
    """
    if principal.token_id is None:
        return
    named = sa.select(sa.func.count()).select_from(worker).where(worker.c.token_id == principal.token_id)
    limit = connection.scalar(sa.select(token.c.max_workers).where(token.c.id == principal.token_id))
    most = MAX_WORKERS if limit is None else limit
    if (connection.scalar(named) or 0) >= most:
        raise RefusedError(
            Refusal.NOT_ADMITTED.value,
            f"{most} workers have come by this token, and it admits no more names; make another one, or have "
            "an operator remove workers that are gone",
        )
