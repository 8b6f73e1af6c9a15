"""The verbs of a gateway: dispatch, wishes, what the reaper settles, finished logs, purge.

A gateway acts for no worker, so these take no Principal; what a claim may carry was decided by `Capacity`,
which holds one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName, new_id
from edge_ws.protocol.states import Phase
from edge_ws.store.bulk import Both, InsertMany, UpdateMany, one_of, place_of
from edge_ws.store.command import parse
from edge_ws.store.database import Database, Failed, each, fail
from edge_ws.store.faults import forget_faults
from edge_ws.store.leftovers import forget_unclaimed, unclaimed
from edge_ws.store.live import (
    CLAIMED,
    FAILED,
    KEY_COLUMNS,
    MANY_KEYS,
    OPEN_STATES,
    QUEUED,
    REMOVED,
    REPORTED,
    find_live,
    has_ended,
    held,
    is_job,
    key_columns,
    key_of,
    locking,
    row_state,
    same_job,
    set_job,
)
from edge_ws.store.records import Assignment, Candidate, Claimed, JobKey, NewWish, OpenClaim, WishRecord
from edge_ws.store.tables import claim, edge_job, epoch_now, gateway, log, utc_now, worker
from edge_ws.store.waiting import queues_of_others, read_waiting
from edge_ws.store.wishes import admitted, changed_wishes, read_wish
from edge_ws.store.worker_verbs import back_to_queue, end_claim, open_claims

FORGOTTEN_S = 3600.0
"""After this long without a sign of life a gateway's row is deleted."""
EDGE3_S = 86_400.0
"""How much longer ended rows that edge3's executor wrote are left to its own purge (5 or 60 minutes)."""
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


class GatewayVerbs:
    """What a gateway does by itself."""

    _database: Database

    # Dispatch

    def candidates(
        self,
        queues: Collection[str] | None,
        limit: int,
        *,
        teams: Collection[str] | None = None,
        widest: int | None = None,
    ) -> list[Candidate]:
        """Read queued rows without locks, by priority and age.

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
        """Claim the chosen rows by compare-and-set; leave out what others took or what no longer fits.

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

    # Wishes

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

    # The reaper

    def expire_offers(self) -> int:
        """Free the jobs of offers whose lease is over; return how many."""
        query = sa.select(claim).join(edge_job, held)
        over = query.where(claim.c.phase == Phase.OFFERED.value, claim.c.lease_until < epoch_now())
        with self._database.read() as connection:
            if connection.execute(over.limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(locking(over)).all()
            for row in rows:
                back_to_queue(connection, row, "expired", "the offer was not answered in time")
        return len(rows)

    def unsettled(self, workers: Sequence[WorkerName] | None = None) -> tuple[OpenClaim, ...]:
        """Return accepted and started claims: the reaper judges them against the tasks' states.

        Args:
            workers: of these; None: of all.
        """
        conditions: list[sa.ColumnElement[bool]] = [
            claim.c.phase.in_((Phase.ACCEPTED.value, Phase.STARTED.value))
        ]
        with self._database.read() as connection:
            if workers is None:
                return open_claims(connection, *conditions)
            conditions.append(one_of(self._database.dialect, claim.c.worker, "workers"))
            return open_claims(connection, *conditions, workers=list(workers))

    def open_ids(self, workers: Sequence[WorkerName]) -> set[ClaimId]:
        """Return the ids of these workers' live claims."""
        with self._database.read() as connection:
            query = sa.select(claim.c.id).join(edge_job, held)
            query = query.where(one_of(self._database.dialect, claim.c.worker, "workers"))
            return {ClaimId(row.id) for row in connection.execute(query, {"workers": list(workers)})}

    def requeue(self, one: OpenClaim, detail: str) -> bool:
        """Free the job of a claim that cannot start any more; False if it has moved on meanwhile."""
        with self._database.write() as connection:
            row = self._unmoved(connection, one)
            if row is not None:
                back_to_queue(connection, row, one.result or "expired", detail)
            return row is not None

    def give_up(self, one: OpenClaim, detail: str, *, failed: bool) -> bool:
        """End a claim for good, as failed or as removed; False if it has moved on meanwhile."""
        with self._database.write() as connection:
            row = self._unmoved(connection, one)
            if row is not None:
                state = FAILED if failed else REMOVED
                end_claim(connection, row, result=one.result or "lost", state=state, detail=detail)
            return row is not None

    @staticmethod
    def _unmoved(connection: Connection, one: OpenClaim) -> Row[Any] | None:
        """Return the claim's row if it is live and still as the reaper judged it.

        A repeated `accept` renews the lease: a new token is out, and what was overdue is so no more.
        """
        row = find_live(connection, one.claim, one.worker)
        if row is None or Phase(row.phase) is not one.phase or row.result != one.result:
            return None
        overdue = connection.scalar(
            sa.select(claim.c.lease_until < epoch_now()).where(claim.c.id == one.claim)
        )
        return row if bool(overdue) == one.overdue else None

    def repair(self) -> None:
        """Undo what a writer that knows no claims has left: see `live`."""
        strange = (
            sa.select(claim, edge_job.c.state.label("job_state"))
            .join(edge_job, held)
            .where(edge_job.c.state.not_in(OPEN_STATES))
        )
        never_claimed = sa.and_(
            edge_job.c.state.in_(OPEN_STATES),
            edge_job.c.edge_worker.is_(None),
            edge_job.c.edge_ws_owner.is_not(None),
        )
        with self._database.read() as connection:
            found = connection.execute(strange.limit(1)).first()
            orphan = connection.execute(sa.select(edge_job.c.dag_id).where(never_claimed).limit(1)).first()
        if found is None and orphan is None:
            return
        with self._database.write() as connection:
            # Read again: a claim that has ended meanwhile has its job's right state.
            for row in connection.execute(locking(strange)).all():
                set_job(connection, key_of(row), row.id, state=row_state(Phase(row.phase)))
            connection.execute(
                edge_job.update().where(never_claimed).values(state=QUEUED, last_update=utc_now())
            )

    # Purge

    def purge(self, keep_s: float) -> None:
        """Delete what ended and was reported that long ago: rows of ours, claims; and gateways that are gone.

        A claim that no row carries is stale though nobody ended it: edge3 deleted its row, or queued it anew.
        Its log is no attempt's, and goes with it. Whether edge3's executor has reported a row of its own,
        nobody can tell: that one is left to it, and for long.
        """
        before = epoch_now() - keep_s
        carried = sa.and_(same_job, edge_job.c.edge_ws_claim == claim.c.id)
        carrying = sa.exists().where(carried)
        over = sa.and_(
            claim.c.ended_at < before,
            claim.c.phase == Phase.ENDED.value,
            claim.c.log_state.in_(("none", "moved")),
        )
        stale = sa.and_(claim.c.ended_at.is_(None), claim.c.created_at < before, ~carrying)
        with self._database.read() as connection:
            anything = connection.execute(sa.select(claim.c.id).where(sa.or_(over, stale)).limit(1)).first()
            left = connection.execute(sa.select(edge_job.c.dag_id).where(unclaimed(keep_s)).limit(1)).first()
        with self._database.write() as connection:
            if anything is not None:
                done = sa.select(*(claim.c[name] for name in KEY_COLUMNS)).where(over, carried)
                long_done = done.where(claim.c.ended_at < before - EDGE3_S)
                owner = edge_job.c.edge_ws_owner
                for rows, whose in ((done, owner == REPORTED), (long_done, owner.is_(None))):
                    these = sa.tuple_(*key_columns).in_(rows)
                    connection.execute(edge_job.delete().where(whose, has_ended, these))
                connection.execute(log.delete().where(log.c.claim.in_(sa.select(claim.c.id).where(stale))))
                connection.execute(claim.delete().where(sa.or_(sa.and_(over, ~carrying), stale)))
            if left is not None:
                forget_unclaimed(connection, keep_s)
            forget_faults(connection)
            connection.execute(gateway.delete().where(gateway.c.seen_at < epoch_now() - FORGOTTEN_S))
