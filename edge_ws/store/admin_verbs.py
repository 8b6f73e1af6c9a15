"""The verbs of administration: tokens, and the list of gateways."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from edge_ws.protocol.ids import GatewayId, new_id
from edge_ws.store.database import Database
from edge_ws.store.records import GatewayRecord, TokenRecord
from edge_ws.store.tables import epoch_now, gateway, silent_after_s, token

SECRET_PREFIX = "edgews_"  # noqa: S105 - what every secret begins with, so that scanners can find leaked ones


def hash_secret(secret: str) -> str:
    """Return what is stored of a secret. It has 256 random bits, so a fast hash without salt is safe."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _token_record(row: Row[Any]) -> TokenRecord:
    return TokenRecord(
        id=row.id,
        name=row.name,
        worker_pattern=row.worker_pattern,
        queues=tuple(row.queues) if row.queues is not None else None,
        team=row.team,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


class AdminVerbs:
    """What operators do."""

    _database: Database

    def create_token(
        self,
        name: str,
        *,
        worker_pattern: str,
        queues: Sequence[str] | None,
        team: str | None,
        expires_in_s: float | None,
    ) -> str:
        """Make a token and return its secret, which is stored nowhere."""
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        with self._database.write() as connection:
            connection.execute(
                token.insert().values(
                    id=new_id(),
                    name=name,
                    secret_hash=hash_secret(secret),
                    worker_pattern=worker_pattern,
                    queues=list(queues) if queues is not None else None,
                    team=team,
                    created_at=epoch_now(),
                    expires_at=epoch_now() + expires_in_s if expires_in_s is not None else None,
                )
            )
        return secret

    def find_token(self, secret: str) -> tuple[TokenRecord, float] | None:
        """Return the token of that secret with the database's time, None if there is none.

        Whether it is revoked or expired is the caller's to judge, so that it can say which.
        """
        query = sa.select(token, epoch_now().label("now")).where(token.c.secret_hash == hash_secret(secret))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return (_token_record(row), float(row.now)) if row is not None else None

    def tokens(self) -> list[TokenRecord]:
        """Return all tokens by name and age."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(token).order_by(token.c.name, token.c.created_at)).all()
        return [_token_record(row) for row in rows]

    def revoke_token(self, id_or_name: str) -> int:
        """Revoke the token of that id, or all of that name; return how many were not revoked before."""
        with self._database.write() as connection:
            changed = connection.execute(
                token.update()
                .where(
                    sa.or_(token.c.id == id_or_name, token.c.name == id_or_name), token.c.revoked_at.is_(None)
                )
                .values(revoked_at=epoch_now())
            )
            return changed.rowcount

    def refused_tokens(self, ids: Sequence[str]) -> set[str]:
        """Return those of the tokens that are revoked, expired or deleted by now."""
        good = sa.select(token.c.id).where(
            token.c.id.in_(ids),
            token.c.revoked_at.is_(None),
            sa.or_(token.c.expires_at.is_(None), token.c.expires_at > epoch_now()),
        )
        with self._database.read() as connection:
            return set(ids) - set(connection.execute(good).scalars())

    def gateways(self) -> list[GatewayRecord]:
        """Return the gateways that are known, those seen last first."""
        silent_s = silent_after_s(gateway).label("silent_after_s")
        query = sa.select(gateway, epoch_now().label("now"), silent_s).order_by(gateway.c.seen_at.desc())
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
