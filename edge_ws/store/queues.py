"""Queues that operators pause: of them nothing is handed out to our workers until they are resumed.

A queue is a name: one that no job and no worker knows yet can be paused, too. edge3's workers fetch their
jobs by edge3's own statements, which know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.errors import UsageError
from edge_ws.store.database import Database
from edge_ws.store.tables import epoch_now, paused_queue
from edge_ws.store.view_records import QueuePause
from edge_ws.store.watch import tell

LONGEST_BY = 250
"""Characters of who has paused it."""


def not_paused(queue: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that the queue in that column is not paused; what it reads is the pauses alone."""
    return queue.not_in(sa.select(paused_queue.c.queue))


def read_pauses(connection: Connection) -> dict[str, QueuePause]:
    """Return the queues that are paused, by name."""
    rows = connection.execute(sa.select(paused_queue, epoch_now().label("now"))).all()
    return {
        row.queue: QueuePause(
            queue=row.queue,
            since=row.paused_at,
            paused_s=max(0.0, row.now - row.paused_at),
            by=row.paused_by,
            note=row.note,
        )
        for row in rows
    }


class QueueStore:
    """What operators wish of queues."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, queue: str, note: str, by: str | None) -> bool:
        """Hand out nothing of the queue from now on; return whether it was paused already.

        What was offered before goes on. Note, by whom and since when are those of the last one who says it.
        """
        values = {
            "paused_at": epoch_now(),
            "paused_by": by[:LONGEST_BY] if by is not None else None,
            "note": note,
        }
        try:
            return self._pause(queue, values)
        except sa.exc.IntegrityError:
            # Somebody else has paused it at this moment: the row is there now.
            return self._pause(queue, values)

    def _pause(self, queue: str, values: Mapping[str, object]) -> bool:
        with self._database.write() as connection:
            # Nothing is to be handed out, but whoever shows the queues looks.
            tell(connection, "q", queue)
            here = paused_queue.update().where(paused_queue.c.queue == queue)
            if connection.execute(here.values(values)).rowcount:
                return True
            connection.execute(paused_queue.insert().values(queue=queue, **values))
            return False

    def resume(self, queue: str) -> None:
        """Hand out the queue's jobs again; gateways look at once.

        Raises:
            UsageError: it is not paused.
        """
        with self._database.write() as connection:
            gone = connection.execute(paused_queue.delete().where(paused_queue.c.queue == queue))
            if not gone.rowcount:
                raise UsageError(f"queue {queue} is not paused; see: edge-ws list-queues")
            # As of a job that is queued there: gateways of older releases understand it, too.
            tell(connection, "q", queue)
