"""The verbs with which operators change a worker: they write the wish where edge3's CLI writes it.

A worker of edge-ws acknowledges the wish by its number; one that is away finds it when it connects. Workers
of edge3 read the same columns with their next heartbeat, under edge3's rules (models/edge_worker.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import DEADLINE, WorkerName
from edge_ws.store.database import Database
from edge_ws.store.ends import change_comment, forget_maintenance, note_maintenance
from edge_ws.store.live import held
from edge_ws.store.records import Wished
from edge_ws.store.tables import claim, edge_job, edge_worker, epoch_now, maintenance, token, worker
from edge_ws.store.watch import tell
from edge_ws.store.wishes import join_queues, may_come_back, next_number, read_wish, split_queues
from edge_ws.store.worker_states import AWAY, MAINTENANCE, Event, WorkerState, after, state_of
from edge_ws.store.workers import COMMENT_LENGTH, MARK, capabilities_of


@dataclass(slots=True)
class _Target:
    """The worker that is changed, its rows locked."""

    name: str
    is_ours: bool
    state: WorkerState
    queues: list[str] | None
    values: dict[str, Any]
    """What is to be written into `edge_worker`."""
    is_leaving: bool
    """It is to shut down; away, it is told if that life of it is heard again."""
    is_silent: bool
    """It is ours and away without a goodbye: it may be running."""
    comment: str
    """Why it is in maintenance."""
    revision: int
    """Of the last wish; 0 for edge3's."""
    knows_deadlines: bool
    """It is ours, of a release that can stop its tasks at a time, and has said so to one that asks for it."""
    told: str = ""

    @property
    def kept(self) -> str:
        """What to add for a worker that is away."""
        return f"; it is {self.state.value}: kept until it connects" if self.state in AWAY else ""

    def outcome(self, revision: int) -> Wished:
        """Return what became of it; 0: nothing was wished that a worker answers."""
        return Wished(
            worker=self.name,
            kind="edge-ws" if self.is_ours else "edge3",
            state=self.values.get("state", self.state.value),
            revision=revision,
            told=self.told,
        )

    def must_be_reachable(self, doing: str) -> None:
        """Refuse what an edge3 worker that is away would overwrite when it registers."""
        if not self.is_ours and self.state in AWAY:
            raise UsageError(f"cannot {doing} {self.name}: this edge3 worker is {self.state.value}")

    def must_know_deadlines(self) -> None:
        """Refuse a deadline to a worker that would not keep it."""
        if not self.is_ours:
            raise UsageError(
                f"{self.name} is an edge3 worker, which knows no deadline: it leaves when its tasks have"
                " ended; leave the deadline out"
            )
        if not self.knows_deadlines:
            raise UsageError(
                f"{self.name} is of a release that knows no deadline, or connected to such a gateway: it"
                " leaves when its tasks have ended; leave the deadline out, or update it first"
            )


MOST_AHEAD_S = 366 * 86_400.0
"""Maintenance that ends by itself ends within so long; what is to last longer has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """When maintenance ends: one of both."""

    at: float | None = None
    """Seconds since the epoch."""
    in_s: float | None = None
    """Seconds from now, by the database's clock."""


def _moment(connection: Connection, end: End) -> float:
    """Return when that is, by the database's clock.

    Raises:
        UsageError: it is over, or too far.
    """
    now = float(connection.scalar(sa.select(epoch_now())) or 0.0)
    at = now + (end.in_s or 0.0) if end.at is None else end.at
    if at <= now:
        raise UsageError(f"until: {_utc(at)} is over: by the database's clock it is {_utc(now)}")
    if at > now + MOST_AHEAD_S:
        raise UsageError(
            f"until: {_utc(at)} is more than {MOST_AHEAD_S / 86_400:.0f} days ahead; for maintenance without"
            " an end leave it out"
        )
    return at


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


class OperatorStore:
    """What operators wish of workers, ours and edge3's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[Connection, _Target]]:
        """Lock the worker's rows, as everywhere ours before edge3's."""
        with self._database.write() as connection:
            columns = worker.c.life, worker.c.wish_shutdown, worker.c.wish_revision
            ours = sa.select(*columns).where(worker.c.worker_name == name)
            known = connection.execute(ours.with_for_update()).one_or_none()
            query = sa.select(edge_worker).where(edge_worker.c.worker_name == name)
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None:
                raise UsageError(f"no worker named {name} has connected yet; see: edge-ws list-workers")
            # Without our mark an edge3 worker has taken the name over.
            is_ours = known is not None and MARK in (row.sysinfo or {})
            state = state_of(row.state)
            yield (
                connection,
                _Target(
                    name=name,
                    is_ours=is_ours,
                    state=state,
                    queues=split_queues(row.queues),
                    values={},
                    is_leaving=state is WorkerState.SHUTDOWN_REQUEST
                    or (is_ours and may_come_back(known, state)),
                    is_silent=is_ours and state in AWAY and known is not None and known.life is not None,
                    comment=row.maintenance_comment or "",
                    revision=known.wish_revision if known is not None else 0,
                    knows_deadlines=is_ours and DEADLINE in capabilities_of(row.sysinfo or {}),
                ),
            )

    @staticmethod
    def _outcome(connection: Connection, target: _Target) -> Wished:
        """Write the target's values, number the wish, and tell."""
        if target.values:
            here = edge_worker.c.worker_name == target.name
            connection.execute(edge_worker.update().where(here).values(**target.values))
        wish = read_wish(connection, WorkerName(target.name)) if target.is_ours else None
        return target.outcome(wish.revision if wish is not None else 0)

    def wish_concurrency(self, name: str, concurrency: int) -> Wished:
        """Wish for so many slots; 0 pauses a worker of ours.

        Raises:
            UsageError: there is no such worker; or it is edge3's, and away or to be paused.
        """
        with self._changing(name) as (connection, target):
            target.must_be_reachable("set the concurrency of")
            if concurrency == 0 and not target.is_ours:
                raise UsageError(f"{name} is an edge3 worker, whose concurrency is 1 or more")
            target.values["concurrency"] = concurrency
            target.told = f"concurrency {concurrency}{target.kept}"
            return self._outcome(connection, target)

    def add_queues(self, name: str, queues: Sequence[str]) -> Wished:
        """Wish that the worker serves these queues, too; one that serves every queue serves only them then.

        Raises:
            UsageError: there is no such worker, or it is edge3's and away.
        """
        with self._changing(name) as (connection, target):
            target.must_be_reachable("add queues to")
            wanted = list(dict.fromkeys([*(target.queues or []), *queues]))
            target.values["queues"] = join_queues(wanted)
            only = "only, no longer every queue" if target.queues is None else "now"
            limits = _token_limits(connection, target, queues)
            target.told = f"queues {', '.join(wanted)} {only}{limits}{target.kept}"
            return self._outcome(connection, target)

    def remove_queues(self, name: str, queues: Sequence[str]) -> Wished:
        """Wish that the worker serves these queues no more.

        Raises:
            UsageError: there is no such worker, it is edge3's and away, or no queue would be left.
        """
        with self._changing(name) as (connection, target):
            target.must_be_reachable("remove queues from")
            if target.queues is None:
                raise UsageError(
                    f"{name} serves every queue; say which ones it shall serve: edge-ws add-worker-queues"
                )
            left = [queue for queue in target.queues if queue not in queues]
            if not left:
                raise UsageError(
                    f"{name} would have no queue left, which means every queue;"
                    " to give it no jobs: edge-ws set-worker-concurrency -c 0"
                )
            target.values["queues"] = join_queues(left)
            target.told = f"queues {', '.join(left)} now{target.kept}"
            return self._outcome(connection, target)

    def request_maintenance(
        self, name: str, comment: str, *, end: End | None = None, by: str | None = None
    ) -> Wished:
        """Wish that the worker takes nothing new, and stays; where it is so already, change comment and end.

        Args:
            name: the worker's.
            comment: why.
            end: when gateways end it; None: never.
            by: who wishes it, if that is known.

        Raises:
            UsageError: there is no such worker, it is shutting down, it is edge3's and silent, or the end is
                over or too far.
        """
        with self._changing(name) as (connection, target):
            if target.is_leaving:
                raise UsageError(f"{name} is shutting down")
            if target.state is WorkerState.UNKNOWN:
                # One that has left reads it when it starts; one that was only silent does not.
                target.must_be_reachable("request maintenance of")
            if target.state not in MAINTENANCE:
                state = after(target.state, Event.REQUEST_MAINTENANCE)
                assert state is not None
                target.values["state"] = state.value
            kept = comment[:COMMENT_LENGTH]
            target.values["maintenance_comment"] = kept
            ends_at = _moment(connection, end) if end is not None else None
            note_maintenance(connection, name, kept, by=by, ends_at=ends_at)
            until = "" if ends_at is None else f" until {_utc(ends_at)}, when it ends by itself"
            target.told = f"maintenance{until}{target.kept}"
            return self._outcome(connection, target)

    def exit_maintenance(self, name: str) -> Wished:
        """Wish that the worker takes jobs again.

        Raises:
            UsageError: there is no such worker, it is not in maintenance, or it is shutting down.
        """
        with self._changing(name) as (connection, target):
            if target.is_leaving:
                raise UsageError(f"{name} is shutting down")
            state = after(target.state, Event.EXIT_MAINTENANCE)
            if state is None and target.state is not WorkerState.MAINTENANCE_EXIT:
                raise UsageError(f"{name} is not in maintenance: it is {target.state.value}")
            if state is not None:
                target.values["state"] = state.value
            target.values["maintenance_comment"] = None
            forget_maintenance(connection, name)
            target.told = f"end of maintenance{target.kept}"
            return self._outcome(connection, target)

    def update_maintenance_comment(self, name: str, comment: str, by: str | None = None) -> Wished:
        """Say anew why the worker is in maintenance.

        Args:
            name: the worker's.
            comment: takes the old one's place.
            by: a line that says who says so; with it the old one's first line stays in front, as at edge3's
                page, as far as there is room.

        Raises:
            UsageError: there is no such worker, it is not in maintenance, or the comment is too long.
        """
        with self._changing(name) as (connection, target):
            if target.state not in MAINTENANCE:
                raise UsageError(f"{name} is not in maintenance: it is {target.state.value}")
            new = comment if by is None else f"{by}\n{comment}"
            room = COMMENT_LENGTH - len(new)
            if room < 0:
                raise UsageError(f"the comment, with who says so, is {-room} characters too long")
            first = target.comment.split("\n", 1)[0][: max(0, room - 1)] if by is not None else ""
            said = f"{first}\n{new}" if first else new
            target.values["maintenance_comment"] = said
            change_comment(connection, name, target.comment, said)
            target.told = f"another comment{target.kept}"
            return self._outcome(connection, target)

    def request_shutdown(self, name: str, deadline_s: float | None = None) -> Wished:
        """Wish that the worker finishes what it runs and leaves; nothing for one that has left.

        It is for the worker's present life: one that is silent is told if it is heard again.

        Args:
            name: the worker's.
            deadline_s: seconds from now after which it stops what still runs; None: never, or as it was
                wished before. The last one counts.

        Raises:
            UsageError: there is no such worker, or it knows no deadline.
        """
        with self._changing(name) as (connection, target):
            ours: dict[str, Any] = {}
            if deadline_s is not None:
                target.must_know_deadlines()
                ours["wish_deadline"] = epoch_now() + deadline_s
            elif target.is_ours and not target.is_leaving:
                # Of a shutdown that is over.
                ours["wish_deadline"] = None
            after_s = "" if deadline_s is None else f"; what still runs in {deadline_s:g} s is stopped"
            target.told = f"shutdown{after_s}{target.kept}"
            state = after(target.state, Event.REQUEST_SHUTDOWN)
            if state is not None:
                target.values["state"] = state.value
            elif target.is_silent and not target.is_leaving:
                ours |= {"wish_shutdown": True, **next_number(target.revision)}
            elif not target.is_leaving:
                target.told = f"nothing to shut down: it is {target.state.value}"
                return target.outcome(0)
            elif deadline_s is not None:
                # Nothing else has changed that would be told under a new number.
                ours |= next_number(target.revision)
                # No trigger sees it: it is in our own table alone.
                tell(connection, "w", name)
            if ours:
                connection.execute(worker.update().where(worker.c.worker_name == name).values(ours))
            return self._outcome(connection, target)

    def remove_worker(self, name: str) -> Wished:
        """Forget a worker that is away, and what was wished of it.

        Raises:
            UsageError: there is no such worker, it is not away, or it still holds jobs.
        """
        with self._changing(name) as (connection, target):
            if target.state not in AWAY:
                raise UsageError(f"cannot remove {name}: it is {target.state.value}; shut it down first")
            jobs = sa.select(sa.func.count()).select_from(claim.join(edge_job, held))
            if held_by_it := connection.scalar(jobs.where(claim.c.worker == name)):
                raise UsageError(
                    f"cannot remove {name}: it still holds {held_by_it} jobs, which may be running there;"
                    " see: edge-ws show-worker"
                )
            for table in (worker, edge_worker, maintenance):
                connection.execute(table.delete().where(table.c.worker_name == name))
            target.told = "removed"
            return target.outcome(0)

    def applied(self, name: str) -> int:
        """Return the revision of the wish that the worker has last acknowledged."""
        query = sa.select(worker.c.applied_revision).where(worker.c.worker_name == name)
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def all_applied(self) -> dict[str, int]:
        """Return the same of every worker of ours, by name."""
        query = sa.select(worker.c.worker_name, worker.c.applied_revision)
        with self._database.read() as connection:
            return {row.worker_name: row.applied_revision for row in connection.execute(query)}


def _token_limits(connection: Connection, target: _Target, queues: Sequence[str]) -> str:
    """Return what to add where the token by which the worker last came keeps jobs of these queues from it."""
    if not target.is_ours:
        return ""
    query = sa.select(token.c.queues).join(worker, worker.c.token_id == token.c.id)
    admitted = connection.scalar(query.where(worker.c.worker_name == target.name))
    if admitted is None or not (excluded := [queue for queue in queues if queue not in admitted]):
        return ""
    named = f"queue{'' if len(admitted) == 1 else 's'} {', '.join(admitted)}"
    return f"; its token admits only {named}: no jobs of {', '.join(excluded)}"
