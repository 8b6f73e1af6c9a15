"""Any interleaving of verbs and of foreign writes: the real store and the model of the simulation agree after each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_ws.protocol.ids import HOST, UNSURE, ClaimId, GatewayId, HostId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.records import Assignment, JobKey, OpenClaim
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job, edge_worker, epoch_now, gateway, log, worker
from tests.simulation.model_store import ModelStore, Rules
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, new_job

LONG_S = 1e6
"""A lease that only ends when a rule says so."""
JOBS = 3
OWNERS = (7, 8)
WORKERS = ("w1", "w2")
HOSTS = ("h1", "h2")
END_STATES = ("success", "failed", "removed", "up_for_retry")
RULES = Rules()
"""What the real store does not do yet."""
GATEWAY = GatewayId("g1")

jobs = st.integers(0, JOBS - 1)
names = st.sampled_from(WORKERS)
hosts = st.sampled_from(HOSTS)
picks = st.integers(0, 999)


class Machine(RuleBasedStateMachine):
    """Two stores, the same verbs."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__()
        self._engine = engine
        self._names: dict[JobKey, ClaimId] = {}
        self._now = 0.0
        self.real = Store(engine)
        self.model = ModelStore(lambda: self._now, self._names.__getitem__, RULES)
        self.claims: list[tuple[ClaimId, str]] = []
        self.reads: list[OpenClaim] = []
        self.rounds = 0
        self.connections: dict[str, tuple[str, str]] = {}
        with engine.begin() as connection:
            for table in (edge_job, edge_worker, claim, log, worker, gateway):
                connection.execute(table.delete())

    # Helpers

    def _both(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        one, other = attrgetter(verb)(self.real), attrgetter(verb)(self.model)
        return self._same(verb, one, other, *args, **kwargs)

    def _both_told(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        one, other = (getattr(SingleReports(store.reports), verb) for store in (self.real, self.model))
        return self._same(verb, one, other, *args, **kwargs)

    @staticmethod
    def _same(
        verb: str, real: Callable[..., Any], model: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        told, modelled = real(*args, **kwargs), model(*args, **kwargs)
        assert told == modelled, f"{verb}{args}: {told} is not {modelled}"
        return told

    def _write(self, statement: sa.Update | sa.Delete) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)

    def _fake(self, name: str) -> FakeWorker:
        return FakeWorker(
            self.real, name=name, concurrency=3, site=f"site-{name}", host=HostId("h1"), gateway="g1"
        )

    def _job(self, index: int, *, fresh: bool, owner: int = OWNERS[0]) -> Any:
        """The job's workload: a fresh one is for another task instance (it was cleared), else the same one's next round."""
        self.rounds += fresh
        return new_job(f"t{index}", ti_id=f"ti{index}-{self.rounds}", slots=1 + index, owner=owner)

    @staticmethod
    def _row(index: int) -> sa.ColumnElement[bool]:
        return edge_job.c.task_id == f"t{index}"

    @initialize()
    def two_workers(self) -> None:
        for name in WORKERS:
            self.registers(name)

    # The executor

    @rule(job=jobs, fresh=st.booleans(), owner=st.sampled_from(OWNERS))
    def enqueue(self, job: int, fresh: bool, owner: int) -> None:
        it = self._job(job, fresh=fresh, owner=owner)
        with self._engine.begin() as connection:
            self.real.jobs.enqueue(connection, it)
        self.model.enqueue(it)

    @rule(job=jobs)
    def revoke(self, job: int) -> None:
        self._both("jobs.revoke", self._job(job, fresh=False).key)

    @rule(job=jobs, owner=st.sampled_from(OWNERS), right=st.booleans())
    def adopt(self, job: int, owner: int, right: bool) -> None:
        key = self._job(job, fresh=False).key
        row = self.model.rows.get(key)
        subject = row.subject if row is not None and right else "another"
        self._both("jobs.adopt", owner, {key: subject})

    @rule(owner=st.sampled_from(OWNERS), all_=st.booleans())
    def report(self, owner: int, all_: bool) -> None:
        ended = sorted(self.real.jobs.ended(owner), key=lambda one: one.key)
        assert ended == sorted(self.model.ended(owner), key=lambda one: one.key)
        self._both("jobs.reported", owner, [one.key for one in (ended if all_ else ended[:1])])
        self._both("jobs.owned", owner)

    # edge3

    @rule(job=jobs, fresh=st.booleans())
    def edge3_queues(self, job: int, fresh: bool) -> None:
        it = self._job(job, fresh=fresh)
        if it.key not in self.model.rows:
            return
        self._write(
            edge_job.update()
            .where(self._row(job))
            .values(state="queued", command=it.command, concurrency_slots=it.slots)
        )
        self.model.edge3_enqueue(it)

    @rule(job=jobs)
    def edge3_fetches(self, job: int) -> None:
        queued = edge_job.c.state == "queued"
        self._write(
            edge_job.update().where(self._row(job), queued).values(state="restarting", edge_worker="e1")
        )
        self.model.edge3_fetch("e1", self._job(job, fresh=False).key)

    @rule(job=jobs, state=st.sampled_from((*END_STATES, "running")))
    def edge3_patches(self, job: int, state: str) -> None:
        self._write(edge_job.update().where(self._row(job)).values(state=state))
        self.model.edge3_patch(self._job(job, fresh=False).key, state)

    @rule(job=jobs)
    def edge3_deletes(self, job: int) -> None:
        self._write(edge_job.delete().where(self._row(job)))
        self.model.edge3_delete(self._job(job, fresh=False).key)

    @rule(job=jobs)
    def edge3_forgets_who_has_it(self, job: int) -> None:
        """A row that is claimed, says its state, by nobody: no writer known to us leaves one, psql may."""
        self._write(edge_job.update().where(self._row(job)).values(state="restarting", edge_worker=None))
        row = self.model.rows.get(self._job(job, fresh=False).key)
        if row is not None:
            row.state, row.worker = "restarting", None

    # Dispatch

    @rule(chosen=st.lists(st.tuples(jobs, names), min_size=1, max_size=3, unique_by=lambda one: one[0]))
    def claim_some(self, chosen: list[tuple[int, str]]) -> None:
        candidates = self.real.dispatch.candidates({"q"}, 10)
        places = {one.key: one.place for one in candidates}
        seen = [(one.key, one.slots) for one in candidates]
        assert sorted(seen) == sorted((one.key, one.slots) for one in self.model.candidates({"q"}, 10))
        wanted: list[Assignment] = []
        for job, name in chosen:
            it = self._job(job, fresh=False)
            wanted.append(replace(self._fake(name).assignment(it), place=places.get(it.key)))
        claimed = self.real.dispatch.claim(GATEWAY, wanted, LONG_S)
        self._names.clear()
        self._names.update({one.key: one.claim for one in claimed})
        modelled = self.model.claim(GATEWAY, wanted, LONG_S)
        assert sorted((one.claim, one.worker, one.slots) for one in claimed) == sorted(
            (one.claim, one.worker, one.slots) for one in modelled
        )
        self.claims += [(one.claim, one.worker) for one in claimed]

    # A worker's reports, of claims new and old, by their worker or by the other

    def _about(self, pick: int, wrong_worker: bool) -> tuple[Any, ClaimId]:
        # The newest are the likeliest.
        claim_id, name = self.claims[-1 - pick % min(len(self.claims), 6)]
        if wrong_worker:
            name = next(other for other in WORKERS if other != name)
        return self._fake(name).principal, claim_id

    has_claims = precondition(lambda self: self.claims)
    wrong = st.sampled_from((False, False, False, False, True))

    @has_claims
    @rule(pick=picks, wrong_worker=wrong, host=hosts)
    def accept(self, pick: int, wrong_worker: bool, host: str) -> None:
        self._both_told("accept", *self._about(pick, wrong_worker), HostId(host), start_within_s=LONG_S)

    @has_claims
    @rule(pick=picks, wrong_worker=wrong)
    def refuse(self, pick: int, wrong_worker: bool) -> None:
        self._both_told("refuse", *self._about(pick, wrong_worker), "full")

    @has_claims
    @rule(pick=picks, wrong_worker=wrong, host=st.sampled_from((*HOSTS, None)))
    def started(self, pick: int, wrong_worker: bool, host: str | None) -> None:
        self._both_told("started", *self._about(pick, wrong_worker), HostId(host) if host else None)

    @has_claims
    @rule(pick=picks, wrong_worker=wrong, code=st.sampled_from((0, 1)))
    def finished(self, pick: int, wrong_worker: bool, code: int) -> None:
        self._both_told("finished", *self._about(pick, wrong_worker), code, "it ended", log_uploaded=False)

    @has_claims
    @rule(pick=picks, wrong_worker=wrong, fault=st.sampled_from(("", HOST, UNSURE)))
    def not_started(self, pick: int, wrong_worker: bool, fault: str) -> None:
        self._both_told("not_started", *self._about(pick, wrong_worker), "409", fault)

    @has_claims
    @rule(pick=picks, wrong_worker=wrong)
    def unknown(self, pick: int, wrong_worker: bool) -> None:
        self._both_told("unknown", *self._about(pick, wrong_worker))

    @has_claims
    @rule(pick=picks, wrong_worker=wrong, offset=st.integers(0, 6), size=st.integers(0, 6))
    def log_bytes(self, pick: int, wrong_worker: bool, offset: int, size: int) -> None:
        data = bytes(range(65 + offset, 65 + offset + size))
        self._both_told("append_log", *self._about(pick, wrong_worker), offset, data)

    @rule(name=names, host=hosts)
    def host_dead(self, name: str, host: str) -> None:
        principal = self._fake(name).principal
        told = self.real.workers.host_dead(principal, HostId(host))
        assert sorted(told) == sorted(self.model.host_dead(principal, HostId(host)))

    @rule(name=names)
    def registers(self, name: str) -> None:
        fake = self._fake(name)
        told = fake.register()
        real, self.real = self.real, self.model  # type: ignore[assignment]
        fake.store = self.model  # type: ignore[assignment]
        modelled = fake.register()
        self.real = real
        assert _comparable(told.open) == _comparable(modelled.open)
        self.connections[name] = (told.connection, modelled.connection)

    @rule(name=names, old=st.booleans())
    def disconnects(self, name: str, old: bool) -> None:
        real, modelled = ("old", "old") if old else self.connections[name]
        principal = self._fake(name).principal
        self.real.workers.disconnected(principal, real, left=None)
        self.model.disconnected(principal, modelled, left=None)

    # The reaper

    @has_claims
    @rule(pick=picks)
    def a_lease_ends(self, pick: int) -> None:
        _, claim_id = self._about(pick, wrong_worker=False)
        leased = self.model.claims_by_id[claim_id]
        if leased.lease_until is not None:
            self._write(claim.update().where(claim.c.id == claim_id).values(lease_until=epoch_now() - 1))
            leased.lease_until = self._now - 1

    @rule()
    def offers_expire(self) -> None:
        self._both("claims.expire_offers")

    @rule()
    def repair(self) -> None:
        self._both("claims.repair")

    @rule()
    def the_reaper_reads(self) -> None:
        read = self.real.claims.unsettled()
        assert _comparable(read) == _comparable(self.model.unsettled())
        self.reads += read

    @precondition(lambda self: self.reads)
    @rule(pick=picks, what=st.sampled_from(("requeue", "fail", "remove")))
    def the_reaper_acts(self, pick: int, what: str) -> None:
        """On what it has read, now or long ago."""
        one = self.reads[-1 - pick % min(len(self.reads), 4)]
        if what == "requeue":
            self._both("claims.requeue", one, "it cannot start")
        else:
            self._both("claims.give_up", one, "it is over", failed=what == "fail")

    # What must hold

    @invariant()
    def they_agree(self) -> None:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(edge_job)).all()
            claims = connection.execute(
                sa.select(claim, (claim.c.lease_until < epoch_now()).label("overdue"))
            ).all()
            chunks = connection.execute(sa.select(log).order_by(log.c.claim, log.c.log_offset)).all()
        shown = {
            row.task_id: (
                row.state,
                row.edge_worker,
                row.edge_ws_claim,
                row.edge_ws_owner,
                row.concurrency_slots,
            )
            for row in rows
        }
        assert shown == {
            key.task_id: (row.state, row.worker, row.claim, row.owner, row.slots)
            for key, row in self.model.rows.items()
        }
        assert {
            row.id: (row.worker, row.host, row.phase, row.result, row.slots, row.log_end, _late(row))
            for row in claims
        } == {
            one.id: (
                one.worker,
                one.host,
                one.phase.value,
                one.result,
                one.slots,
                len(one.log),
                one.phase is not Phase.ENDED and one.lease_until is not None and one.lease_until < self._now,
            )
            for one in self.model.claims_by_id.values()
        }
        written: dict[str, bytes] = {}
        for chunk in chunks:
            assert chunk.log_offset == len(written.get(chunk.claim, b""))
            written[chunk.claim] = written.get(chunk.claim, b"") + chunk.data
        assert written == {one.id: bytes(one.log) for one in self.model.claims_by_id.values() if one.log}

    @invariant()
    def one_live_claim_a_row_and_no_worker_overfull(self) -> None:
        held = self.model.open()
        assert len({one.key for one in held}) == len(held)
        for name in WORKERS:
            assert self.model.slots(WorkerName(name)) <= 3


def _late(row: sa.Row[Any]) -> bool:
    return row.phase != Phase.ENDED.value and bool(row.overdue)


def _comparable(claims: tuple[OpenClaim, ...]) -> list[tuple[object, ...]]:
    return sorted(
        (
            one.claim,
            one.key,
            one.worker,
            one.host,
            one.phase.value,
            one.result,
            one.overdue,
            one.slots,
            one.subject,
        )
        for one in claims
    )


def test_the_store_and_the_model_agree(engine: sa.Engine) -> None:
    # The verbs cost a commit each: fewer examples than a pure test has, in CI; EXAMPLES for more.
    examples = int(os.environ.get("EXAMPLES", "25"))
    run_state_machine_as_test(
        partial(Machine, engine),
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None),
    )
