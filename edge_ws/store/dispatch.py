"""What a dispatcher does: it reads the jobs that wait, claims them for workers, and hands out wishes.

A gateway acts for no worker, so these take no Principal; what a claim may carry was decided by `Capacity`,
which holds one. What waits is read queue by queue: what waits in others, be it 50,000 rows for workers that
are gone, is not read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.store.bulk import Both, InsertMany, UpdateMany, one_of, place_of, rows_of
from edge_ws.store.claims import back_to_queue
from edge_ws.store.command import parse
from edge_ws.store.database import Database, Failed, each, fail
from edge_ws.store.faults import failed_on
from edge_ws.store.live import (
    CLAIMED,
    FAILED,
    KEY_COLUMNS,
    MANY_KEYS,
    QUEUED,
    age_s,
    held,
    is_job,
    key_columns,
    locking,
)
from edge_ws.store.queues import not_paused
from edge_ws.store.records import Assignment, Candidate, Claimed, JobKey, NewWish, WishRecord
from edge_ws.store.tables import claim, edge_job, epoch_now, utc_now, worker
from edge_ws.store.wishes import admitted, changed_wishes, read_wish

# Literals, not parameters: the index is of these rows only, and a statement that is prepared before its
# parameters are known cannot tell that it may use it.
_is_queued = edge_job.c.state == sa.literal_column("'queued'")


_KEY = len(KEY_COLUMNS)
_waiting_columns = (
    *key_columns,
    edge_job.c.queue,
    edge_job.c.concurrency_slots,
    edge_job.c.priority_weight,
    edge_job.c.team_name,
    edge_job.c.queued_dttm,
)


def read_waiting(
    connection: Connection,
    queues: Collection[str] | None,
    limit: int,
    *,
    teams: Collection[str] | None,
    widest: int | None,
) -> list[Candidate]:
    """Return queued jobs by priority and age; none of a queue that is paused.

    Args:
        connection: an open transaction.
        queues: only of these; None: of every queue.
        limit: jobs at the most.
        teams: only of these; None: of every team, and of none.
        widest: only with so many slots or less.
    """
    values: dict[str, object] = {"most": limit}
    if queues is not None:
        values["queues"] = sorted(queues)
    if teams is not None:
        values["teams"] = sorted(teams)
    if widest is not None:
        values["widest"] = widest
    query = _waiting_query(connection.dialect.name, frozenset(values))
    return [
        Candidate(
            key=JobKey._make(row[:_KEY]),
            queue=row[_KEY],
            slots=row[_KEY + 1],
            priority=row[_KEY + 2],
            team=row[_KEY + 3],
            place=row[_KEY + 4],
            waited_s=row[_KEY + 5] or 0.0,
            failed_on=frozenset(row[_KEY + 6].split(",")) if row[_KEY + 6] else frozenset(),
        )
        for row in connection.execute(query, values)
    ]


def queues_of_others(
    connection: Connection, queues: Collection[str] | None, teams: Collection[str]
) -> set[str]:
    """Return in which of the queues jobs wait that belong to none of these teams; not those that are paused.

    Args:
        connection: an open transaction.
        queues: of these; None: of all.
        teams: whose jobs do not count.
    """
    values: dict[str, object] = {"teams": sorted(teams)}
    if queues is not None:
        values["queues"] = sorted(queues)
    return set(connection.scalars(_others_query(connection.dialect.name, queues is not None), values))


@cache
def _others_query(dialect: str, some_queues: bool) -> sa.Select[Any]:
    teams: sa.BindParameter[Any] = sa.bindparam("teams", expanding=True)
    other = _is_queued, sa.or_(edge_job.c.team_name.is_(None), edge_job.c.team_name.not_in(teams))
    if some_queues and dialect == "postgresql":
        # One is enough to know: a backlog is not read.
        names = rows_of("queues", "queue")
        one = sa.exists().where(*other, edge_job.c.queue == names.c.queue)
        return sa.select(names.c.queue).where(one, not_paused(names.c.queue))
    query = sa.select(edge_job.c.queue).where(*other, not_paused(edge_job.c.queue)).distinct()
    return query.where(one_of(dialect, edge_job.c.queue, "queues")) if some_queues else query


@cache
def _waiting_query(dialect: str, given: frozenset[str]) -> sa.Select[Any]:
    """Return the statement with a parameter for each of the given; made once: that takes a millisecond."""
    place = sa.cast(place_of(dialect, edge_job), sa.Text)
    query = sa.select(*_waiting_columns, place.label("place")).where(_is_queued)
    query = query.order_by(*_in_order(edge_job.c)).limit(sa.bindparam("most", type_=sa.Integer))
    if "teams" in given:
        query = query.where(edge_job.c.team_name.in_(sa.bindparam("teams", expanding=True)))
    if "widest" in given:
        query = query.where(edge_job.c.concurrency_slots <= sa.bindparam("widest", type_=sa.Integer))
    if "queues" in given and dialect == "postgresql":
        query = _of_each(query)
    else:
        query = query.where(not_paused(edge_job.c.queue))
        query = _of_all(query, dialect) if "queues" in given else query
    found = query.subquery()
    shown = [column for column in found.c if column.name != "queued_dttm"]
    waited_s, failed = age_s(found.c.queued_dttm).label("waited_s"), failed_on(found.c).label("failed_on")
    return sa.select(*shown, waited_s, failed).order_by(*_in_order(found.c))


def _in_order(columns: sa.ColumnCollection[str, Any]) -> tuple[sa.ColumnElement[Any], ...]:
    return columns["priority_weight"].desc(), columns["queued_dttm"]


def _of_all(query: sa.Select[Any], dialect: str) -> sa.Select[Any]:
    query = query.where(one_of(dialect, edge_job.c.queue, "queues"))
    if dialect != "sqlite":
        return query
    # The sign keeps SQLite from using edge3's index, which gives the order but holds all other queues' jobs.
    sign = sa.literal_column("+edge_job.priority_weight", sa.Integer)
    return query.order_by(None).order_by(sign.desc(), edge_job.c.queued_dttm)


def _of_each(query: sa.Select[Any]) -> sa.Select[Any]:
    """Read each queue's first jobs alone, in the index's order.

    One condition for all queues would read the whole backlog of each, and sort it.
    """
    names = rows_of("queues", "queue")
    of_one = query.where(edge_job.c.queue == names.c.queue).lateral()
    found = sa.select(of_one).select_from(names.join(of_one, sa.true())).order_by(*_in_order(of_one.c))
    # Asked of the few names, not of each job.
    found = found.where(not_paused(names.c.queue))
    return found.limit(sa.bindparam("most", type_=sa.Integer))


_INSERT_CLAIMS = InsertMany(
    claim,
    ("id", *KEY_COLUMNS, "subject", "worker", "site", "slots", "log_path"),
    gateway=sa.bindparam("gateway_id", type_=claim.c.gateway.type),
    phase=Phase.OFFERED.value,
    created_at=epoch_now(),
    lease_until=epoch_now() + sa.bindparam("lease_s", type_=sa.Double),
)
_CLAIM_JOBS = UpdateMany(
    edge_job,
    KEY_COLUMNS,
    ("edge_worker", "edge_ws_claim"),
    by_place=True,
    state=CLAIMED,
    last_update=utc_now(),
)
_CLAIM = Both(_INSERT_CLAIMS, _CLAIM_JOBS)


@cache
def _open_slots_query(dialect: str) -> sa.Select[Any]:
    """Return the query for the slots of the open claims of each of the workers `names`."""
    taken = sa.select(claim.c.worker, claim.c.slots).join(edge_job, held)
    taken_here = taken.where(one_of(dialect, claim.c.worker, "names")).subquery()
    query = sa.select(worker.c.worker_name, sa.func.coalesce(sa.func.sum(taken_here.c.slots), 0))
    query = query.outerjoin(taken_here, taken_here.c.worker == worker.c.worker_name)
    return query.where(one_of(dialect, worker.c.worker_name, "names")).group_by(worker.c.worker_name)


@cache
def _lock_query(dialect: str, *, by_place: bool) -> sa.Select[Any]:
    """Return the query that locks the workers `names`, then those of the rows that are still free.

    A search by six columns for each costs ten times as much as one by places. A place may be another row's by
    now; that one has another key, and nobody has chosen it.
    """
    names = one_of(dialect, worker.c.worker_name, "names")
    workers = sa.select(worker.c.worker_name).where(names).order_by(worker.c.worker_name)
    locked = sa.select(sa.func.count()).select_from(workers.with_for_update().cte("workers"))
    place = place_of(dialect, edge_job)
    keys = sa.tuple_(*key_columns).in_(sa.bindparam("keys", expanding=True))
    there = one_of(dialect, place, "places") if by_place else keys
    query = sa.select(*key_columns, edge_job.c.command, place)
    # The count holds for any number: it is there to have the workers locked, and first.
    query = query.where(there, edge_job.c.state == QUEUED, locked.scalar_subquery() >= 0)
    # Paused since they were read.
    query = query.where(not_paused(edge_job.c.queue))
    # In key order, as everywhere: two who lock the same rows lock them in the same order.
    return query.order_by(*key_columns).with_for_update(of=edge_job, skip_locked=True)


def _take_back(connection: Connection, name: WorkerName, wish: WishRecord) -> tuple[ClaimId, ...]:
    """Free the jobs of the worker's offers that the wish does not admit; what is accepted goes on."""
    query = sa.select(claim, edge_job.c.queue).join(edge_job, held).where(claim.c.worker == name)
    rows = connection.execute(locking(query)).all()
    offered = [row for row in rows if Phase(row.phase) is Phase.OFFERED]
    if not offered:
        return ()
    slots, queues = admitted(connection, name, wish)

    def is_unwanted(row: Row[Any]) -> bool:
        return wish.takes_nothing or (queues is not None and row.queue not in queues)

    excess = sum(row.slots for row in rows) - slots
    taken_back = []
    # The newest go, but those that cannot stay first.
    for row in sorted(offered, key=lambda row: (is_unwanted(row), row.created_at), reverse=True):
        if is_unwanted(row) or excess > 0:
            back_to_queue(connection, row, "expired", "an operator wished otherwise")
            excess -= row.slots
            taken_back.append(ClaimId(row.id))
    return tuple(taken_back)


class DispatchStore:
    """What a dispatcher does: it hands out jobs, and wishes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def candidates(
        self,
        queues: Collection[str] | None,
        limit: int,
        *,
        teams: Collection[str] | None = None,
        widest: int | None = None,
    ) -> list[Candidate]:
        """Read queued rows without locks, by priority and age; none of a queue that is paused.

        Args:
            queues: only of these; None: of every queue.
            limit: rows at the most.
            teams: only of these; None: of every team, and of none.
            widest: only of so many slots or less; None: of any width.
        """
        with self._database.read() as connection:
            return read_waiting(connection, queues, limit, teams=teams, widest=widest)

    def queues_of_others(self, queues: Collection[str] | None, teams: Collection[str]) -> set[str]:
        """Return in which of the queues (None: of all) jobs wait that belong to none of these teams."""
        with self._database.read() as connection:
            return queues_of_others(connection, queues, teams)

    def claim(self, gateway_id: GatewayId, chosen: Sequence[Assignment], lease_s: float) -> list[Claimed]:
        """Claim the chosen rows by compare-and-set; leave out what others took, does not fit or is paused.

        A row whose command is no workload is failed here, so that its executor reports it.
        """
        claimed: list[Claimed] = []
        rows: list[dict[str, Any]] = []
        with self._database.write() as connection:
            taken, queued = self._lock(connection, chosen)
            for one in chosen:
                locked = queued.get(one.key)
                room = one.concurrency - one.stale_slots - taken.get(one.worker, one.concurrency)
                if locked is None or one.slots > room:
                    continue
                command, place = locked
                parsed = parse(command)
                if parsed is None:
                    self._fail_unreadable(connection, one.key)
                    continue
                claim_id = ClaimId(new_id())
                rows.append(
                    {
                        "id": claim_id,
                        **one.key._asdict(),
                        "subject": parsed.subject,
                        "worker": one.worker,
                        "site": one.site,
                        "slots": one.slots,
                        "log_path": parsed.log_path,
                        "place": place,
                        "edge_worker": one.worker,
                        "edge_ws_claim": claim_id,
                    }
                )
                claimed.append(
                    Claimed(
                        claim=claim_id,
                        key=one.key,
                        worker=one.worker,
                        site=one.site,
                        slots=one.slots,
                        payload=parsed.payload,
                    )
                )
                taken[one.worker] += one.slots
            _CLAIM.run(connection, rows, rows, gateway_id=gateway_id, lease_s=lease_s)
        return claimed

    @staticmethod
    def _lock(
        connection: Connection, chosen: Sequence[Assignment]
    ) -> tuple[dict[WorkerName, int], dict[JobKey, tuple[str, str | None]]]:
        """Lock the workers, so that no other gateway claims for them now, and those rows that are still free.

        Returns:
            The sum of the workers' open claims; the rows' commands and places.
        """
        dialect = connection.dialect.name
        names = sorted({one.worker for one in chosen})
        by_place = all(one.place is not None for one in chosen)
        query = _lock_query(dialect, by_place=by_place)
        many = len(chosen) if by_place and dialect == "postgresql" else MANY_KEYS
        found: dict[JobKey, tuple[str, str | None]] = {}
        for start in range(0, len(chosen), many):
            some = chosen[start : start + many]
            asked = {"places": [one.place for one in some]} if by_place else {"keys": [o.key for o in some]}
            for *key, command, place in connection.execute(query, {"names": names, **asked}):
                found[JobKey._make(key)] = command, place
        # Once they are locked: what another gateway has claimed for them is committed and seen.
        taken = connection.execute(_open_slots_query(dialect), {"names": names}).all()
        return {name: int(slots) for name, slots in taken}, found

    @staticmethod
    def _fail_unreadable(connection: Connection, key: JobKey) -> None:
        connection.execute(
            edge_job.update()
            .where(is_job(key), edge_job.c.state == QUEUED)
            .values(state=FAILED, last_update=utc_now())
        )

    def new_wishes(self, sent: Mapping[WorkerName, int], failed: Failed = fail) -> dict[WorkerName, NewWish]:
        """Return the wishes that these workers have not been sent; a wish without a number is given one.

        Offers that a wish does not admit are taken back with it, so that nothing of them starts after it.

        Args:
            sent: worker -> revision of the wish it was last sent.
            failed: told of a worker whose wish cannot be read.
        """
        with self._database.read() as connection:
            changed = changed_wishes(connection, sent)
        found: dict[WorkerName, NewWish] = {}
        for name in changed:
            # A transaction each: whoever holds the rows of several workers has to take them in order.
            with each(name, failed), self._database.write() as connection:
                wish = read_wish(connection, name)
                if wish is not None:
                    found[name] = NewWish(wish=wish, taken_back=_take_back(connection, name, wish))
        return found
