"""Workers' tokens: made, found, revoked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import WorkerName, new_id
from edge_ws.store.database import Database
from edge_ws.store.records import TokenRecord, TokenUse
from edge_ws.store.secret_form import hash_secret, is_well_formed, new_secret
from edge_ws.store.tables import epoch_now, token, worker


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
        secret_hash=row.secret_hash,
        old_secret_hash=row.old_secret_hash,
        old_expires_at=row.old_expires_at,
        max_workers=row.max_workers,
    )


def _is_named(id_or_name: str) -> sa.ColumnElement[bool]:
    """Return the condition for the tokens of that id or name that are not revoked."""
    is_it = sa.or_(token.c.id == id_or_name, token.c.name == id_or_name)
    return sa.and_(is_it, token.c.revoked_at.is_(None))


class TokenStore:
    """Workers' credentials."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_token(
        self,
        name: str,
        *,
        worker_pattern: str,
        queues: Sequence[str] | None,
        team: str | None,
        expires_in_s: float | None,
        max_workers: int | None = None,
    ) -> str:
        """Make a token and return its secret, which is stored nowhere."""
        secret = new_secret()
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
                    max_workers=max_workers,
                )
            )
        return secret

    def rotate_token(self, id_or_name: str, overlap_s: float) -> str:
        """Give the one token of that id or name a new secret and return it; the old one is taken meanwhile.

        A secret that was old already is taken no more.

        Raises:
            UsageError: there is no such token that is not revoked, or there are several.
        """
        secret = new_secret()
        with self._database.write() as connection:
            one = self._the_token(connection, id_or_name)
            connection.execute(
                token.update()
                .where(token.c.id == one.id)
                .values(
                    secret_hash=hash_secret(secret),
                    old_secret_hash=token.c.secret_hash,
                    old_expires_at=epoch_now() + overlap_s,
                )
            )
        return secret

    def narrow_token(
        self,
        id_or_name: str,
        *,
        queues: Sequence[str] | None = None,
        team: str | None = None,
        expires_in_s: float | None = None,
    ) -> TokenRecord:
        """Let the one token of that id or name admit less from now on; None: as before. Return it.

        Raises:
            UsageError: there is no such token that is not revoked, or several; or it would admit more.
        """
        with self._database.write() as connection:
            one = self._the_token(connection, id_or_name)
            now = float(connection.scalar(sa.select(epoch_now())) or 0.0)
            values: dict[str, Any] = {}
            if queues is not None:
                values["queues"] = list(queues)
                wider = sorted(set(queues) - set(one.queues)) if one.queues is not None else []
                if wider:
                    raise UsageError(f"queues: the token does not admit {', '.join(wider)}; a new one can")
            if team is not None:
                values["team"] = team
                if one.team not in {None, team}:
                    raise UsageError(
                        f"team_name: the token is for team {one.team}; a new one can be another's"
                    )
            if expires_in_s is not None:
                values["expires_at"] = now + expires_in_s
                if one.expires_at is not None and one.expires_at < now + expires_in_s:
                    raise UsageError("expires: the token expires sooner than that already")
            if values:
                connection.execute(token.update().where(token.c.id == one.id).values(**values))
            return self._the_token(connection, one.id)

    @staticmethod
    def _the_token(connection: Connection, id_or_name: str) -> TokenRecord:
        rows = connection.execute(sa.select(token).where(_is_named(id_or_name)).with_for_update()).all()
        if not rows:
            raise UsageError(f"there is no valid token {id_or_name}; see: edge-ws token list")
        if len(rows) > 1:
            raise UsageError(f"{len(rows)} tokens are named {id_or_name}: give the id of one")
        return _token_record(rows[0])

    def token_uses(self) -> list[TokenUse]:
        """Return by which tokens workers have come last, those seen last first."""
        columns = worker.c.worker_name, worker.c.token_id, worker.c.secret_hash, worker.c.address
        query = sa.select(*columns, worker.c.seen_at).where(worker.c.token_id.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(worker.c.seen_at.desc())).all()
        return [
            TokenUse(
                worker=WorkerName(row.worker_name),
                token_id=row.token_id,
                secret_hash=row.secret_hash,
                address=row.address,
                seen_at=row.seen_at,
            )
            for row in rows
        ]

    def find_token(self, secret: str) -> tuple[TokenRecord, float] | None:
        """Return the token of that secret with the database's time, None if there is none.

        Whether it is revoked or expired is the caller's to judge, so that it can say which.
        """
        if not is_well_formed(secret):
            return None
        hashed = hash_secret(secret)
        is_it = sa.or_(token.c.secret_hash == hashed, token.c.old_secret_hash == hashed)
        query = sa.select(token, epoch_now().label("now")).where(is_it)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return (_token_record(row), float(row.now)) if row is not None else None

    def tokens_by_id(self, ids: Sequence[str]) -> tuple[dict[str, TokenRecord], float]:
        """Return those of the tokens that there are, with the database's time."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(token).where(token.c.id.in_(ids))).all()
            now = float(connection.scalar(sa.select(epoch_now())) or 0.0)
        return {row.id: _token_record(row) for row in rows}, now

    def all_tokens(self) -> list[TokenRecord]:
        """Return all tokens by name and age."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(token).order_by(token.c.name, token.c.created_at)).all()
        return [_token_record(row) for row in rows]

    def revoke_token(self, id_or_name: str) -> int:
        """Revoke the token of that id, or all of that name; return how many were not revoked before."""
        with self._database.write() as connection:
            changed = connection.execute(
                token.update().where(_is_named(id_or_name)).values(revoked_at=epoch_now())
            )
            return changed.rowcount
