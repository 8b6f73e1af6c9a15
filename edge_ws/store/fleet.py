"""The whole fleet as it is at about one moment, and how gateways tell one another that it has changed.

A fixed number of statements, however many workers, jobs and gateways there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from edge_ws.protocol.ids import GatewayId
from edge_ws.store.database import Database
from edge_ws.store.records import GatewayRecord
from edge_ws.store.tables import claim, edge_job, edge_worker, gateway, worker
from edge_ws.store.view_records import Backlog, JobView, WorkerView
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
    jobs: tuple[JobView, ...] | None
    """None: not asked for."""

    @property
    def has_all_jobs(self) -> bool:
        """Whether there are no more jobs than these."""
        return self.jobs is None or len(self.jobs) < MOST_JOBS


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
        )
    )
)


class FleetStore:
    """What those see who watch the fleet."""

    def __init__(self, database: Database, views: ViewStore) -> None:
        self._database = database
        self._views = views

    def read(self, *, with_jobs: bool) -> FleetRecord:
        """Return the fleet as it is; a statement a kind."""
        return FleetRecord(
            now=self._views.clock(),
            workers=tuple(self._views.workers()),
            backlogs=tuple(self._views.backlogs()),
            gateways=tuple(self._views.gateways()),
            jobs=tuple(self._views.jobs(MOST_JOBS)) if with_jobs else None,
        )

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
