"""What anybody may see: jobs with their claims, queues, workers, gateways, and what waits in vain.

Each verb is a fixed number of statements, however much there is; none locks or writes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.database import Database
from edge_ws.store.ends import shown_deadline, shown_maintenance
from edge_ws.store.faults import faults_of
from edge_ws.store.live import (
    CLAIMED,
    KEY_COLUMNS,
    OPEN_STATES,
    QUEUED,
    REPORTED,
    RUNNING,
    age_s,
    key_of,
    same_job,
)
from edge_ws.store.queues import read_pauses
from edge_ws.store.records import GatewayRecord, JobKey
from edge_ws.store.tables import (
    claim,
    edge_job,
    edge_worker,
    epoch_now,
    gateway,
    maintenance,
    silent_after_s,
    token,
    worker,
)
from edge_ws.store.tables import log as log_table
from edge_ws.store.view_records import (
    Backlog,
    ClaimView,
    JobView,
    QueuePause,
    Stranded,
    TokenView,
    WorkerView,
)
from edge_ws.store.wishes import split_queues
from edge_ws.store.worker_states import AWAY, Event, after, state_of
from edge_ws.store.workers import MARK, room_of

log = logging.getLogger(__name__)

_Row = Any
"""A row of one of these queries; SQLAlchemy 2.0 and 2.1 write its type in different ways."""
_CLAIM = (
    claim.c.id.label("claim_id"),
    claim.c.worker.label("claim_worker"),
    claim.c.phase.label("claim_phase"),
    claim.c.result.label("claim_result"),
    claim.c.detail.label("claim_detail"),
    claim.c.created_at.label("claim_offered_at"),
    claim.c.ended_at.label("claim_ended_at"),
    (epoch_now() - claim.c.created_at).label("offered_s"),
    (epoch_now() - claim.c.ended_at).label("ended_s"),
    (claim.c.lease_until - epoch_now()).label("lease_s"),
    claim.c.log_path.label("claim_log_path"),
)
_JOB = (
    *(edge_job.c[name] for name in KEY_COLUMNS),
    edge_job.c.state,
    edge_job.c.queue,
    edge_job.c.concurrency_slots,
    edge_job.c.priority_weight,
    edge_job.c.team_name,
    edge_job.c.edge_ws_owner,
    edge_job.c.edge_worker,
    edge_job.c.queued_dttm,
    age_s(edge_job.c.queued_dttm).label("waited_s"),
    age_s(edge_job.c.last_update).label("updated_s"),
)
_jobs: sa.Select[Any] = sa.select(*_JOB, *_CLAIM).outerjoin(
    claim, sa.and_(same_job, edge_job.c.edge_ws_claim == claim.c.id)
)
_order = (
    # What runs first, then what waits, in the order in which it is handed out.
    sa.case({RUNNING: 0, CLAIMED: 1, QUEUED: 2}, value=edge_job.c.state, else_=3),
    edge_job.c.priority_weight.desc(),
    edge_job.c.queued_dttm,
    *(edge_job.c[name] for name in KEY_COLUMNS),
)
_is_open = edge_job.c.state.in_(OPEN_STATES)
_is_queued = edge_job.c.state == sa.literal_column(f"'{QUEUED}'")


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


backlogs = (
    sa.select(
        edge_job.c.queue,
        _count(_is_queued).label("queued"),
        _count(_is_open).label("running"),
        age_s(sa.func.min(sa.case((_is_queued, edge_job.c.queued_dttm)))).label("oldest_s"),
        sa.func.min(sa.case((_is_queued, edge_job.c.queued_dttm))).label("oldest_at"),
    )
    .where(sa.or_(_is_queued, _is_open))
    .group_by(edge_job.c.queue)
    .order_by(edge_job.c.queue)
)

_held = (
    sa.select(
        edge_job.c.edge_worker,
        sa.func.sum(edge_job.c.concurrency_slots).label("taken"),
        sa.func.count().label("jobs"),
    )
    .where(_is_open, edge_job.c.edge_worker.is_not(None))
    .group_by(edge_job.c.edge_worker)
    .subquery("held")
)
workers_query = (
    sa.select(
        edge_worker,
        *(column.label(f"our_{column.name}") for column in worker.c),
        (epoch_now() - worker.c.seen_at).label("seen_s"),
        silent_after_s(worker).label("silent_after_s"),
        (epoch_now() - worker.c.applied_at).label("applied_s"),
        age_s(edge_worker.c.last_update).label("updated_s"),
        _held.c.taken,
        _held.c.jobs,
        token.c.name.label("token_name"),
        token.c.queues.label("token_queues"),
        token.c.team.label("token_team"),
        token.c.expires_at.label("token_expires_at"),
        token.c.revoked_at.label("token_revoked_at"),
        sa.and_(
            token.c.revoked_at.is_(None),
            sa.or_(token.c.expires_at.is_(None), token.c.expires_at > epoch_now()),
        ).label("token_is_good"),
        maintenance.c.comment.label("asked_comment"),
        maintenance.c.wished_by.label("asked_by"),
        maintenance.c.wished_at.label("asked_at"),
        maintenance.c.ends_at,
    )
    .outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
    .outerjoin(_held, _held.c.edge_worker == edge_worker.c.worker_name)
    .outerjoin(token, token.c.id == worker.c.token_id)
    .outerjoin(maintenance, maintenance.c.worker_name == edge_worker.c.worker_name)
    .order_by(edge_worker.c.worker_name)
)


def jobs_query(filters: Mapping[str, str], limit: int) -> sa.Select[Any]:
    """Return the query for jobs by `state` (the row's, or its claim's phase), `queue`, `worker`, `dag_id`."""
    query = _jobs
    for name, value in filters.items():
        query = query.where(_condition(name, value))
    return query.order_by(*_order).limit(limit)


def _condition(name: str, value: str) -> sa.ColumnElement[bool]:
    if name != "state":
        columns = {"queue": edge_job.c.queue, "worker": edge_job.c.edge_worker, "dag_id": edge_job.c.dag_id}
        return columns[name] == value
    if value in {phase.value for phase in Phase} - {Phase.ENDED.value}:
        return sa.and_(claim.c.phase == value, claim.c.ended_at.is_(None), edge_job.c.state.in_(OPEN_STATES))
    return edge_job.c.state == value


def _of_attempt(key: JobKey, table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[name] == getattr(key, name) for name in KEY_COLUMNS))


def claims_query(key: JobKey, limit: int) -> sa.Select[Any]:
    """Return the query for the job's claims, the latest first."""
    query = sa.select(*_CLAIM).where(_of_attempt(key, claim))
    return query.order_by(claim.c.created_at.desc(), claim.c.id).limit(limit)


def ahead_query(job: JobView) -> sa.Select[Any]:
    """Return the query that counts what waits in the job's queue and is handed out before it."""
    c = edge_job.c
    earlier = sa.and_(c.priority_weight == job.priority, c.queued_dttm < job.queued_at)
    return (
        sa.select(sa.func.count())
        .select_from(edge_job)
        .where(_is_queued, c.queue == job.queue, sa.or_(c.priority_weight > job.priority, earlier))
    )


last_gateway = (
    sa.select(
        gateway.c.hostname,
        (epoch_now() - gateway.c.seen_at).label("seen_s"),
        silent_after_s(gateway).label("silent_after_s"),
    )
    .where(gateway.c.ended_at.is_(None))
    .order_by(gateway.c.seen_at.desc())
    .limit(1)
)
left_waiting = sa.select(
    sa.func.count().label("jobs"), age_s(sa.func.min(edge_job.c.queued_dttm)).label("waited_s")
).where(
    _is_queued,
    edge_job.c.edge_ws_owner == sa.bindparam("owner", type_=sa.Integer),
    edge_job.c.team_name.is_not_distinct_from(sa.bindparam("team", type_=sa.String)),
)


class ViewStore:
    """What anybody may see."""

    def __init__(self, database: Database, edge3_alive_s: float) -> None:
        self._database = database
        self._edge3_alive_s = edge3_alive_s

    def jobs(self, limit: int, **filters: str | None) -> list[JobView]:
        """Return jobs, those that run first, then those that wait in their order.

        Args:
            limit: at the most.
            filters: `state` (the row's, or `offered`, `accepted`, `started`), `queue`, `worker`, `dag_id`.
        """
        given = {name: value for name, value in filters.items() if value is not None}
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(jobs_query(given, limit))]

    def find_job(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None
    ) -> JobView | None:
        """Return the job of a task's attempt (None: of the last one that there is), None if there is none."""
        c = edge_job.c
        query = _jobs.where(
            c.dag_id == dag_id, c.run_id == run_id, c.task_id == task_id, c.map_index == map_index
        )
        if try_number is not None:
            query = query.where(c.try_number == try_number)
        query = query.order_by(c.try_number.desc(), c.queued_dttm.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return None
            return replace(_job(row), faults=faults_of(connection, key_of(row)))

    def history(self, job: JobView, limit: int) -> tuple[list[ClaimView], int]:
        """Return the job's claims, the latest first, and how many jobs are handed out before it."""
        with self._database.read() as connection:
            claims = [_claim(row) for row in connection.execute(claims_query(job.key, limit))]
            return claims, self._ahead(connection, job)

    @staticmethod
    def _ahead(connection: Connection, job: JobView) -> int:
        if job.state != QUEUED or job.queued_at is None:
            return 0
        return connection.scalar(ahead_query(job)) or 0

    def log_end(self, claim_id: ClaimId) -> bytes:
        """Return the end of a claim's log, as far as it is still here: one or two chunks."""
        query = (
            sa.select(log_table.c.data)
            .where(log_table.c.claim == claim_id)
            .order_by(log_table.c.log_offset.desc())
            .limit(2)
        )
        with self._database.read() as connection:
            return b"".join(reversed(connection.scalars(query).all()))

    def backlogs(self) -> list[Backlog]:
        """Return what each queue holds that has any job."""
        with self._database.read() as connection:
            rows = connection.execute(backlogs).all()
        return [
            Backlog(
                queue=row.queue,
                queued=int(row.queued),
                running=int(row.running),
                oldest_wait_s=row.oldest_s,
                oldest_at=row.oldest_at,
            )
            for row in rows
        ]

    def pauses(self) -> dict[str, QueuePause]:
        """Return the queues that are paused, by name."""
        with self._database.read() as connection:
            return read_pauses(connection)

    def workers(self, pattern: str | None = None, *, name: str | None = None) -> list[WorkerView]:
        """Return the workers, ours and edge3's, by name: all, those like a pattern (`*` and `?`), or one."""
        query = workers_query if name is None else workers_query.where(edge_worker.c.worker_name == name)
        with self._database.read() as connection:
            found = [_shown(row, self._edge3_alive_s) for row in connection.execute(query)]
        return [one for one in found if pattern is None or fnmatchcase(one.name, pattern)]

    def stranded(self, owner: int, team: str | None) -> Stranded | None:
        """Return what waits of that owner and team; None, by one statement, while a gateway is alive."""
        with self._database.read() as connection:
            last = connection.execute(last_gateway).one_or_none()
            if last is not None and last.seen_s < last.silent_after_s:
                return None
            row = connection.execute(left_waiting, {"owner": owner, "team": team}).one()
        if not row.jobs:
            return None
        return Stranded(
            jobs=row.jobs,
            waited_s=row.waited_s or 0.0,
            gateway=last.hostname if last is not None else None,
            seen_s=last.seen_s if last is not None else None,
        )

    def gateways(self) -> list[GatewayRecord]:
        """Return the gateways that are known, those seen last first."""
        silent_s = silent_after_s(gateway).label("silent_after_s")
        columns = gateway.c.id, gateway.c.hostname, gateway.c.pid, gateway.c.seen_at
        query = sa.select(*columns, epoch_now().label("now"), silent_s)
        query = query.where(gateway.c.ended_at.is_(None)).order_by(gateway.c.seen_at.desc())
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            GatewayRecord(
                id=GatewayId(row.id),
                hostname=row.hostname,
                pid=row.pid,
                seen_s=row.now - row.seen_at,
                silent_after_s=row.silent_after_s,
            )
            for row in rows
        ]

    def clock(self) -> float:
        """Return the database's time, seconds since the epoch."""
        with self._database.read() as connection:
            return float(connection.scalar(sa.select(epoch_now())) or 0.0)


def _claim(row: _Row) -> ClaimView:
    return ClaimView(
        id=ClaimId(row.claim_id),
        worker=WorkerName(row.claim_worker),
        phase=Phase(row.claim_phase),
        result=row.claim_result,
        detail=row.claim_detail,
        offered_s=row.offered_s,
        ended_s=row.ended_s,
        lease_s=row.lease_s,
        offered_at=row.claim_offered_at,
        ended_at=row.claim_ended_at,
        log_path=row.claim_log_path,
    )


def _job(row: _Row) -> JobView:
    return JobView(
        key=key_of(row),
        state=row.state,
        queue=row.queue,
        slots=row.concurrency_slots,
        priority=row.priority_weight,
        team=row.team_name,
        owner=row.edge_ws_owner or None,
        reported=row.edge_ws_owner == REPORTED,
        worker=row.edge_worker,
        queued_at=row.queued_dttm,
        waited_s=_float(row.waited_s),
        updated_s=_float(row.updated_s),
        claim=_claim(row) if row.claim_id is not None else None,
    )


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _names(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _shown(row: _Row, edge3_alive_s: float) -> WorkerView:
    """Return the worker; a row that holds what nobody foresaw hides no other one."""
    try:
        return _worker(row, edge3_alive_s)
    except Exception:
        log.exception("The row of worker %s cannot be read", row.worker_name)
        return WorkerView(
            name=WorkerName(row.worker_name),
            is_ours=row.our_worker_name is not None,
            state=row.state,
            comment="its row cannot be read: a fault of this program; please report it",
            team=row.team_name,
            queues=(),
            wished_queues=None,
            local_queues=None,
            concurrency=None,
            wished_concurrency=None,
            local_concurrency=None,
            taken=0,
            jobs=0,
            seen_s=None,
            first_online=None,
        )


def _worker(row: _Row, edge3_alive_s: float) -> WorkerView:
    # An edge3 worker may have taken over a name that was one of ours.
    is_ours = row.our_worker_name is not None and MARK in (row.sysinfo or {})
    return _as_heard(_ours(row)) if is_ours else _edge3s(row, edge3_alive_s)


def _as_heard(one: WorkerView) -> WorkerView:
    """Return the worker with the state that follows from its silence, be it noted or not."""
    if one.seen_s is None or one.seen_s <= one.silent_after_s:
        return one
    now = state_of(one.state)
    state = after(now, Event.LEAVE_IN_MAINTENANCE if one.wishes_maintenance else Event.SILENCE)
    return one if state is None or now in AWAY else replace(one, state=state.value)


def _common(row: _Row) -> dict[str, Any]:
    return {
        "name": WorkerName(row.worker_name),
        "state": row.state,
        "comment": row.maintenance_comment,
        "team": row.team_name,
        "wished_concurrency": row.concurrency,
        "taken": int(row.taken or 0),
        "jobs": row.jobs or 0,
        "first_online": row.first_online,
        "last_update": row.last_update,
        "sysinfo": row.sysinfo or {},
        **shown_maintenance(row),
    }


def _ours(row: _Row) -> WorkerView:
    credential = None
    if row.token_name is not None:
        credential = TokenView(
            name=row.token_name,
            queues=_names(row.token_queues),
            team=row.token_team,
            is_good=bool(row.token_is_good),
            expires_at=row.token_expires_at,
            is_revoked=row.token_revoked_at is not None,
            id=row.our_token_id,
        )
    return WorkerView(
        **_common(row),
        is_ours=True,
        queues=_names(row.our_applied_queues),
        wished_queues=_names(row.our_wish_queues),
        local_queues=_names(row.our_local_queues),
        concurrency=row.our_applied_concurrency,
        local_concurrency=row.our_local_concurrency,
        seen_s=row.seen_s,
        seen_at=row.our_seen_at,
        address=row.our_address,
        silent_after_s=row.silent_after_s,
        wishes_maintenance=bool(row.our_wish_maintenance),
        wishes_shutdown=bool(row.our_wish_shutdown),
        leaves_by=shown_deadline(row),
        wish_revision=row.our_wish_revision,
        applied_revision=row.our_applied_revision,
        applied_s=row.applied_s,
        gateway=GatewayId(row.our_gateway) if row.our_gateway else None,
        transport=row.our_transport if row.our_gateway else None,
        site=row.our_site,
        token=credential,
        room=room_of(row.sysinfo or {}),
    )


def _edge3s(row: _Row, alive_s: float) -> WorkerView:
    """Return what edge3's columns say: what is written there is in force with its next heartbeat."""
    own = (row.sysinfo or {}).get("concurrency")
    local = int(own) if isinstance(own, (int, float)) else None
    queues = _names(split_queues(row.queues))
    return WorkerView(
        **_common(row),
        is_ours=False,
        queues=queues,
        wished_queues=None,
        local_queues=queues,
        concurrency=local if row.concurrency is None else row.concurrency,
        local_concurrency=local,
        seen_s=_float(row.updated_s),
        seen_at=row.last_update.timestamp() if row.last_update is not None else None,
        silent_after_s=alive_s,
    )
