"""The verbs with which operators change a worker: they write the wish where edge3's CLI writes it.

A worker of edge-ws acknowledges the wish by its number; one that is away finds it when it connects. Workers
of edge3 read the same columns with their next heartbeat, under edge3's rules (models/edge_worker.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import WorkerName
from edge_ws.store.database import Database
from edge_ws.store.live import held
from edge_ws.store.records import Wished
from edge_ws.store.tables import claim, edge_job, edge_worker, token, worker
from edge_ws.store.wishes import join_queues, may_come_back, next_number, read_wish, split_queues
from edge_ws.store.worker_states import AWAY, MAINTENANCE, Event, WorkerState, after, state_of
from edge_ws.store.workers import COMMENT_LENGTH, MARK


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

    def request_maintenance(self, name: str, comment: str) -> Wished:
        """Wish that the worker takes nothing new, and stays; where it is so already, change the comment.

        Raises:
            UsageError: there is no such worker, it is shutting down, or it is edge3's and silent.
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
            target.values["maintenance_comment"] = comment[:COMMENT_LENGTH]
            target.told = f"maintenance{target.kept}"
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
            target.values["maintenance_comment"] = f"{first}\n{new}" if first else new
            target.told = f"another comment{target.kept}"
            return self._outcome(connection, target)

    def request_shutdown(self, name: str) -> Wished:
        """Wish that the worker finishes what it runs and leaves; nothing for one that has left.

        It is for the worker's present life: one that is silent is told if it is heard again.

        Raises:
            UsageError: there is no such worker.
        """
        with self._changing(name) as (connection, target):
            target.told = f"shutdown{target.kept}"
            state = after(target.state, Event.REQUEST_SHUTDOWN)
            if state is not None:
                target.values["state"] = state.value
            elif target.is_silent and not target.is_leaving:
                one_more = {"wish_shutdown": True, **next_number(target.revision)}
                connection.execute(worker.update().where(worker.c.worker_name == name).values(one_more))
            elif not target.is_leaving:
                target.told = f"nothing to shut down: it is {target.state.value}"
                return target.outcome(0)
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
            for table in (worker, edge_worker):
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
