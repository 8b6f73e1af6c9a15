"""The verbs that move an ended job's log out of our table; one gateway at a time moves one log."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from edge_ws.protocol.ids import ClaimId
from edge_ws.store.database import Database
from edge_ws.store.live import key_of, same_job
from edge_ws.store.records import LogToStore
from edge_ws.store.tables import claim, edge_job, epoch_now, log


class LogVerbs:
    """Logs of ended claims."""

    _database: Database

    def logs_to_move(self, limit: int = 20) -> list[LogToStore]:
        """Return ended claims whose log is still in our table."""
        query = (
            sa.select(claim, edge_job.c.command)
            .outerjoin(edge_job, same_job)
            .where(
                claim.c.ended_at.is_not(None),
                # Written out, so that SQLite knows it for the index's own condition.
                claim.c.log_state == sa.literal_column("'held'"),
                sa.or_(claim.c.lease_until.is_(None), claim.c.lease_until < epoch_now()),
            )
            .order_by(claim.c.ended_at)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                LogToStore(
                    claim=ClaimId(row.id),
                    key=key_of(row),
                    log_path=row.log_path,
                    log_base=row.log_base,
                    uploaded=bool(row.log_uploaded),
                    command=row.command or "",
                )
                for row in connection.execute(query)
            ]

    def begin_move(self, claim_id: ClaimId, size: int, lease_s: float) -> int | None:
        """Take the move of the claim's log, for `lease_s`, and fix at which size of the file it begins.

        Alone, because a second mover would cut the file and then find the bytes deleted. A move that was cut
        short is begun again at its first size.

        Returns:
            The size to cut the file to; None if the log is moved, or another gateway is at it.
        """
        now = epoch_now()
        with self._database.write() as connection:
            ours = connection.execute(
                claim.update()
                .where(
                    claim.c.id == claim_id,
                    claim.c.log_state == "held",
                    sa.or_(claim.c.lease_until.is_(None), claim.c.lease_until < now),
                )
                .values(log_base=sa.func.coalesce(claim.c.log_base, size), lease_until=now + lease_s)
            )
            if not ours.rowcount:
                return None
            return int(
                connection.execute(sa.select(claim.c.log_base).where(claim.c.id == claim_id)).scalar_one()
            )

    def keep_move(self, claim_id: ClaimId, lease_s: float) -> None:
        """Go on alone with a move for another `lease_s`."""
        with self._database.write() as connection:
            ours = claim.update().where(claim.c.id == claim_id, claim.c.log_state == "held")
            connection.execute(ours.values(lease_until=epoch_now() + lease_s))

    def log_chunks(self, claim_id: ClaimId) -> Iterator[bytes]:
        """Yield the claim's log in order, a chunk at a time."""
        offset = -1
        while True:
            with self._database.read() as connection:
                row = connection.execute(
                    sa.select(log.c.log_offset, log.c.data)
                    .where(log.c.claim == claim_id, log.c.log_offset > offset)
                    .order_by(log.c.log_offset)
                    .limit(1)
                ).one_or_none()
            if row is None:
                return
            offset = row.log_offset
            yield row.data

    def end_move(self, claim_id: ClaimId) -> None:
        """Note that the log is in Airflow's log folder, and drop it here."""
        with self._database.write() as connection:
            connection.execute(claim.update().where(claim.c.id == claim_id).values(log_state="moved"))
            connection.execute(log.delete().where(log.c.claim == claim_id))
