"""Who is there: gateways and workers stay fresh, and are shown as silent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from edge_ws.protocol.ids import GatewayId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.database import Database, Failed, each, fail
from edge_ws.store.live import OPEN_STATES, age_s, held, key_columns
from edge_ws.store.records import HEARTBEAT_S
from edge_ws.store.tables import (
    claim,
    edge_job,
    edge_worker,
    epoch_now,
    gateway,
    silent_after_s,
    utc_now,
    worker,
)
from edge_ws.store.wishes import read_wish
from edge_ws.store.worker_states import AWAY, MOVES, Event, WorkerState, after
from edge_ws.store.workers import MARK, move, renewed

_FACTS = (
    edge_worker.update()
    .where(edge_worker.c.worker_name == sa.bindparam("name"))
    .values(sysinfo=sa.bindparam("told", type_=edge_worker.c.sysinfo.type))
)
_AWAY_STATES = [state.value for state in AWAY]
ABANDONED = 2
"""An edge3 worker silent so many times longer than edge3 lets it be is shown so by us; where edge3's executor
runs, it did that before."""
_SHALL_LEAVE = WorkerState.SHUTDOWN_REQUEST.value


def _moved(event: Event) -> sa.ColumnElement[str]:
    """Return the state of a worker's row after the event."""
    moves = {state.value: then.value for state in WorkerState if (then := after(state, event)) is not None}
    return sa.case(moves, value=edge_worker.c.state, else_=edge_worker.c.state)


class LivenessStore:
    """Who is there."""

    def __init__(self, database: Database, edge3_alive_s: float) -> None:
        self._database = database
        self._edge3_alive_s = edge3_alive_s

    def announce(
        self,
        gateway_id: GatewayId,
        hostname: str,
        pid: int,
        heartbeat_s: float = HEARTBEAT_S,
        *,
        figures: str | None = None,
        has_metrics: bool = False,
    ) -> float:
        """Make a gateway known, or keep it fresh: it may have been forgotten while it had no database.

        Args:
            gateway_id: its id.
            hostname: where it runs.
            pid: its process.
            heartbeat_s: it will say so again after so many seconds.
            figures: of its last hour, in place of those before.
            has_metrics: it has a listener for Prometheus.

        Returns:
            The database's time, seconds since the epoch.
        """
        told = {"figures": figures, "has_metrics": has_metrics}
        with self._database.write(is_news=False) as connection:
            here = gateway.c.id == gateway_id
            known = connection.execute(gateway.update().where(here).values(seen_at=epoch_now(), **told))
            if not known.rowcount:
                times = {"started_at": epoch_now(), "seen_at": epoch_now()}
                values = {
                    "id": gateway_id,
                    "hostname": hostname,
                    "pid": pid,
                    "heartbeat_s": heartbeat_s,
                    **told,
                    **times,
                }
                connection.execute(gateway.insert().values(values))
            return float(connection.scalar(sa.select(epoch_now())) or 0.0)

    def retire(self, gateway_id: GatewayId, figures: str | None = None) -> None:
        """Forget a gateway that ends in good order; with `figures` they stay for as long as their hour."""
        here = gateway.c.id == gateway_id
        with self._database.write() as connection:
            if figures is None:
                connection.execute(gateway.delete().where(here))
                return
            # Silent already: an older release knows no gateways that have ended.
            silent_at = epoch_now() - silent_after_s(gateway)
            ended = {"ended_at": epoch_now(), "seen_at": silent_at, "figures": figures, "has_metrics": False}
            connection.execute(gateway.update().where(here).values(ended))

    def beat(self, connections: Collection[str]) -> frozenset[str]:
        """Keep a gateway's connected workers and their running rows fresh, in a few statements.

        Args:
            connections: what `register` gave for each worker that has been heard of lately.

        Returns:
            Those of the connections that are their workers' last ones.
        """
        if not connections:
            return frozenset()
        with self._database.write(is_news=False) as connection:
            mine = worker.c.connection.in_(list(connections))
            connection.execute(worker.update().where(mine).values(seen_at=epoch_now()))
            known = frozenset(connection.scalars(sa.select(worker.c.connection).where(mine)))
            # Whoever has said goodbye meanwhile is not made to be here again.
            names = sa.select(worker.c.worker_name).where(mine, worker.c.gateway.is_not(None))
            shall_leave = sa.exists().where(
                worker.c.worker_name == edge_worker.c.worker_name,
                worker.c.wish_shutdown,
                worker.c.life.is_not(None),
            )
            active = (
                sa.select(sa.func.count())
                .select_from(claim.join(edge_job, held))
                .where(claim.c.worker == edge_worker.c.worker_name)
                .scalar_subquery()
            )
            connection.execute(
                edge_worker.update()
                .where(edge_worker.c.worker_name.in_(names))
                .values(
                    last_update=utc_now(),
                    jobs_active=active,
                    state=sa.case(
                        # Taken for silent while this gateway could not write: requests stand, and are told
                        # again.
                        (sa.and_(edge_worker.c.state.in_(_AWAY_STATES), shall_leave), _SHALL_LEAVE),
                        (active > 0, _moved(Event.HEARD_RUNNING)),
                        else_=_moved(Event.HEARD_IDLE),
                    ),
                )
            )
            # edge3's executor times out running rows of its team that nobody touches (300 s).
            running = sa.and_(
                claim.c.phase == Phase.STARTED.value,
                claim.c.worker.in_(names),
                edge_job.c.state.in_(OPEN_STATES),
            )
            fresh = sa.select(*key_columns).join(claim, held).where(running)
            if self._database.dialect == "postgresql":
                # What a report holds at this moment is fresh by it; waiting for it, out of key order, could
                # be a deadlock.
                fresh = fresh.with_for_update(of=edge_job, skip_locked=True)
            connection.execute(
                edge_job.update().where(sa.tuple_(*key_columns).in_(fresh)).values(last_update=utc_now())
            )
        return known

    def note_facts(self, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Note what workers say of themselves and their machines, by their connections, in one transaction.

        One whose row is being written just now is left out: its facts come again.
        """
        columns = edge_worker.c.worker_name, edge_worker.c.sysinfo, worker.c.connection
        query = (
            sa.select(*columns)
            .join(worker, worker.c.worker_name == edge_worker.c.worker_name)
            .where(worker.c.connection.in_(list(facts)))
            .order_by(edge_worker.c.worker_name)
            .with_for_update(of=edge_worker, skip_locked=True)
        )
        with self._database.write() as connection:
            rows = [
                {"name": row.worker_name, "told": renewed(row.sysinfo, facts[row.connection])}
                for row in connection.execute(query).all()
                if MARK in (row.sysinfo or {})
            ]
            if rows:
                connection.execute(_FACTS, rows)

    def mark_silent(self, failed: Failed = fail) -> list[tuple[WorkerName, str | None]]:
        """Show workers that no gateway has seen lately as unknown, or as offline in maintenance.

        `failed` is told of one for whom that cannot be done. Returns the others, each with its team.
        """
        shown: list[tuple[WorkerName, str | None]] = []
        here = edge_worker.c.state.in_(
            [state.value for state, moves in MOVES.items() if Event.SILENCE in moves]
        )
        is_silent = worker.c.seen_at < epoch_now() - silent_after_s(worker)
        is_abandoned = age_s(edge_worker.c.last_update) > ABANDONED * self._edge3_alive_s
        columns = edge_worker.c.worker_name, edge_worker.c.sysinfo, edge_worker.c.team_name, worker.c.site
        query = sa.select(*columns).outerjoin(worker, worker.c.worker_name == edge_worker.c.worker_name)
        with self._database.read() as connection:
            found = connection.execute(query.where(here, sa.or_(is_silent, is_abandoned))).all()
        for row in found:
            name = WorkerName(row.worker_name)
            # Without our mark an edge3 worker has the name by now.
            is_ours = row.site is not None and MARK in (row.sysinfo or {})
            table, is_so = (worker, is_silent) if is_ours else (edge_worker, sa.and_(here, is_abandoned))
            still = sa.select(table.c.worker_name).where(table.c.worker_name == name, is_so)
            # A transaction each, looked at again in it: the worker may be back, or be coming back.
            with each(name, failed), self._database.write() as connection:
                if connection.execute(still.with_for_update(skip_locked=True)).one_or_none() is None:
                    continue
                # Numbered before the state that says it is overwritten.
                wish = read_wish(connection, name) if is_ours else None
                in_maintenance = wish is not None and wish.maintenance
                move(connection, name, Event.LEAVE_IN_MAINTENANCE if in_maintenance else Event.SILENCE)
                shown.append((name, row.team_name))
        return shown
