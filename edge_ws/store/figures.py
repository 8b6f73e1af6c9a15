"""What gateways know of each other: their last hours' figures, and which of them speaks for the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from edge_ws.protocol.ids import EXPIRY_TOLD_S, GatewayId
from edge_ws.store.database import Database
from edge_ws.store.tables import epoch_now, gateway, silent_after_s, token, worker


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFigures:
    """A gateway with what it has told of its last hour."""

    id: GatewayId
    hostname: str
    pid: int
    started_at: float
    """Database time, seconds since the epoch."""
    seen_s: float
    is_alive: bool
    has_ended: bool
    """It ended in good order."""
    has_metrics: bool
    figures: str | None
    """As it wrote them; None: an older release's, or a new one's that has not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How many credentials want an operator."""

    expiring: int
    """Of the valid ones, those that expire within 14 days."""
    expired_in_use: int
    """Expired, not revoked, and a known worker's."""


class FigureStore:
    """Gateways' figures, and counts of the whole fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self) -> tuple[list[GatewayFigures], float]:
        """Return the gateways of the last hour, those that started first first, with the database's time."""
        return self._gateways(gateway.c.figures)

    def gateways(self) -> list[GatewayFigures]:
        """Return the same without their figures."""
        return self._gateways(sa.literal("").label("figures"))[0]

    def _gateways(self, figures: sa.ColumnElement[Any]) -> tuple[list[GatewayFigures], float]:
        query = sa.select(
            gateway.c.id,
            gateway.c.hostname,
            gateway.c.pid,
            gateway.c.started_at,
            (epoch_now() - gateway.c.seen_at).label("seen_s"),
            silent_after_s(gateway).label("silent_after_s"),
            gateway.c.ended_at,
            gateway.c.has_metrics,
            figures,
        ).order_by(gateway.c.started_at, gateway.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            now = float(connection.scalar(sa.select(epoch_now())) or 0.0)
        found = [
            GatewayFigures(
                id=GatewayId(row.id),
                hostname=row.hostname,
                pid=row.pid,
                started_at=row.started_at,
                seen_s=row.seen_s,
                is_alive=row.ended_at is None and row.seen_s < row.silent_after_s,
                has_ended=row.ended_at is not None,
                has_metrics=bool(row.has_metrics),
                figures=row.figures,
            )
            for row in rows
        ]
        return found, now

    def tokens(self) -> Tokens:
        """Return how many credentials expire soon, or have expired."""
        left_s = token.c.expires_at - epoch_now()
        kept = token.c.revoked_at.is_(None)
        soon = sa.and_(kept, left_s > 0, left_s < EXPIRY_TOLD_S)
        late = sa.and_(kept, left_s <= 0, sa.exists().where(worker.c.token_id == token.c.id))
        count = sa.select(sa.func.count()).select_from(token)
        with self._database.read() as connection:
            return Tokens(
                expiring=connection.scalar(count.where(soon)) or 0,
                expired_in_use=connection.scalar(count.where(late)) or 0,
            )
