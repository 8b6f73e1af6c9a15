"""Live claims: how they are read back and ended, and what the reaper does where nobody reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.protocol.ids import (
    CALLBACK_DAG_ID,
    ClaimId,
    HostId,
    SiteId,
    WorkerName,
)
from edge_ws.protocol.states import Phase
from edge_ws.store.bulk import one_of
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.live import (
    FAILED,
    OPEN_STATES,
    QUEUED,
    REMOVED,
    find_live,
    held,
    is_job,
    key_of,
    locking,
    row_state,
    set_claim,
    set_job,
)
from edge_ws.store.records import OpenClaim
from edge_ws.store.tables import (
    claim,
    edge_job,
    epoch_now,
    silent_after_s,
    utc_now,
    worker,
)

LOST_S = 600.0
"""A worker not seen for so long is not waited for any more: claims of tasks that are over are given up."""


def back_to_queue(connection: Connection, row: Row[Any], result: str, detail: str) -> None:
    """End a live claim that never started anything and make its job free."""
    set_claim(
        connection, row.id, phase=Phase.ENDED.value, result=result, detail=detail[:1000], ended_at=epoch_now()
    )
    set_job(connection, key_of(row), row.id, state=QUEUED, edge_worker=None, edge_ws_claim=None)


def end_claim(connection: Connection, row: Row[Any], *, result: str, state: str, detail: str) -> None:
    """End a live claim and its job for good; the stored token is blanked."""
    set_claim(
        connection,
        row.id,
        phase=Phase.ENDED.value,
        result=result,
        detail=detail[:1000],
        ended_at=epoch_now(),
        lease_until=None,
        log_state=sa.case((claim.c.log_end > 0, "held"), else_="none"),
    )
    command = connection.execute(sa.select(edge_job.c.command).where(is_job(key_of(row)))).scalar_one()
    parsed = parse(command)
    set_job(connection, key_of(row), row.id, state=state, command=parsed.payload if parsed else command)


def open_claims(
    connection: Connection,
    *where: sa.ColumnElement[bool],
    **parameters: Any,  # noqa: ANN401
) -> tuple[OpenClaim, ...]:
    """Return the live claims that fulfil the conditions, whose parameters are given by name."""
    now = epoch_now()
    query = (
        sa.select(
            claim,
            (claim.c.lease_until < now).label("overdue"),
            (worker.c.site != claim.c.site).label("site_left"),
            sa.and_(
                worker.c.seen_at < now - LOST_S, worker.c.seen_at < now - 2 * silent_after_s(worker)
            ).label("lost"),
        )
        .join(edge_job, held)
        .join(worker, worker.c.worker_name == claim.c.worker)
        .where(*where)
    )
    return tuple(
        OpenClaim(
            claim=ClaimId(row.id),
            key=key_of(row),
            worker=WorkerName(row.worker),
            site=SiteId(row.site),
            host=HostId(row.host) if row.host else None,
            phase=Phase(row.phase),
            slots=row.slots,
            subject=row.subject,
            is_callback=row.dag_id == CALLBACK_DAG_ID,
            result=row.result,
            overdue=bool(row.overdue),
            site_left=bool(row.site_left),
            worker_lost=bool(row.lost),
        )
        for row in connection.execute(query, parameters)
    )


class ClaimStore:
    """What the reaper does about live claims of which nobody reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expire_offers(self, expired: Callable[[ClaimId, WorkerName], None] = lambda *_: None) -> int:
        """Free the jobs of offers whose lease is over, and tell `expired` of each; return how many."""
        query = sa.select(claim).join(edge_job, held)
        over = query.where(claim.c.phase == Phase.OFFERED.value, claim.c.lease_until < epoch_now())
        with self._database.read() as connection:
            if connection.execute(over.limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(locking(over)).all()
            for row in rows:
                back_to_queue(connection, row, "expired", "the offer was not answered in time")
        for row in rows:
            expired(ClaimId(row.id), WorkerName(row.worker))
        return len(rows)

    def unsettled(self, workers: Sequence[WorkerName] | None = None) -> tuple[OpenClaim, ...]:
        """Return accepted and started claims: the reaper judges them against the tasks' states.

        Args:
            workers: of these; None: of all.
        """
        conditions: list[sa.ColumnElement[bool]] = [
            claim.c.phase.in_((Phase.ACCEPTED.value, Phase.STARTED.value))
        ]
        with self._database.read() as connection:
            if workers is None:
                return open_claims(connection, *conditions)
            conditions.append(one_of(self._database.dialect, claim.c.worker, "workers"))
            return open_claims(connection, *conditions, workers=list(workers))

    def requeue(self, one: OpenClaim, detail: str) -> bool:
        """Free the job of a claim that cannot start any more; False if it has moved on meanwhile."""
        with self._database.write() as connection:
            row = self._unmoved(connection, one)
            if row is not None:
                back_to_queue(connection, row, one.result or "expired", detail)
            return row is not None

    def give_up(self, one: OpenClaim, detail: str, *, failed: bool) -> bool:
        """End a claim for good, as failed or as removed; False if it has moved on meanwhile."""
        with self._database.write() as connection:
            row = self._unmoved(connection, one)
            if row is not None:
                state = FAILED if failed else REMOVED
                end_claim(connection, row, result=one.result or "lost", state=state, detail=detail)
            return row is not None

    @staticmethod
    def _unmoved(connection: Connection, one: OpenClaim) -> Row[Any] | None:
        """Return the claim's row if it is live and still as the reaper judged it.

        A repeated `accept` renews the lease: a new token is out, and what was overdue is so no more.
        """
        row = find_live(connection, one.claim, one.worker)
        if row is None or Phase(row.phase) is not one.phase or row.result != one.result:
            return None
        overdue = connection.scalar(
            sa.select(claim.c.lease_until < epoch_now()).where(claim.c.id == one.claim)
        )
        return row if bool(overdue) == one.overdue else None

    def repair(self) -> None:
        """Undo what a writer that knows no claims has left: see `live`."""
        strange = (
            sa.select(claim, edge_job.c.state.label("job_state"))
            .join(edge_job, held)
            .where(edge_job.c.state.not_in(OPEN_STATES))
        )
        never_claimed = sa.and_(
            edge_job.c.state.in_(OPEN_STATES),
            edge_job.c.edge_worker.is_(None),
            edge_job.c.edge_ws_owner.is_not(None),
        )
        with self._database.read() as connection:
            found = connection.execute(strange.limit(1)).first()
            orphan = connection.execute(sa.select(edge_job.c.dag_id).where(never_claimed).limit(1)).first()
        if found is None and orphan is None:
            return
        with self._database.write() as connection:
            # Read again: a claim that has ended meanwhile has its job's right state.
            for row in connection.execute(locking(strange)).all():
                set_job(connection, key_of(row), row.id, state=row_state(Phase(row.phase)))
            connection.execute(
                edge_job.update().where(never_claimed).values(state=QUEUED, last_update=utc_now())
            )
