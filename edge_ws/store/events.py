"""What happened to the fleet lately: the newest few hundred events, whichever process noted them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.store.database import Database
from edge_ws.store.tables import claim, epoch_now, event
from edge_ws.texts import words

KEPT = 500
"""Events that are kept, or a few more for a moment."""
_JOB = ("dag_id", "run_id", "task_id", "map_index", "try_number")
_LOCK_KEY = 0x6564_6765_5F77_7302
"""PostgreSQL's advisory lock of who writes events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event that is to be noted."""

    kind: str
    worker: str | None = None
    queue: str | None = None
    who: str | None = None
    """The user that asked for it; None: nobody, or whoever runs a command in the data centre."""
    words: str = ""
    claim: str | None = None
    """The claim that it is about; its job is noted along."""
    age_s: float = 0.0
    """So long ago it happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event as it is kept."""

    id: int
    at: float
    """Database time, seconds since the epoch."""
    kind: str
    worker: str | None
    queue: str | None
    who: str | None
    words: str
    gateway: str | None
    """Which gateway noted it, as `hostname/pid`; None: a command did."""
    claim: str | None
    job: Mapping[str, Any] | None


class EventStore:
    """The newest events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, events: Sequence[NewEvent], gateway: str | None = None) -> None:
        """Note the events, and forget the oldest ones.

        Args:
            events: in their order; the newest KEPT of them count.
            gateway: which one notes them.
        """
        events = events[-KEPT:]
        if not events:
            return
        with self._database.write() as connection:
            if self._database.dialect == "postgresql":
                # Ids are to be seen in their order: readers ask for what is beyond the last one they saw.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
            jobs = _jobs(connection, {one.claim for one in events if one.claim is not None})
            insert = event.insert().values(at=epoch_now() - sa.bindparam("age_s", type_=sa.Double))
            connection.execute(insert, [_row(one, jobs, gateway) for one in events])
            connection.execute(event.delete().where(event.c.id <= _last_id() - KEPT))

    def since(
        self,
        after: int | None,
        limit: int,
        *,
        worker: str | None = None,
        kind: str | None = None,
        within_s: float | None = None,
    ) -> list[EventRecord]:
        """Return events, the oldest first.

        Args:
            after: the first ones with a greater id; None: the last ones.
            limit: at the most.
            worker: only of workers of that name, or of names like it (`*` and `?`).
            kind: only of this kind.
            within_s: only of so many seconds.
        """
        query = sa.select(event).order_by(event.c.id)
        if after is not None:
            query = query.where(event.c.id > after)
        if kind is not None:
            query = query.where(event.c.kind == kind)
        if within_s is not None:
            query = query.where(event.c.at >= epoch_now() - within_s)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        found = [
            _record(row) for row in rows if worker is None or (row.worker and fnmatchcase(row.worker, worker))
        ]
        return found[-limit:] if after is None else found[:limit]

    def last_id(self) -> int:
        """Return the id of the newest event, 0 if there is none."""
        with self._database.read() as connection:
            return int(connection.scalar(sa.select(sa.func.max(event.c.id))) or 0)


def _last_id() -> sa.ScalarSelect[Any]:
    # Twice nested: MySQL deletes from no table that the same statement reads.
    last = sa.select(sa.func.max(event.c.id).label("id")).subquery()
    return sa.select(last.c.id).scalar_subquery()


def _jobs(connection: Connection, claims: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the jobs of those of the claims that there are."""
    if not claims:
        return {}
    query = sa.select(claim.c.id, *(claim.c[name] for name in _JOB)).where(claim.c.id.in_(sorted(claims)))
    return {row.id: {name: getattr(row, name) for name in _JOB} for row in connection.execute(query)}


def _row(one: NewEvent, jobs: Mapping[str, Mapping[str, Any]], gateway: str | None) -> dict[str, Any]:
    return {
        "age_s": one.age_s,
        "kind": one.kind,
        "worker": _cut(one.worker, 64),
        "queue": _cut(one.queue, 256),
        "who": _cut(one.who, 250),
        "words": words(one.words),
        "gateway": _cut(gateway, 300),
        "claim": one.claim,
        "job": jobs.get(one.claim or ""),
    }


def _cut(text: str | None, most: int) -> str | None:
    return None if text is None else words(text, most)


def _record(row: Any) -> EventRecord:  # noqa: ANN401 - SQLAlchemy 2.0 and 2.1 write a row's type differently
    return EventRecord(
        id=row.id,
        at=row.at,
        kind=row.kind,
        worker=row.worker,
        queue=row.queue,
        who=row.who,
        words=row.words,
        gateway=row.gateway,
        claim=row.claim,
        job=row.job,
    )
