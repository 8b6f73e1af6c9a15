"""What metrics and traces tell of a job: read by claim, many at a time, after the fact."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import sqlalchemy as sa

from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.store.bulk import one_of
from edge_ws.store.database import Database
from edge_ws.store.live import age_s, key_of, same_job
from edge_ws.store.records import ClaimFacts
from edge_ws.store.tables import claim, edge_job, epoch_now


@cache
def _query(dialect: str, with_command: bool) -> sa.Select[Any]:
    now = epoch_now()
    return (
        sa.select(
            claim,
            edge_job.c.queue,
            edge_job.c.team_name,
            edge_job.c.state.label("job_state"),
            (edge_job.c.command if with_command else sa.null()).label("command"),
            age_s(edge_job.c.queued_dttm).label("queued_s"),
            (now - claim.c.created_at).label("offered_s"),
            (now - claim.c.ended_at).label("ended_s"),
        )
        .join(edge_job, same_job)
        .where(one_of(dialect, claim.c.id, "ids"))
    )


class TelemetryStore:
    """What metrics and traces tell of a job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def facts(self, ids: Collection[ClaimId], *, with_command: bool) -> dict[ClaimId, ClaimFacts]:
        """Return what is known of the claims, live or ended; one query.

        Args:
            ids: of these; those whose job's row is gone are left out.
            with_command: read the workloads, too.
        """
        query = _query(self._database.dialect, with_command)
        with self._database.read() as connection:
            rows = connection.execute(query, {"ids": list(ids)}).all()
        return {
            ClaimId(row.id): ClaimFacts(
                key=key_of(row),
                worker=WorkerName(row.worker),
                queue=row.queue,
                team=row.team_name,
                slots=row.slots,
                result=row.result,
                job_state=row.job_state,
                detail=row.detail,
                command=row.command,
                queued_s=row.queued_s,
                offered_s=row.offered_s,
                ended_s=row.ended_s,
            )
            for row in rows
        }
