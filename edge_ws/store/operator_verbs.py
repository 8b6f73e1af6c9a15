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
from edge_ws.store.tables import claim, edge_job, edge_worker, worker
from edge_ws.store.wishes import join_queues, read_wish, split_queues
from edge_ws.store.worker_states import AWAY, MAINTENANCE, Event, WorkerState, after, state_of
from edge_ws.store.worker_verbs import COMMENT_LENGTH, MARK


@dataclass(slots=True)
class _Target:
    """The worker that is changed, its rows locked."""

    name: str
    is_ours: bool
    state: WorkerState
    queues: list[str] | None
    values: dict[str, Any]
    """What is to be written into `edge_worker`."""
    told: str = ""

    @property
    def kept(self) -> str:
        """What to add for a worker that is away."""
        return f"; it is {self.state.value}: kept until it connects" if self.state in AWAY else ""

    def must_be_reachable(self, doing: str) -> None:
        """Refuse what an edge3 worker that is away would overwrite when it registers."""
        if not self.is_ours and self.state in AWAY:
            raise UsageError(f"cannot {doing} {self.name}: this edge3 worker is {self.state.value}")


class OperatorVerbs:
    """What operators wish of workers, ours and edge3's."""

    _database: Database

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[Connection, _Target]]:
        """Lock the worker's rows, as everywhere ours before edge3's."""
        with self._database.write() as connection:
            ours = sa.select(worker.c.worker_name).where(worker.c.worker_name == name)
            known = connection.execute(ours.with_for_update()).one_or_none() is not None
            query = sa.select(edge_worker).where(edge_worker.c.worker_name == name)
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None:
                raise UsageError(f"no worker named {name} has connected yet; see: edge-ws list-workers")
            # Without our mark an edge3 worker has taken the name over.
            is_ours = known and MARK in (row.sysinfo or {})
            target = _Target(name, is_ours, state_of(row.state), split_queues(row.queues), {})
            yield connection, target

    @staticmethod
    def _outcome(connection: Connection, target: _Target) -> Wished:
        """Write the target's values, number the wish, and tell."""
        if target.values:
            here = edge_worker.c.worker_name == target.name
            connection.execute(edge_worker.update().where(here).values(**target.values))
        revision = read_wish(connection, WorkerName(target.name)).revision if target.is_ours else 0
        return Wished(
            worker=target.name,
            kind="edge-ws" if target.is_ours else "edge3",
            state=target.values.get("state", target.state.value),
            revision=revision,
            told=target.told,
        )

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
            target.told = f"queues {', '.join(wanted)} {only}{target.kept}"
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
            UsageError: there is no such worker, or it is shutting down.
        """
        with self._changing(name) as (connection, target):
            if target.state is WorkerState.SHUTDOWN_REQUEST:
                raise UsageError(f"{name} is shutting down")
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
            UsageError: there is no such worker, or it is not in maintenance.
        """
        with self._changing(name) as (connection, target):
            state = after(target.state, Event.EXIT_MAINTENANCE)
            if state is None and target.state is not WorkerState.MAINTENANCE_EXIT:
                raise UsageError(f"{name} is not in maintenance: it is {target.state.value}")
            if state is not None:
                target.values["state"] = state.value
            target.values["maintenance_comment"] = None
            target.told = f"end of maintenance{target.kept}"
            return self._outcome(connection, target)

    def update_maintenance_comment(self, name: str, comment: str) -> Wished:
        """Say anew why the worker is in maintenance.

        Raises:
            UsageError: there is no such worker, or it is not in maintenance.
        """
        with self._changing(name) as (connection, target):
            if target.state not in MAINTENANCE:
                raise UsageError(f"{name} is not in maintenance: it is {target.state.value}")
            target.values["maintenance_comment"] = comment[:COMMENT_LENGTH]
            target.told = f"another comment{target.kept}"
            return self._outcome(connection, target)

    def request_shutdown(self, name: str) -> Wished:
        """Wish that the worker finishes what it runs and leaves; nothing for one that is away.

        Raises:
            UsageError: there is no such worker.
        """
        with self._changing(name) as (connection, target):
            state = after(target.state, Event.REQUEST_SHUTDOWN)
            target.told = "shutdown"
            if state is not None:
                target.values["state"] = state.value
            elif target.state is not WorkerState.SHUTDOWN_REQUEST:
                target.told = f"nothing to shut down: it is {target.state.value}"
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
            kind = "edge-ws" if target.is_ours else "edge3"
            return Wished(worker=name, kind=kind, state=target.state.value, revision=0, told="removed")

    def applied(self, name: str) -> int:
        """Return the revision of the wish that the worker has last acknowledged."""
        query = sa.select(worker.c.applied_revision).where(worker.c.worker_name == name)
        with self._database.read() as connection:
            return connection.scalar(query) or 0
