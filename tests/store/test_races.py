"""Two transactions about one claim at the same time: the later one judges what the earlier one has made of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.protocol.ids import ClaimId
from edge_ws.protocol.states import Phase
from edge_ws.store import database
from edge_ws.store.records import Claimed, NewJob, Registered, Verdict
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job, edge_worker
from tests.support.reports import SingleReports
from tests.support.rows import FakeWorker, change_job, claim_row, end_leases, enqueue, job_row, new_job
from tests.support.waiting import wait_until
from tests.support.workers import register_worker


@pytest.fixture
def engine(postgres_engine: sa.Engine) -> sa.Engine:
    """SQLite has one writer at a time."""
    return postgres_engine


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@pytest.fixture
def worker(store: Store) -> FakeWorker:
    return FakeWorker(store)


@pytest.fixture
def connected(worker: FakeWorker) -> Registered:
    return worker.register()


@pytest.fixture
def job(engine: sa.Engine) -> NewJob:
    job = new_job()
    enqueue(engine, job)
    return job


@pytest.fixture
def offered(connected: Registered, worker: FakeWorker, job: NewJob) -> Claimed:
    (claimed,) = worker.claim(job)
    return claimed


def meanwhile(engine: sa.Engine, of: ClaimId, values: dict[str, Any], call: Callable[[], Any]) -> Any:
    """Hold the jobs' locks until `call` waits for them, change the claim, commit; return what `call` returns."""
    answers: list[Any] = []
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with engine.connect() as holder, engine.connect() as watcher:
        holder.execute(sa.select(edge_job.c.state).with_for_update())
        thread = threading.Thread(target=lambda: answers.append(call()))
        thread.start()
        try:
            wait_until(lambda: watcher.scalar(waiting))
            holder.execute(claim.update().where(claim.c.id == of).values(**values))
            holder.commit()
        finally:
            holder.close()
            thread.join(10)
    return answers[0]


def test_an_offer_that_is_just_accepted_does_not_expire(
    engine: sa.Engine, store: Store, offered: Claimed
) -> None:
    end_leases(engine)
    accepted = {"phase": Phase.ACCEPTED.value, "host": "h"}
    assert meanwhile(engine, offered.claim, accepted, store.claims.expire_offers) == 0
    assert claim_row(engine, offered.claim).phase == "accepted"
    assert job_row(engine, offered.key).edge_ws_claim == offered.claim


def test_an_offer_that_is_just_accepted_outlives_its_connection(
    engine: sa.Engine, store: Store, worker: FakeWorker, connected: Registered, offered: Claimed
) -> None:
    meanwhile(
        engine,
        offered.claim,
        {"phase": Phase.ACCEPTED.value, "host": "h"},
        lambda: store.workers.disconnected(worker.principal, connected.connection, left=None),
    )
    assert claim_row(engine, offered.claim).phase == "accepted"
    assert job_row(engine, offered.key).edge_ws_claim == offered.claim


def test_a_job_that_has_just_started_dies_with_its_host(
    engine: sa.Engine, store: Store, worker: FakeWorker, offered: Claimed
) -> None:
    worker.accept(offered.claim)
    started = {"phase": Phase.STARTED.value}
    dead = meanwhile(
        engine, offered.claim, started, lambda: store.workers.host_dead(worker.principal, worker.host)
    )
    assert dead == (offered.claim,)
    assert claim_row(engine, offered.claim).phase == "ended"
    assert job_row(engine, offered.key).state == "failed"


def test_a_job_that_has_just_ended_is_not_set_running_again(
    engine: sa.Engine, store: Store, worker: FakeWorker, job: NewJob
) -> None:
    worker.register()
    claim_id = worker.start(job)
    change_job(engine, job.key, state="success")
    ended = {"phase": Phase.ENDED.value, "ended_at": 1.0}
    meanwhile(engine, claim_id, ended, store.claims.repair)
    assert job_row(engine, job.key).state == "success"


def test_what_dies_before_its_start_is_known_stays_lost(
    engine: sa.Engine, store: Store, worker: FakeWorker, offered: Claimed
) -> None:
    worker.accept(offered.claim)
    store.workers.host_dead(worker.principal, worker.host)
    assert SingleReports(store.reports).started(worker.principal, offered.claim, worker.host) is Verdict.DONE
    assert claim_row(engine, offered.claim).result == "lost"


def test_what_is_lost_stays_so_when_its_worker_has_forgotten_it(
    engine: sa.Engine, store: Store, worker: FakeWorker, offered: Claimed
) -> None:
    """Its task may run for Airflow; nobody else would tell that its process is gone."""
    worker.accept(offered.claim)
    store.workers.host_dead(worker.principal, worker.host)
    SingleReports(store.reports).unknown(worker.principal, offered.claim)
    assert claim_row(engine, offered.claim).result == "lost"


def test_two_first_registrations_at_once_are_a_conflict_at_the_worst(engine: sa.Engine, store: Store) -> None:
    """As a worker may try both transports at its first contact."""
    both, conflicts = threading.Barrier(4), []

    def register() -> None:
        both.wait()
        try:
            register_worker(store, "new")
        except ConflictError as error:
            conflicts.append(str(error))

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(conflicts) < 4
    assert all("new is being registered by another connection" in one for one in conflicts)
    assert [found.name for found in store.views.workers()] == ["new"]


def test_a_process_that_is_frozen_amid_a_transaction_does_not_keep_its_rows(
    engine: sa.Engine,
    store: Store,
    worker: FakeWorker,
    connected: Registered,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "IDLE_S", 0.5)

    def freeze() -> None:
        with store._database.write() as connection:
            connection.execute(sa.select(edge_worker).with_for_update())
            # Another gateway meets the worker, which has come to it.
            assert worker.register().connection != connected.connection
            connection.execute(edge_worker.update().values(state="offline"))

    with pytest.raises(UnreachableError, match=r"the database .* failed: "):
        freeze()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(edge_worker.c.state)) == "idle"
