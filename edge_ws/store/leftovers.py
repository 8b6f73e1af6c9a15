"""Rows of ours that no claim of ours carries: an edge3 worker ran them, or their payload was unreadable.

edge3's executor would purge them with its own, but it need not be there any more.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.store.live import REPORTED, has_ended, same_job
from edge_ws.store.tables import claim, edge_job, edge_logs

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
