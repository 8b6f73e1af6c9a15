"""What is kept of what is over, and for how long: jobs, claims, logs, gateways, workers.

edge3's executor would purge its rows itself, but it need not be there any more.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.database import Database
from edge_ws.store.ends import forget_orphans
from edge_ws.store.faults import forget_faults
from edge_ws.store.live import (
    KEY_COLUMNS,
    REPORTED,
    has_ended,
    key_columns,
    same_job,
)
from edge_ws.store.tables import (
    claim,
    edge_job,
    edge_logs,
    edge_worker,
    epoch_now,
    gateway,
    log,
    worker,
)
from edge_ws.store.worker_states import AWAY
from edge_ws.store.workers import MARK

_LOG_KEY = ("dag_id", "task_id", "run_id", "map_index", "try_number")
"""What edge3's logs have in common with their job."""

FORGOTTEN_S = 3600.0
"""After this long without a sign of life a gateway's row is deleted."""
EDGE3_PURGE_S = 86_400.0
"""How much longer ended rows that edge3's executor wrote are left to its own purge (5 or 60 minutes)."""


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


class RetentionStore:
    """What is kept of the dead, and for how long."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forget_workers(self, away_s: float) -> list[WorkerName]:
        """Delete workers that no gateway has seen for so long, and return their names.

        One that still holds a claim stays: its job may run there.
        """
        names = [state.value for state in AWAY]
        holds = sa.exists().where(claim.c.worker == worker.c.worker_name, claim.c.ended_at.is_(None))
        query = (
            sa.select(worker.c.worker_name, edge_worker.c.sysinfo)
            .join(edge_worker, edge_worker.c.worker_name == worker.c.worker_name)
            .where(worker.c.seen_at < epoch_now() - away_s, edge_worker.c.state.in_(names), ~holds)
            .order_by(worker.c.worker_name)
        )
        with self._database.read() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            # Ours is locked before edge3's row, as everywhere. Whoever connects at this moment has its turn
            # before, and is not found, or after, and registers anew.
            rows = connection.execute(query.with_for_update(of=worker, skip_locked=True)).all()
            # An edge3 worker may have taken over the name: without our mark the row is its own.
            gone = [row.worker_name for row in rows]
            ours = [row.worker_name for row in rows if MARK in (row.sysinfo or {})]
            connection.execute(worker.delete().where(worker.c.worker_name.in_(gone)))
            connection.execute(
                edge_worker.delete().where(
                    edge_worker.c.worker_name.in_(ours), edge_worker.c.state.in_(names)
                )
            )
        return [WorkerName(name) for name in ours]

    def purge(self, keep_s: float) -> None:
        """Delete what ended and was reported that long ago: rows of ours, claims; and gateways that are gone.

        A claim that no row carries is stale though nobody ended it: edge3 deleted its row, or queued it anew.
        Its log is no attempt's, and goes with it. Whether edge3's executor has reported a row of its own,
        nobody can tell: that one is left to it, and for long.
        """
        before = epoch_now() - keep_s
        carried = sa.and_(same_job, edge_job.c.edge_ws_claim == claim.c.id)
        carrying = sa.exists().where(carried)
        over = sa.and_(
            claim.c.ended_at < before,
            claim.c.phase == Phase.ENDED.value,
            claim.c.log_state.in_(("none", "moved")),
        )
        stale = sa.and_(claim.c.ended_at.is_(None), claim.c.created_at < before, ~carrying)
        with self._database.read() as connection:
            anything = connection.execute(sa.select(claim.c.id).where(sa.or_(over, stale)).limit(1)).first()
            left = connection.execute(sa.select(edge_job.c.dag_id).where(unclaimed(keep_s)).limit(1)).first()
        with self._database.write(is_news=False) as connection:
            if anything is not None:
                done = sa.select(*(claim.c[name] for name in KEY_COLUMNS)).where(over, carried)
                long_done = done.where(claim.c.ended_at < before - EDGE3_PURGE_S)
                owner = edge_job.c.edge_ws_owner
                for rows, whose in ((done, owner == REPORTED), (long_done, owner.is_(None))):
                    these = sa.tuple_(*key_columns).in_(rows)
                    connection.execute(edge_job.delete().where(whose, has_ended, these))
                connection.execute(log.delete().where(log.c.claim.in_(sa.select(claim.c.id).where(stale))))
                connection.execute(claim.delete().where(sa.or_(sa.and_(over, ~carrying), stale)))
            if left is not None:
                forget_unclaimed(connection, keep_s)
            forget_faults(connection)
            forget_orphans(connection)
            connection.execute(gateway.delete().where(gateway.c.seen_at < epoch_now() - FORGOTTEN_S))
