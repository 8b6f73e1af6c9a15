"""The whole fleet as it is at about one moment, and how gateways tell one another that it has changed.

A fixed number of statements, however many workers, jobs and gateways there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from edge_ws.protocol.ids import GatewayId
from edge_ws.store.database import Database
from edge_ws.store.live import age_s
from edge_ws.store.records import GatewayRecord
from edge_ws.store.tables import claim, edge_job, edge_worker, epoch_now, gateway, paused_queue, worker
from edge_ws.store.view_records import Backlog, JobView, QueuePause, WorkerView
from edge_ws.store.views import ViewStore
from edge_ws.store.watch import FLEET_CHANNEL, NEWS, WATCHES

MOST_JOBS = 5000
"""Jobs that are read: those that run, then those that wait in their order, then those that are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecord:
    """The fleet at about one moment."""

    now: float
    """The database's time, seconds since the epoch."""
    workers: tuple[WorkerView, ...]
    backlogs: tuple[Backlog, ...]
    gateways: tuple[GatewayRecord, ...]
    pauses: Mapping[str, QueuePause] = field(default_factory=dict)
    """Queue -> its pause."""
    jobs: tuple[JobView, ...] | None
    """None: not asked for."""

    @property
    def has_all_jobs(self) -> bool:
        """Whether there are no more jobs than these."""
        return self.jobs is None or len(self.jobs) < MOST_JOBS


_heard = (
    sa.select(
        edge_worker.c.worker_name,
        edge_worker.c.state,
        edge_worker.c.last_update,
        age_s(edge_worker.c.last_update).label("updated_s"),
        worker.c.seen_at,
        (epoch_now() - worker.c.seen_at).label("seen_s"),
    )
    .outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
    .order_by(edge_worker.c.worker_name)
)
_traces = sa.select(
    *(
        sa.select(what).scalar_subquery()
        for what in (
            sa.func.count(edge_job.c.dag_id),
            sa.func.max(edge_job.c.last_update),
            sa.func.max(edge_job.c.queued_dttm),
            sa.func.count(edge_worker.c.worker_name),
            sa.func.max(edge_worker.c.last_update),
            sa.func.sum(worker.c.wish_revision),
            sa.func.sum(worker.c.applied_revision),
            sa.func.count(worker.c.gateway),
            sa.func.count(claim.c.id),
            sa.func.max(claim.c.created_at),
            sa.func.max(claim.c.ended_at),
            sa.func.count(gateway.c.id),
            sa.func.count(paused_queue.c.queue),
            sa.func.max(paused_queue.c.paused_at),
        )
    )
)


class PictureStore:
    """What those see who watch the fleet."""

    def __init__(self, database: Database, views: ViewStore) -> None:
        self._database = database
        self._views = views

    def read(self, *, with_jobs: bool, before: FleetRecord | None = None) -> FleetRecord:
        """Return the fleet as it is; a statement a kind.

        Args:
            with_jobs: its jobs, too.
            before: what was read a moment ago, if nothing is known to have changed since: of its workers only
                when they were heard of is read then, unless that shows a change, in a tenth of the time.
        """
        workers = None if before is None else self._heard_again(before.workers)
        return FleetRecord(
            now=self._views.clock(),
            workers=tuple(self._views.workers()) if workers is None else workers,
            backlogs=tuple(self._views.backlogs()),
            gateways=tuple(self._views.gateways()),
            pauses=self._views.pauses(),
            jobs=tuple(self._views.jobs(MOST_JOBS)) if with_jobs else None,
        )

    def _heard_again(self, known: tuple[WorkerView, ...]) -> tuple[WorkerView, ...] | None:
        """Return the workers with when they were heard of; None: they are others, or have another state."""
        with self._database.read() as connection:
            rows = connection.execute(_heard).all()
        if len(rows) != len(known):
            return None
        heard = []
        for one, row in zip(known, rows, strict=True):
            if one.name != row.worker_name or one.state != row.state:
                return None
            seen_s, seen_at = row.seen_s, row.seen_at
            if not one.is_ours:
                seen_s = None if row.updated_s is None else float(row.updated_s)
                seen_at = None if row.last_update is None else row.last_update.timestamp()
            heard.append(replace(one, seen_s=seen_s, seen_at=seen_at, last_update=row.last_update))
        return tuple(heard)

    def traces(self) -> tuple[object, ...]:
        """Return what most changes leave another value of: for databases that tell of none. One statement."""
        with self._database.read() as connection:
            return tuple(connection.execute(_traces).one())

    def on_news(self, call: Callable[[], None] | None) -> None:
        """Have that called, in any thread, whenever this process has written what others may want to know."""
        self._database.on_news = call

    def tell_news(self, gateway_id: GatewayId) -> None:
        """Tell the other gateways that this one has written something (PostgreSQL)."""
        self._tell(f"{NEWS}:{gateway_id}")

    def tell_watched(self, gateway_id: GatewayId) -> None:
        """Tell the other gateways that somebody watches the fleet by this one (PostgreSQL)."""
        self._tell(f"{WATCHES}:{gateway_id}")

    def _tell(self, payload: str) -> None:
        if self._database.dialect == "postgresql":
            with self._database.write(is_news=False) as connection:
                connection.execute(sa.select(sa.func.pg_notify(FLEET_CHANNEL, payload)))
