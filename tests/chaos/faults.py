"""Faults, each at a random moment and healed after a random while. One seed makes one plan (not one history)."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from edge_ws.errors import UnreachableError
from edge_ws.store.live import OPEN_STATES, REPORTED, is_job, key_of
from edge_ws.store.operators import OperatorStore
from edge_ws.store.records import Wished
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_job, utc_now
from tests.chaos.fleet import Fleet, Program, Worker

Heal = Callable[[], None]


@dataclass(frozen=True)
class Done:
    """What a fault did; `heal`, if there is one, undoes it after `heal_s`."""

    what: str
    heal: Heal | None = None
    heal_s: float = 0.0
    victim: Program | None = None
    """Who is down until then."""


class NotYet(Exception):  # noqa: N818 - never leaves the tests
    """A fault cannot be healed while another one lasts."""


class Faults:
    """Makes faults on a fleet; `random` decides which and on whom."""

    def __init__(self, fleet: Fleet, random_: random.Random, counts: dict[str, int]) -> None:
        self._fleet = fleet
        self._random = random_
        self._down = False
        self._maintained: set[str] = set()
        self._counts = counts
        self._kinds: dict[str, tuple[int, Callable[[], Done | None]]] = {
            "gateway killed": (4, self._kill_gateway),
            "gateway frozen": (3, self._freeze_gateway),
            "gateway restarted": (1, self._restart_gateway),
            "daemon killed": (4, self._kill_daemon),
            "daemon frozen": (3, self._freeze_daemon),
            "host killed": (3, self._kill_host),
            "host frozen": (3, self._freeze_host),
            "machine killed": (1, self._kill_machine),
            "LISTEN terminated": (2, self._terminate_listening),
            "backend terminated": (2, self._terminate_one),
            "backends terminated": (2, self._terminate_all),
            "backend crashed": (1, self._crash_backend),
            "database restarted": (2, lambda: self._restart_database(signal.SIGINT)),
            "database crashed": (2, lambda: self._restart_database(signal.SIGQUIT)),
            "links cut": (3, self._cut),
            "links silent": (3, self._silence),
            "row queued": (2, lambda: self._write_row(state="queued")),
            "row patched": (3, lambda: self._write_row(state=self._random.choice(["success", "failed"]))),
            "row deleted": (2, self._delete_row),
            "other slots": (2, self._wish_slots),
            "maintenance": (2, self._wish_maintenance),
        }

    def names(self, number: int) -> list[str]:
        """Choose some."""
        names = list(self._kinds)
        return self._random.choices(names, [weight for weight, _ in self._kinds.values()], k=number)

    def counts(self) -> dict[str, int]:
        """Return how often each kind was made, those that never were too."""
        return {name: self._counts.get(name, 0) for name in self._kinds}

    def make(self, name: str) -> Done | None:
        """Make one now; None if there was nothing to make it on."""
        done = self._kinds[name][1]()
        if done is not None:
            self._counts[name] = self._counts.get(name, 0) + 1
        return done

    def _while_s(self, longest_s: float, shortest_s: float = 0.0) -> float:
        # Mostly short: what is interesting happens while others still believe in the victim.
        return shortest_s + self._random.choice([0.0, 0.3 * longest_s, longest_s]) * self._random.random()

    # Processes

    def _kill(self, one: Program, number: signal.Signals) -> Done | None:
        if not one.is_running:
            return None
        if number is signal.SIGKILL:
            one.kill()
        else:
            one.signal(number)

        def heal() -> None:
            one.signal(signal.SIGCONT)
            if one.popen is not None and number is not signal.SIGKILL:
                one.popen.wait(20)
            if not one.is_running:
                one.start()

        return Done(f"{one.name} {number.name}", heal, self._while_s(3.0), one)

    def _freeze(self, one: Program) -> Done | None:
        if not one.is_running:
            return None
        one.signal(signal.SIGSTOP)
        return Done(f"{one.name} SIGSTOP", lambda: one.signal(signal.SIGCONT), self._while_s(8.0, 0.2))

    def _kill_gateway(self) -> Done | None:
        return self._kill(self._random.choice(self._fleet.gateways), signal.SIGKILL)

    def _restart_gateway(self) -> Done | None:
        return self._kill(self._random.choice(self._fleet.gateways), signal.SIGTERM)

    def _freeze_gateway(self) -> Done | None:
        return self._freeze(self._random.choice(self._fleet.gateways))

    def _kill_daemon(self) -> Done | None:
        return self._kill(self._random.choice(self._fleet.workers), signal.SIGKILL)

    def _freeze_daemon(self) -> Done | None:
        return self._freeze(self._random.choice(self._fleet.workers))

    def _host(self) -> tuple[Worker, str, int] | None:
        worker = self._random.choice(self._fleet.workers)
        hosts = sorted(worker.hosts().items())
        return (worker, *self._random.choice(hosts)) if hosts else None

    def _kill_host(self) -> Done | None:
        found = self._host()
        if found is None:
            return None
        worker, host, pid = found
        os.kill(pid, signal.SIGKILL)
        return Done(f"{worker.name}'s host {host} SIGKILL")

    def _freeze_host(self) -> Done | None:
        found = self._host()
        if found is None:
            return None
        worker, host, pid = found
        os.kill(pid, signal.SIGSTOP)

        def heal() -> None:
            if worker.hosts().get(host) == pid:
                os.kill(pid, signal.SIGCONT)

        return Done(f"{worker.name}'s host {host} SIGSTOP", heal, self._while_s(8.0, 0.2))

    def _kill_machine(self) -> Done | None:
        """All that lives of a site dies at once."""
        worker = self._random.choice(self._fleet.workers)
        if not worker.is_running:
            return None
        worker.kill_all()
        return Done(f"{worker.name} and all its processes SIGKILL", worker.start, self._while_s(3.0), worker)

    # PostgreSQL

    def _backends(self, condition: str = "true") -> list[int]:
        query = sa.text(
            "SELECT pid FROM pg_stat_activity"
            f" WHERE application_name <> 'chaos' AND datname IS NOT NULL AND {condition}"
        )
        with self._fleet.engine.connect() as connection:
            return sorted(connection.scalars(query))

    def _terminate(self, pids: list[int]) -> Done | None:
        if not pids:
            return None
        with self._fleet.engine.begin() as connection:
            for pid in pids:
                connection.execute(sa.select(sa.func.pg_terminate_backend(pid)))
        return Done(f"{len(pids)} backends terminated")

    def _terminate_listening(self) -> Done | None:
        pids = self._backends("query LIKE 'LISTEN %'")
        done = self._terminate([self._random.choice(pids)] if pids else [])
        return done and Done("a listening backend terminated")

    def _terminate_one(self) -> Done | None:
        pids = self._backends()
        return self._terminate([self._random.choice(pids)] if pids else [])

    def _terminate_all(self) -> Done | None:
        return self._terminate(self._backends())

    def _crash_backend(self) -> Done | None:
        pids = self._backends()
        if not pids:
            return None
        with suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)
        return Done("a backend SIGKILL: the server ends them all and recovers")

    def _restart_database(self, how: signal.Signals) -> Done | None:
        if self._down:
            return None
        self._down = True
        self._fleet.postgres.stop(how)

        def heal() -> None:
            self._fleet.postgres.restart()
            self._down = False

        return Done(f"PostgreSQL {how.name}", heal, self._while_s(4.0))

    # Links

    def _cut(self) -> Done | None:
        return Done(f"{self._fleet.forwarder.cut()} links cut")

    def _silence(self) -> Done | None:
        forwarder = self._fleet.forwarder
        forwarder.silence()
        # What was held is delivered late, or never.
        heal = self._random.choice([forwarder.resume, lambda: forwarder.cut() and None])
        return Done("links silent", heal, self._while_s(8.0, 0.2))

    # Operators

    def _wish_slots(self) -> Done:
        worker = self._random.choice(self._fleet.workers)
        slots = self._random.randrange(worker.slots)
        Store(self._fleet.engine).operators.wish_concurrency(worker.name, slots)
        heal = partial(self._wish, OperatorStore.wish_concurrency, worker.name, worker.slots)
        return Done(f"{worker.name} is to have {slots} slots", heal, self._while_s(4.0))

    def _wish_maintenance(self) -> Done | None:
        worker = self._random.choice(self._fleet.workers)
        if worker.name in self._maintained:
            return None
        Store(self._fleet.engine).operators.request_maintenance(worker.name, "chaos")
        self._maintained.add(worker.name)

        def heal() -> None:
            self._wish(OperatorStore.exit_maintenance, worker.name)
            self._maintained.discard(worker.name)

        return Done(f"{worker.name} is to be in maintenance", heal, self._while_s(4.0))

    def _wish(self, verb: Callable[..., Wished], worker: str, *more: int) -> None:
        try:
            verb(Store(self._fleet.engine).operators, worker, *more)
        except UnreachableError as error:
            raise NotYet from error

    # Writers that know no claims

    def _write_row(self, **values: object) -> Done | None:
        with self._fleet.engine.begin() as connection:
            rows = connection.execute(
                sa.select(edge_job)
                .where(edge_job.c.state.in_(OPEN_STATES), edge_job.c.edge_ws_claim.is_not(None))
                .order_by(edge_job.c.run_id)
                .with_for_update()
            ).all()
            if not rows:
                return None
            key = key_of(self._random.choice(rows))
            self._fleet.centre.meddle(key)
            connection.execute(edge_job.update().where(is_job(key)).values(last_update=utc_now(), **values))
        return Done(f"row of {key.run_id} made {values['state']}")

    def _delete_row(self) -> Done | None:
        with self._fleet.engine.begin() as connection:
            query = sa.select(edge_job).where(edge_job.c.edge_ws_owner != REPORTED)
            rows = connection.execute(query.order_by(edge_job.c.run_id).with_for_update()).all()
            if not rows:
                return None
            row = self._random.choice(rows)
            key = key_of(row)
            self._fleet.centre.meddle(key)
            connection.execute(edge_job.delete().where(is_job(key)))
        return Done(f"row of {key.run_id}, {row.state}, deleted")
