"""The verbs of a worker: it registers, accepts, refuses, reports, sends logs.

Each takes the Principal on whose behalf it runs and touches only that worker's claims; each is one
transaction, may be repeated, and changes nothing for a claim that is not live.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.errors import ConflictError, RefusedError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.ids import ClaimId, HostId, SiteId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.live import (
    FAILED,
    QUEUED,
    held,
    is_job,
    key_of,
    locking,
    set_claim,
    set_job,
)
from edge_ws.store.records import (
    CALLBACK_DAG_ID,
    OpenClaim,
    Principal,
    Registered,
    Registration,
    WishRecord,
)
from edge_ws.store.tables import claim, edge_job, edge_worker, epoch_now, utc_now, worker
from edge_ws.store.wishes import join_queues, read_wish

SEEN_S = 45.0
"""A worker not seen by any gateway for so long is silent (three heartbeats)."""
LOST_S = 600.0
"""A worker not seen for so long is not waited for any more: claims of tasks that are over are given up."""
EDGE3_ALIVE_S = 150.0
"""edge3 takes a worker for dead after five heartbeats of 30 s (edge_executor.py, _check_worker_liveness)."""
_GONE = ("offline", "unknown", "offline maintenance")
_OWN_STATES = ("starting", "idle", "running", "terminating", "offline", "unknown")
"""Worker states that a registration may overwrite; the others are an operator's request."""
TRANSPORT_SINCE = "transport_since"
"""In `sysinfo`: when the worker first connected by the transport that it has now."""
MARK = "edge_ws_version"
"""The key in `edge_worker.sysinfo` that tells our workers from edge3's."""


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
            (worker.c.seen_at < now - LOST_S).label("lost"),
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


class WorkerVerbs:
    """What a worker's frames do to the database."""

    _database: Database

    def register(self, principal: Principal, said: Registration) -> Registered:
        """Make the worker known and connected to `said.gateway`.

        Raises:
            RefusedError: the name is in use by a live worker of another site, or by a live one of edge3's.
            ConflictError: another connection registers the same new worker at this moment.
        """
        try:
            return self._register(principal, said)
        except sa.exc.IntegrityError as error:
            raise ConflictError(f"{principal.worker} is being registered by another connection") from error

    def _register(self, principal: Principal, said: Registration) -> Registered:
        name = principal.worker
        with self._database.write() as connection:
            self._check_name(connection, name, said.inventory.site)
            self._write_edge_worker(connection, principal, said)
            before = connection.execute(sa.select(worker).where(worker.c.worker_name == name)).one_or_none()
            this = new_id()
            values = {
                "site": said.inventory.site,
                "gateway": said.gateway,
                "connection": this,
                "transport": said.transport,
                "seen_at": epoch_now(),
                "token_id": principal.token_id,
                "local_concurrency": said.concurrency,
                "local_queues": list(said.queues) if said.queues is not None else None,
                "applied_revision": said.inventory.revision,
                "applied_concurrency": said.inventory.concurrency,
                "applied_queues": list(said.inventory.queues) if said.inventory.queues is not None else None,
            }
            if before is None:
                connection.execute(worker.insert().values(worker_name=name, **values))
            else:
                connection.execute(worker.update().where(worker.c.worker_name == name).values(**values))
            wish = read_wish(connection, name)
            held_here = open_claims(connection, claim.c.worker == name)
        return Registered(connection=this, wish=wish, open=held_here)

    @staticmethod
    def _check_name(connection: Connection, name: WorkerName, site: SiteId) -> None:
        theirs = connection.execute(
            sa.select(
                edge_worker.c.state,
                edge_worker.c.sysinfo,
                edge_worker.c.last_update,
                utc_now().label("now"),
            ).where(edge_worker.c.worker_name == name)
        ).one_or_none()
        if theirs is not None and MARK not in (theirs.sysinfo or {}) and theirs.state not in _GONE:
            age_s = (theirs.now - theirs.last_update).total_seconds() if theirs.last_update else EDGE3_ALIVE_S
            if age_s < EDGE3_ALIVE_S:
                raise RefusedError(
                    Refusal.NAME_IN_USE.value,
                    f"the name {name} is in use by a live edge3 worker (state {theirs.state}); "
                    "stop it first, or give this worker another name with --edge-hostname",
                )
        ours = connection.execute(
            sa.select(worker.c.site).where(
                worker.c.worker_name == name,
                worker.c.site != site,
                worker.c.gateway.is_not(None),
                worker.c.seen_at > epoch_now() - SEEN_S,
            )
        ).one_or_none()
        if ours is not None:
            raise RefusedError(
                Refusal.NAME_IN_USE.value,
                f"the name {name} is in use by a connected worker with another state directory; "
                "stop that one, or give this worker another name with --edge-hostname",
            )

    @staticmethod
    def _write_edge_worker(connection: Connection, principal: Principal, said: Registration) -> None:
        name = principal.worker
        sysinfo = {MARK: "", TRANSPORT_SINCE: datetime.now(UTC).isoformat(timespec="seconds"), **said.sysinfo}
        values: dict[str, Any] = {
            "last_update": utc_now(),
            "sysinfo": sysinfo,
            "team_name": principal.team,
        }
        row = connection.execute(
            sa.select(
                edge_worker.c.sysinfo,
                edge_worker.c.queues,
                worker.c.transport,
                worker.c.wish_queues,
                worker.c.local_queues,
                worker.c.worker_name,
            )
            .outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
            .where(edge_worker.c.worker_name == name)
        ).one_or_none()
        queues = join_queues(said.queues)
        if row is None:
            connection.execute(
                edge_worker.insert().values(
                    worker_name=name,
                    state="idle",
                    queues=queues,
                    first_online=utc_now(),
                    jobs_active=0,
                    **values,
                )
            )
            return
        if row.transport == said.transport and TRANSPORT_SINCE in (row.sysinfo or {}):
            sysinfo[TRANSPORT_SINCE] = row.sysinfo[TRANSPORT_SINCE]
        if row.worker_name is None or (
            row.wish_queues is None and row.queues == join_queues(row.local_queues)
        ):
            # No wish: the column shows the worker's own queues, as edge3's registration writes them.
            values["queues"] = queues
        connection.execute(
            edge_worker.update()
            .where(edge_worker.c.worker_name == name)
            .values(
                state=sa.case((edge_worker.c.state.in_(_OWN_STATES), "idle"), else_=edge_worker.c.state),
                **values,
            )
        )

    def disconnected(self, principal: Principal, connection_id: str, *, left: bool) -> bool:
        """Note that the connection is closed; its un-accepted offers are free at once.

        Args:
            principal: the worker's.
            connection_id: what `register` gave; an older connection's end changes nothing.
            left: the worker said goodbye.

        Returns:
            Whether the connection was the worker's last one.
        """
        name = principal.worker
        with self._database.write() as connection:
            ours = connection.execute(
                worker.update()
                .where(worker.c.worker_name == name, worker.c.connection == connection_id)
                .values(gateway=None)
            )
            if not ours.rowcount:
                return False
            if left:
                connection.execute(
                    edge_worker.update()
                    .where(edge_worker.c.worker_name == name, edge_worker.c.state.in_(_OWN_STATES))
                    .values(state="offline", jobs_active=0, last_update=utc_now())
                )
            query = sa.select(claim).join(edge_job, held)
            offered = query.where(claim.c.worker == name, claim.c.phase == Phase.OFFERED.value)
            for row in connection.execute(locking(offered)).all():
                back_to_queue(connection, row, "expired", "the worker's connection closed before it accepted")
        return True

    def host_dead(self, principal: Principal, host: HostId) -> tuple[ClaimId, ...]:
        """End what ran under a host that its own site says is dead; return those claims.

        What was accepted but is not known to have started is left to the reaper, which asks the task's state.
        """
        query = sa.select(claim).join(edge_job, held)
        theirs = locking(query.where(claim.c.worker == principal.worker, claim.c.host == host))
        detail = "the job host died, and its processes with it"
        with self._database.write() as connection:
            rows = connection.execute(theirs).all()
            for row in rows:
                if Phase(row.phase) is Phase.STARTED:
                    end_claim(connection, row, result="lost", state=FAILED, detail=detail)
                else:
                    set_claim(connection, row.id, result="lost", detail=detail)
        return tuple(ClaimId(row.id) for row in rows)

    def note_applied(
        self, principal: Principal, revision: int, concurrency: int, queues: tuple[str, ...] | None
    ) -> None:
        """Note what the worker has in force; a late word about an older wish changes nothing."""
        with self._database.write() as connection:
            connection.execute(
                worker.update()
                .where(worker.c.worker_name == principal.worker, worker.c.applied_revision <= revision)
                .values(
                    applied_revision=revision,
                    applied_concurrency=concurrency,
                    applied_queues=list(queues) if queues is not None else None,
                    applied_at=epoch_now(),
                )
            )

    def wish(self, principal: Principal) -> WishRecord:
        """Return what an operator wants of this worker, numbered."""
        with self._database.write() as connection:
            return read_wish(connection, principal.worker)
