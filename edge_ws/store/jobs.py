"""What an executor does with its rows: it enqueues, reads what ended, adopts, revokes, ends the unwanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection

from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.protocol.states import Phase
from edge_ws.store.bulk import PLACE, UpdateMany, place_of
from edge_ws.store.command import parse
from edge_ws.store.database import Database
from edge_ws.store.live import (
    FAILED,
    KEY_COLUMNS,
    MANY_KEYS,
    OPEN_STATES,
    QUEUED,
    REMOVED,
    REPORTED,
    SUCCESS,
    has_ended,
    held,
    is_job,
    key_columns,
    key_of,
    same_job,
    these_jobs,
)
from edge_ws.store.records import EndedJob, JobKey, NewJob
from edge_ws.store.tables import claim, edge_job, utc_now

NOT_STARTED = "not_started"
"""The result of a claim under which nothing ran: what the task's state says is another process's doing."""


@cache
def _enqueue_statement(dialect: str) -> sa.Insert:
    """Return the upsert of a row; built once, for that takes longer than to run it."""
    if dialect == "mysql":
        into = mysql.insert(edge_job).values(**_given, **_new_round)
        again = {name: into.inserted[name] for name in _given if name not in KEY_COLUMNS}
        return into.on_duplicate_key_update(**again, **_new_round)
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    row: sqlite.Insert | postgresql.Insert = insert(edge_job).values(**_given, **_new_round)
    again = {name: row.excluded[name] for name in _given if name not in KEY_COLUMNS}
    return row.on_conflict_do_update(index_elements=KEY_COLUMNS, set_={**again, **_new_round})


_given = {
    name: sa.bindparam(name, type_=edge_job.c[name].type)
    for name in (
        *KEY_COLUMNS,
        "queue",
        "concurrency_slots",
        "priority_weight",
        "command",
        "team_name",
        "edge_ws_owner",
    )
}
_new_round: dict[str, Any] = {
    "state": QUEUED,
    "queued_dttm": utc_now(),
    "last_update": utc_now(),
    "edge_worker": None,
    "edge_ws_claim": None,
}

_ended: sa.Select[Any] = (
    sa.select(
        *key_columns,
        edge_job.c.state,
        edge_job.c.command,
        claim.c.detail,
        claim.c.result,
    )
    # edge3 queues a row again without clearing our claim: what its worker ends has ended.
    .outerjoin(
        claim,
        sa.and_(
            claim.c.id == edge_job.c.edge_ws_claim,
            claim.c.worker == edge_job.c.edge_worker,
            same_job,
        ),
    )
    .where(
        edge_job.c.edge_ws_owner == sa.bindparam("owner", type_=sa.Integer),
        edge_job.c.team_name.is_not_distinct_from(sa.bindparam("team", type_=sa.String)),
        has_ended,
        sa.or_(claim.c.phase.is_(None), claim.c.phase == Phase.ENDED.value),
    )
    .limit(sa.bindparam("most", type_=sa.Integer))
)


class JobStore:
    """What an executor does; a scheduler's `job_id` (owner) says whose rows are meant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enqueue(self, connection: Connection, job: NewJob) -> None:
        """Queue the job in the caller's transaction: one upsert, which begins a new round of its row."""
        values = {
            **job.key._asdict(),
            "queue": job.queue,
            "concurrency_slots": job.slots,
            "priority_weight": job.priority,
            "command": job.command,
            "team_name": job.team,
            "edge_ws_owner": job.owner,
        }
        connection.execute(_enqueue_statement(self._database.dialect), values)

    def ended(self, owner: int, team: str | None = None, limit: int = 1000) -> list[EndedJob]:
        """Return rows of that owner that have ended and are not reported, without their locks.

        A row whose claim is still open has not ended, whatever edge3 wrote into it. A scheduler has one
        executor a team, all under one owner: each sees its own team's rows only.
        """
        asked = {"owner": owner, "team": team, "most": limit}
        with self._database.read() as connection:
            return [self._ended(row) for row in connection.execute(_ended, asked)]

    @staticmethod
    def _ended(row: sa.Row[Any]) -> EndedJob:
        parsed = parse(row.command)
        state = row.state if row.state in {SUCCESS, FAILED} else REMOVED
        if state == REMOVED and row.result == NOT_STARTED:
            state = NOT_STARTED
        return EndedJob(
            key=key_of(row), state=state, subject=parsed.subject if parsed else "", detail=row.detail or ""
        )

    def reported(self, owner: int, keys: Sequence[JobKey]) -> None:
        """Note that the owner has reported these ends; rows queued again meanwhile are left alone."""
        with self._database.write() as connection:
            for start in range(0, len(keys), MANY_KEYS):
                connection.execute(
                    edge_job.update()
                    .where(
                        edge_job.c.edge_ws_owner == owner,
                        has_ended,
                        these_jobs(keys[start : start + MANY_KEYS]),
                    )
                    .values(edge_ws_owner=REPORTED)
                )

    def owned(self, owner: int, team: str | None = None) -> set[JobKey]:
        """Return the keys of all rows of that owner and team, in any state."""
        query = sa.select(*(edge_job.c[name] for name in KEY_COLUMNS)).where(
            edge_job.c.edge_ws_owner == owner, edge_job.c.team_name.is_not_distinct_from(team)
        )
        with self._database.read() as connection:
            return {key_of(row) for row in connection.execute(query)}

    def adopt(
        self, owner: int, wanted: Mapping[JobKey, str], *, connection: Connection | None = None
    ) -> dict[JobKey, str | None]:
        """Make `owner` report the rows whose workload is for the given task instance id.

        Args:
            owner: the adopting scheduler's `job_id`.
            wanted: job key -> task instance id.
            connection: the caller's transaction, where it has one open that writes (SQLite has one writer).

        Returns:
            The adopted rows' keys with their states, and with None the keys of rows that are another
            attempt's.
        """
        found: dict[JobKey, str | None] = {}
        keys = list(wanted)
        with self._database.write() if connection is None else nullcontext(connection) as caller:
            for start in range(0, len(keys), MANY_KEYS):
                some = these_jobs(keys[start : start + MANY_KEYS])
                query = sa.select(edge_job).where(some).with_for_update()
                for row in caller.execute(query).all():
                    parsed, key = parse(row.command), key_of(row)
                    if parsed is None or parsed.subject != wanted[key]:
                        found[key] = None
                        continue
                    found[key] = row.state
                    caller.execute(edge_job.update().where(is_job(key)).values(edge_ws_owner=owner))
        return found

    def inherit(self, owner: int, living: Collection[int]) -> set[JobKey]:
        """Settle what schedulers that are gone have left, as far as nobody asks for it by `adopt`.

        Their callbacks become the owner's: nothing but an executor's report ends them. Their tasks' rows that
        have ended are nobody's any more: those tasks settled themselves, or will be adopted by their own ids.

        Args:
            owner: the inheriting scheduler's `job_id`.
            living: all schedulers that run; others' rows are inherited, but not those of executors that have
                no scheduler (negative numbers).

        Returns:
            The inherited callbacks' keys.
        """
        c = edge_job.c
        left = sa.and_(c.edge_ws_owner > 0, c.edge_ws_owner.not_in({owner, *living}))
        callback = sa.and_(
            c.dag_id == CALLBACK_DAG_ID, c.run_id == sa.literal(f"{CALLBACK_DAG_ID}-").concat(c.task_id)
        )
        ended = sa.and_(has_ended, sa.not_(callback))
        keys = sa.select(*(c[name] for name in KEY_COLUMNS))
        with self._database.read() as connection:
            if connection.execute(keys.where(left, sa.or_(callback, ended)).limit(1)).first() is None:
                return set()
        with self._database.write() as connection:
            connection.execute(edge_job.update().where(left, ended).values(edge_ws_owner=REPORTED))
            rows = connection.execute(keys.where(left, callback).with_for_update()).all()
            inherited = {key_of(row) for row in rows}
            if inherited:
                connection.execute(edge_job.update().where(left, callback).values(edge_ws_owner=owner))
        return inherited

    def end_unwanted(
        self,
        owner: int,
        living: Collection[int],
        is_wanted: sa.ColumnElement[bool],
        team: str | None = None,
        *,
        lifeless_s: float,
    ) -> list[JobKey]:
        """End the rows that nobody holds and nothing waits for, so that they take no more slots.

        Those of the owner, of schedulers that are gone and, late, of edge3, which lets its own lie. No end of
        them is to be reported: what they were for has settled itself.

        Args:
            owner: the asking scheduler's `job_id`.
            living: all schedulers that run.
            is_wanted: the centre's condition, over the columns of `edge_job`: task or callback waits for it.
            team: only rows of this team.
            lifeless_s: so long after its last word a job that an edge3 worker has counts as lifeless.
        """
        others = {*living} - {owner}
        condition = unwanted(is_wanted, others=others, team=team, lifeless_s=lifeless_s)
        with self._database.read() as connection:
            found = connection.execute(sa.select(edge_job.c.dag_id).where(condition).limit(1)).first()
        if found is None:
            return []
        with self._database.write() as connection:
            return end_them(connection, condition)

    def revoke(self, key: JobKey) -> None:
        """Delete the row; an open claim of it becomes stale."""
        with self._database.write() as connection:
            connection.execute(edge_job.delete().where(is_job(key)))


EDGE3_OWN_S = 3600.0
"""What edge3's executor has queued is its own to end for so long, which is how long it keeps what failed."""
_END = UpdateMany(
    edge_job,
    KEY_COLUMNS,
    (),
    by_place=True,
    state=REMOVED,
    edge_ws_owner=REPORTED,
    # edge3 queues a row again without clearing our claim: in any state but queued that would be live again.
    edge_ws_claim=None,
    last_update=utc_now(),
)


def unwanted(
    is_wanted: sa.ColumnElement[bool], *, others: Collection[int], team: str | None, lifeless_s: float
) -> sa.ColumnElement[bool]:
    """Return the condition that nobody holds the row and nothing waits for it.

    Args:
        is_wanted: whether the row's task or callback waits for it, over the columns of `edge_job`.
        others: the living schedulers whose rows these are not to be.
        team: only rows of this team; None: of none.
        lifeless_s: a row of ours that an edge3 worker has is left alone for so long after its last word, as
            edge3's executor leaves its own.
    """
    c = edge_job.c
    # By this machine's clock, as edge3 writes these columns by its own.
    now = datetime.now(UTC)
    queued = c.state == sa.literal_column(f"'{QUEUED}'")
    claimed = sa.exists(sa.select(claim.c.id).where(held).correlate(edge_job))
    left = sa.and_(c.state.in_(OPEN_STATES), c.last_update < now - timedelta(seconds=lifeless_s), ~claimed)
    ours = sa.and_(c.edge_ws_owner.not_in(others), sa.or_(queued, left))
    edge3s = sa.and_(c.edge_ws_owner.is_(None), queued, c.queued_dttm < now - timedelta(seconds=EDGE3_OWN_S))
    return sa.and_(sa.or_(ours, edge3s), c.team_name.is_not_distinct_from(team), ~is_wanted)


def end_them(connection: Connection, condition: sa.ColumnElement[bool]) -> list[JobKey]:
    """End the rows that fulfil the condition and return their keys: three statements, however many.

    A row is judged again once it is locked. Whoever queues its task anew writes the row and the task's state
    in one transaction: either that is committed by then and seen, or it waits and begins a new round.
    """
    place = place_of(connection.dialect.name, edge_job)
    rows: sa.Select[Any] = sa.select(*key_columns, place.label(PLACE)).where(condition)
    locking = rows.order_by(*key_columns).with_for_update(of=edge_job, skip_locked=True)
    locked = {key_of(row) for row in connection.execute(locking)}
    still = {key: row.place for row in connection.execute(rows) if (key := key_of(row)) in locked}
    _END.run(connection, [{**key._asdict(), PLACE: place} for key, place in still.items()])
    return list(still)
