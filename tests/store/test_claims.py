"""The life of a claim in the database, and everything that may come in its way."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Started
from edge_ws.protocol.ids import CALLBACK_DAG_ID, HOST, UNSURE, ClaimId, HostId, new_id
from edge_ws.protocol.states import Phase
from edge_ws.store.records import Accepted, JobKey, NewJob, Owing, Verdict
from edge_ws.store.retention import EDGE3_PURGE_S
from edge_ws.store.store import Store
from edge_ws.store.tables import claim, edge_job, edge_logs, log
from tests.support.reports import SingleReports
from tests.support.rows import (
    OWNER,
    FakeWorker,
    change_job,
    claim_row,
    end_leases,
    enqueue,
    job_row,
    new_job,
)


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


@pytest.fixture
def worker(store: Store) -> FakeWorker:
    worker = FakeWorker(store)
    worker.register()
    return worker


def test_a_job_runs_and_ends(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    (candidate,) = store.dispatch.candidates({"q"}, 10)
    assert candidate.key == job.key
    (claimed,) = worker.claim(job)
    assert json.loads(claimed.payload)["token"] == ""
    assert job_row(engine, job.key).state == "restarting"
    accepted = worker.accept(claimed.claim)
    assert isinstance(accepted, Accepted)
    assert accepted.subject == json.loads(job.command)["ti"]["id"]
    assert SingleReports(store.reports).started(worker.principal, claimed.claim, worker.host) is Verdict.DONE
    assert job_row(engine, job.key).state == "running"
    assert store.jobs.ended(OWNER) == []
    assert worker.finish(claimed.claim) is Verdict.DONE
    row = job_row(engine, job.key)
    assert row.state == "success"
    assert json.loads(row.command)["token"] == ""
    (ended,) = store.jobs.ended(OWNER)
    assert (ended.key, ended.state, ended.subject) == (job.key, "success", accepted.subject)
    store.jobs.reported(OWNER, [job.key])
    assert store.jobs.ended(OWNER) == []


def test_reports_may_be_repeated(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    assert worker.accept(claim_id) is Verdict.REPEATED
    assert SingleReports(store.reports).started(worker.principal, claim_id, worker.host) is Verdict.DONE
    assert worker.finish(claim_id, 1) is Verdict.DONE
    assert worker.finish(claim_id, 1) is Verdict.DONE
    assert SingleReports(store.reports).started(worker.principal, claim_id, worker.host) is Verdict.STALE
    assert job_row(engine, job.key).state == "failed"


def test_accept_again_after_a_lost_go(engine: sa.Engine, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    assert isinstance(worker.accept(claimed.claim), Accepted)
    assert isinstance(worker.accept(claimed.claim), Accepted)
    assert worker.accept(claimed.claim, HostId(new_id())) is Verdict.STALE


def test_another_worker_cannot_touch_a_claim(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    other = FakeWorker(store, name="w2")
    other.register()
    assert other.finish(claim_id) is Verdict.STALE
    assert SingleReports(store.reports).append_log(other.principal, claim_id, 0, b"x") is Verdict.STALE
    assert store.workers.host_dead(other.principal, worker.host) == ()
    assert job_row(engine, job.key).state == "running"


def test_a_refused_offer_is_free_at_once(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    assert SingleReports(store.reports).refuse(worker.principal, claimed.claim, "full") is Verdict.DONE
    row = job_row(engine, job.key)
    assert (row.state, row.edge_worker, row.edge_ws_claim) == ("queued", None, None)
    assert worker.accept(claimed.claim) is Verdict.STALE


def test_an_unanswered_offer_is_free_after_its_lease(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    assert store.claims.expire_offers() == 0
    end_leases(engine)
    assert store.claims.expire_offers() == 1
    assert job_row(engine, job.key).state == "queued"
    assert worker.accept(claimed.claim) is Verdict.STALE
    assert len(worker.claim(job)) == 1


def test_a_closed_connection_frees_only_what_was_not_accepted(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    offered, accepted = new_job("offered"), new_job("accepted")
    enqueue(engine, offered, accepted)
    connection = worker.register().connection
    worker.claim(offered)
    (claimed,) = worker.claim(accepted)
    worker.accept(claimed.claim)
    store.workers.disconnected(worker.principal, new_id(), left=None)
    assert job_row(engine, offered.key).state == "restarting"
    store.workers.disconnected(worker.principal, connection, left=None)
    assert job_row(engine, offered.key).state == "queued"
    assert job_row(engine, accepted.key).state == "restarting"


def test_a_new_round_makes_the_old_claim_stale(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    old = worker.start(job)
    enqueue(engine, job)
    assert worker.finish(old) is Verdict.STALE
    assert SingleReports(store.reports).append_log(worker.principal, old, 0, b"late") is Verdict.STALE
    assert job_row(engine, job.key).state == "queued"
    new = worker.start(job)
    assert worker.finish(old, 1) is Verdict.STALE
    assert worker.finish(new) is Verdict.DONE
    assert job_row(engine, job.key).state == "success"


def test_a_deleted_row_makes_its_claim_stale(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    store.jobs.revoke(job.key)
    assert job_row(engine, job.key) is None
    assert worker.finish(claim_id) is Verdict.STALE


@pytest.mark.parametrize("state", ["success", "failed", "removed"])
def test_an_end_written_past_an_open_claim_is_put_back(
    engine: sa.Engine, store: Store, worker: FakeWorker, state: str
) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    change_job(engine, job.key, state=state)
    assert store.jobs.ended(OWNER) == []
    store.claims.repair()
    assert job_row(engine, job.key).state == "running"
    change_job(engine, job.key, state=state)
    assert worker.finish(claim_id, 1) is Verdict.DONE
    assert job_row(engine, job.key).state == "failed"


def queued_again_by_edge3(engine: sa.Engine, worker: FakeWorker) -> tuple[NewJob, ClaimId]:
    """Start a job under a claim; edge3's executor, which knows no claims, queues its row again."""
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    change_job(engine, job.key, state="queued")
    return job, claim_id


def test_a_row_taken_by_an_edge3_worker_is_not_ours(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job, claim_id = queued_again_by_edge3(engine, worker)
    # An edge3 worker fetches it.
    change_job(engine, job.key, state="restarting", edge_worker="edge3-worker")
    assert worker.finish(claim_id) is Verdict.STALE
    assert job_row(engine, job.key).state == "restarting"
    store.claims.repair()
    assert job_row(engine, job.key).edge_worker == "edge3-worker"


def test_a_row_that_was_never_claimed_goes_back(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    change_job(engine, job.key, state="running")
    store.claims.repair()
    assert job_row(engine, job.key).state == "queued"


def test_a_dead_host_ends_its_started_jobs_only(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    started, accepted, elsewhere = new_job("started"), new_job("accepted"), new_job("elsewhere")
    enqueue(engine, started, accepted, elsewhere)
    started_claim = worker.start(started)
    (accepted_claim,) = worker.claim(accepted)
    worker.accept(accepted_claim.claim)
    (other,) = worker.claim(elsewhere)
    worker.accept(other.claim, HostId(new_id()))
    dead = store.workers.host_dead(worker.principal, worker.host)
    assert set(dead) == {started_claim, accepted_claim.claim}
    assert job_row(engine, started.key).state == "failed"
    assert job_row(engine, accepted.key).state == "restarting"
    assert claim_row(engine, accepted_claim.claim).result == "lost"
    assert claim_row(engine, other.claim).result is None
    assert store.workers.host_dead(worker.principal, worker.host) == (accepted_claim.claim,)


def test_what_cannot_start_waits_for_the_reaper(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    worker.accept(claimed.claim)
    assert SingleReports(store.reports).not_started(worker.principal, claimed.claim, "409") is Verdict.DONE
    assert worker.accept(claimed.claim) is Verdict.STALE
    (one,) = store.claims.unsettled()
    assert (one.claim, one.phase, one.result, one.overdue) == (
        claimed.claim,
        Phase.ACCEPTED,
        "not_started",
        False,
    )
    end_leases(engine)
    (one,) = store.claims.unsettled()
    assert one.overdue
    assert store.claims.requeue(one, "it is still queued")
    assert job_row(engine, job.key).state == "queued"
    assert not store.claims.requeue(one, "again")


def fails_on(store: Store, worker: FakeWorker, job: NewJob, reason: str) -> None:
    """Let the worker take the job and fail to start it through its own fault."""
    (claimed,) = worker.claim(job)
    worker.accept(claimed.claim)
    assert (
        SingleReports(store.reports).not_started(worker.principal, claimed.claim, reason, HOST)
        is Verdict.DONE
    )


def another(store: Store, name: str, **changes: object) -> FakeWorker:
    one = FakeWorker(store, name=name, **changes)  # type: ignore[arg-type]
    one.register()
    return one


def test_what_a_host_cannot_start_goes_to_others(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    other = another(store, "other")
    job, next_job = new_job("t1"), new_job("t2")
    enqueue(engine, job, next_job)
    fails_on(store, worker, job, "no log folder")
    assert job_row(engine, job.key).state == "queued"
    failed_on = {one.key: one.failed_on for one in store.dispatch.candidates(None, 10)}
    assert failed_on == {job.key: {worker.principal.worker}, next_job.key: frozenset()}
    # A new round may go anywhere.
    enqueue(engine, job)
    assert [one.failed_on for one in store.dispatch.candidates(None, 10)] == [frozenset(), frozenset()]
    fails_on(store, worker, job, "no log folder")
    (claimed,) = other.claim(job)
    assert isinstance(other.accept(claimed.claim), Accepted)


def test_a_job_that_no_worker_can_start_fails_and_its_log_says_why(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    other = another(store, "other")
    another(store, "elsewhere", queues=("q9",))
    job = new_job()
    enqueue(engine, job)
    fails_on(store, worker, job, "no log folder")
    fails_on(store, other, job, "no such bundle")
    (ended,) = store.jobs.ended(OWNER)
    assert ended.state == "failed"
    name = worker.principal.worker
    assert ended.detail == f"2 workers could not start the task: {name}: no log folder; other: no such bundle"
    (log,) = store.logs.logs_to_move()
    line = json.loads(b"".join(store.logs.log_chunks(log.claim)))
    assert (line["event"], line["level"]) == (ended.detail, "error")


def test_a_lone_worker_that_cannot_start_a_job_fails_it(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job = new_job()
    enqueue(engine, job)
    fails_on(store, worker, job, "no log folder")
    (ended,) = store.jobs.ended(OWNER)
    assert "no other one that takes it is here: no log folder" in ended.detail


def test_a_job_is_tried_on_three_workers_at_the_most(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    others = [another(store, f"other-{number}") for number in range(4)]
    job = new_job()
    enqueue(engine, job)
    for one in (worker, others[0]):
        fails_on(store, one, job, "too long a name")
        assert job_row(engine, job.key).state == "queued"
    fails_on(store, others[1], job, "too long a name")
    assert job_row(engine, job.key).state == "failed"


def test_a_start_that_airflow_did_not_answer_may_have_happened(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    worker.accept(claimed.claim)
    assert (
        SingleReports(store.reports).not_started(worker.principal, claimed.claim, "500", UNSURE)
        is Verdict.DONE
    )
    (one,) = store.claims.unsettled()
    assert one.result == "lost"


def test_the_reaper_does_not_undo_what_moved_on(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    (claimed,) = worker.claim(job)
    worker.accept(claimed.claim)
    (judged,) = store.claims.unsettled()
    SingleReports(store.reports).started(worker.principal, claimed.claim, worker.host)
    assert not store.claims.requeue(judged, "too late")
    assert not store.claims.give_up(judged, "too late", failed=True)
    assert job_row(engine, job.key).state == "running"
    (started,) = store.claims.unsettled()
    assert store.claims.give_up(started, "the task is gone", failed=False)
    assert job_row(engine, job.key).state == "removed"
    assert [one.state for one in store.jobs.ended(OWNER)] == ["removed"]


def test_unknown_frees_an_offer_and_marks_the_rest(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    offered, accepted = new_job("offered"), new_job("accepted")
    enqueue(engine, offered, accepted)
    (one,) = worker.claim(offered)
    (two,) = worker.claim(accepted)
    worker.accept(two.claim)
    assert SingleReports(store.reports).unknown(worker.principal, one.claim) is Verdict.DONE
    assert SingleReports(store.reports).unknown(worker.principal, two.claim) is Verdict.DONE
    assert job_row(engine, offered.key).state == "queued"
    assert claim_row(engine, two.claim).result == "not_started"
    assert SingleReports(store.reports).unknown(worker.principal, ClaimId(new_id())) is Verdict.STALE


def test_a_worker_is_never_over_committed(engine: sa.Engine, store: Store) -> None:
    worker = FakeWorker(store, concurrency=3)
    worker.register()
    jobs = [new_job(f"t{number}") for number in range(4)]
    wide = new_job("wide", slots=2)
    enqueue(engine, *jobs, wide)
    assert len(worker.claim(jobs[0])) == 1
    assert len(worker.claim(wide)) == 1
    assert worker.claim(*jobs[1:]) == []


def test_two_gateways_never_claim_one_job_twice_nor_over_commit(engine: sa.Engine, store: Store) -> None:
    worker = FakeWorker(store, concurrency=30)
    worker.register()
    jobs = [new_job(f"t{number}") for number in range(60)]
    enqueue(engine, *jobs)
    claimed: list[list[object]] = [[], []]
    barrier = threading.Barrier(2)

    def run(number: int) -> None:
        barrier.wait()
        for start in range(0, 60, 6):
            claimed[number].extend(one.key for one in worker.claim(*jobs[start : start + 6]))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = claimed[0] + claimed[1]
    assert len(taken) == len(set(taken)) == 30


def test_an_unreadable_command_fails_its_row(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job(command="not json")
    enqueue(engine, job)
    assert worker.claim(job) == []
    (ended,) = store.jobs.ended(OWNER)
    assert (ended.state, ended.subject) == ("failed", "")


def test_log_bytes_are_taken_once_and_without_gaps(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = worker.start(job)
    say = partial(SingleReports(store.reports).append_log, worker.principal, claim_id)
    assert say(0, b"hello ") == 6
    assert say(0, b"hello ") == 6
    assert say(9, b"gap") == 6
    assert say(3, b"lo world") == 11
    running = store.logs.running_log(job.key)
    assert (running.worker, running.data, running.cut) == ("w1", b"hello world", 0)
    worker.finish(claim_id)
    assert say(11, b"late") is Verdict.STALE
    (one,) = store.logs.logs_to_move()
    assert (one.claim, one.log_path, one.log_base) == (claim_id, "t.log", None)
    assert store.logs.begin_move(claim_id, 100, 60.0) == 100
    assert store.logs.begin_move(claim_id, 999, 60.0) is None
    assert store.logs.logs_to_move() == []
    end_leases(engine)
    assert store.logs.begin_move(claim_id, 999, -1.0) == 100
    store.logs.keep_move(claim_id, 60.0)
    assert store.logs.begin_move(claim_id, 999, 60.0) is None
    assert b"".join(store.logs.log_chunks(claim_id)) == b"hello world"
    store.logs.end_move(claim_id)
    end_leases(engine)
    assert store.logs.begin_move(claim_id, 5, 60.0) is None
    assert list(store.logs.log_chunks(claim_id)) == []


def test_candidates_come_in_order(engine: sa.Engine, store: Store) -> None:
    enqueue(
        engine,
        new_job("low"),
        new_job("high", priority=9),
        new_job("other", queue="elsewhere", priority=99),
    )
    assert [one.key.task_id for one in store.dispatch.candidates({"q"}, 10)] == ["high", "low"]
    assert [one.key.task_id for one in store.dispatch.candidates(None, 2)] == ["other", "high"]
    assert store.dispatch.candidates(set(), 10) == []
    assert all(0 <= one.waited_s < 60 for one in store.dispatch.candidates(None, 10))


def test_what_ended_long_ago_is_purged(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    unreported, reported, with_log = new_job("unreported"), new_job("reported"), new_job("with_log")
    enqueue(engine, unreported, reported, with_log)
    for job in (unreported, reported, with_log):
        claim_id = worker.start(job)
        if job is with_log:
            SingleReports(store.reports).append_log(worker.principal, claim_id, 0, b"x")
        worker.finish(claim_id)
    store.jobs.reported(OWNER, [reported.key, with_log.key])
    store.retention.purge(60.0)
    assert job_row(engine, reported.key) is not None
    store.retention.purge(-1.0)
    assert job_row(engine, reported.key) is None
    assert job_row(engine, unreported.key) is not None
    assert job_row(engine, with_log.key) is not None


def test_a_row_that_edge3s_executor_wrote_is_left_to_it_for_a_day(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    """Nobody can tell whether it has reported it."""
    job = new_job()
    enqueue(engine, job)
    change_job(engine, job.key, edge_ws_owner=None)
    worker.finish(worker.start(job))
    store.retention.purge(-1.0)
    assert job_row(engine, job.key) is not None
    store.retention.purge(-EDGE3_PURGE_S - 1.0)
    assert job_row(engine, job.key) is None


def test_rows_that_an_edge3_worker_ran_are_purged_with_what_it_pushed_of_logs(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    names = ("unreported", "reported", "running", "edge3s")
    jobs = [new_job(name) for name in names]
    enqueue(engine, *jobs)
    now = datetime.now(UTC)
    for job in jobs:
        state = "running" if job.key.task_id == "running" else "success"
        change_job(engine, job.key, state=state, edge_worker="old-1", last_update=now)
        with engine.begin() as connection:
            key = {name: value for name, value in job.key._asdict().items() if name != "task_instance_id"}
            connection.execute(edge_logs.insert().values(**key, log_chunk_time=now, log_chunk_data="said"))
    change_job(engine, jobs[3].key, edge_ws_owner=None)
    store.jobs.reported(OWNER, [jobs[1].key, jobs[2].key])
    store.retention.purge(60.0)
    assert ids(engine, edge_job, "task_id") == set(names)
    store.retention.purge(-1.0)
    left = set(names) - {"reported"}
    assert ids(engine, edge_job, "task_id") == left
    assert ids(engine, edge_logs, "task_id") == left


def test_claims_that_no_row_carries_are_purged_with_their_logs(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    deleted, queued_again, running = new_job("deleted"), new_job("queued_again"), new_job("running")
    enqueue(engine, deleted, queued_again, running)
    claims = [worker.start(job) for job in (deleted, queued_again, running)]
    for claim_id in claims:
        SingleReports(store.reports).append_log(worker.principal, claim_id, 0, b"x")
    with engine.begin() as connection:
        connection.execute(edge_job.delete().where(edge_job.c.task_id == "deleted"))
        again = edge_job.update().where(edge_job.c.task_id == "queued_again")
        connection.execute(again.values(edge_ws_claim=None, edge_worker=None, state="queued"))
    store.retention.purge(60.0)
    assert ids(engine, claim) == set(claims)
    store.retention.purge(-1.0)
    assert ids(engine, claim) == {claims[2]}
    assert ids(engine, log, "claim") == {claims[2]}


def ids(engine: sa.Engine, table: sa.Table, column: str = "id") -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(sa.select(table.c[column])))


def owes(store: Store, who: FakeWorker, claimed: ClaimId) -> object:
    report = Started(claim=claimed, host=who.host, owes=True)
    return store.reports.take([(who.principal, report)], start_within_s=0.0)[0]


def test_a_token_for_an_outcome_is_for_ones_own_live_claim(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job = new_job(ti_id="ti-1")
    enqueue(engine, job)
    claimed = worker.start(job)
    other = FakeWorker(store, name="w2")
    other.register()
    assert owes(store, worker, claimed) == Owing(subject="ti-1")
    assert owes(store, other, claimed) is Verdict.STALE
    worker.finish(claimed)
    assert owes(store, worker, claimed) is Verdict.STALE


def test_a_callback_owes_nothing(engine: sa.Engine, store: Store, worker: FakeWorker) -> None:
    job = new_job(key=JobKey(CALLBACK_DAG_ID, "c", "ExecuteCallback-c", -1, 0))
    enqueue(engine, job)
    assert owes(store, worker, worker.start(job)) is Verdict.DONE


def test_what_had_ended_before_its_host_died_is_not_lost(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    jobs = new_job("t1"), new_job("t2")
    enqueue(engine, *jobs)
    one, two = (worker.start(job) for job in jobs)
    assert store.workers.host_dead(worker.principal, worker.host, [one]) == (two,)
    assert [job_row(engine, job.key).state for job in jobs] == ["running", "failed"]


def test_a_round_that_edge3_queued_and_nothing_waits_for_is_not_the_old_claims(
    engine: sa.Engine, store: Store, worker: FakeWorker
) -> None:
    job, claim_id = queued_again_by_edge3(engine, worker)
    assert store.jobs.end_unwanted(OWNER, {OWNER}, sa.false(), lifeless_s=300) == [job.key]
    row = job_row(engine, job.key)
    assert (row.state, row.edge_ws_claim) == ("removed", None)
    assert worker.finish(claim_id) is Verdict.STALE
    assert job_row(engine, job.key).state == "removed"
