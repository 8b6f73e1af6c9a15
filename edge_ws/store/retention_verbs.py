"""The verb that forgets workers that have been away for long: those of edge-ws only, never edge3's."""

from __future__ import annotations

import sqlalchemy as sa

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.database import Database
from edge_ws.store.tables import claim, edge_worker, epoch_now, worker
from edge_ws.store.worker_states import AWAY
from edge_ws.store.worker_verbs import MARK


class RetentionVerbs:
    """What is kept of the dead, and for how long."""

    _database: Database

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
