"""Registration, names, wishes, liveness, tokens, adoption."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.protocol.frames import Applied, Bye
from edge_ws.protocol.ids import HOST, GatewayId, WorkerName, new_id
from edge_ws.server.eligibility import is_here
from edge_ws.store.records import JobKey
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, utc_now, worker
from tests.support.reports import SingleReports
from tests.support.rows import OWNER, FakeWorker, change_job, enqueue, job_row, new_job


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


def _edge_worker(engine: sa.Engine, name: str) -> sa.Row:
    with engine.connect() as connection:
        return connection.execute(sa.select(edge_worker).where(edge_worker.c.worker_name == name)).one()


def _change(engine: sa.Engine, table: sa.Table, name: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(table.update().where(table.c.worker_name == name).values(**values))


def test_a_registration_looks_like_edge3s(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store, queues=("a", "b")).register()
    row = _edge_worker(engine, "w1")
    assert (row.state, row.queues, row.jobs_active, row.concurrency) == ("idle", "['a', 'b']", 0, None)
    assert row.sysinfo["concurrency"] == 4
    assert row.last_update.tzinfo is not None


def test_a_live_name_is_refused_to_another_site_only(store: Store) -> None:
    first = FakeWorker(store)
    connection = first.register().connection
    assert first.register().connection != connection
    second = FakeWorker(store)
    with pytest.raises(RefusedError, match="another state directory"):
        second.register()
    store.workers.disconnected(first.principal, first.register().connection, left=None)
    second.register()


def test_an_edge3_name_is_refused_while_it_lives(engine: sa.Engine, store: Store) -> None:
    with engine.begin() as connection:
        connection.execute(
            edge_worker.insert().values(
                worker_name="w1", state="idle", jobs_active=0, last_update=utc_now(), sysinfo={}
            )
        )
    with pytest.raises(RefusedError, match="live edge3 worker"):
        FakeWorker(store).register()
    _change(engine, edge_worker, "w1", state="offline")
    FakeWorker(store).register()


def test_how_long_an_edge3_worker_lives_follows_from_the_heartbeat_that_the_centre_sets(
    engine: sa.Engine, store: Store
) -> None:
    ours = FakeWorker(store, name="ours")
    ours.register()
    slow = Store(engine, edge3_beat_s=120.0)
    ago = datetime.now(UTC) - timedelta(seconds=400)
    row = {"state": "idle", "jobs_active": 0, "last_update": ago, "sysinfo": {}, "queues": "['q']"}
    with engine.begin() as connection:
        connection.execute(edge_worker.insert().values(worker_name="e3", **row))
    for one, alive_s in ((store, 150.0), (slow, 600.0)):
        (seen,) = one.views.workers(name="e3")
        assert (seen.silent_after_s, is_here(seen)) == (alive_s, alive_s > 400)
    # Whether a job is hopeless depends on who else is here.
    for one, state in ((slow, "queued"), (store, "failed")):
        job = new_job(f"t-{state}")
        enqueue(engine, job)
        (claimed,) = ours.claim(job)
        ours.accept(claimed.claim)
        SingleReports(one.reports).not_started(ours.principal, claimed.claim, "no log folder", HOST)
        assert job_row(engine, job.key).state == state
    with pytest.raises(RefusedError, match="live edge3 worker"):
        FakeWorker(slow, name="e3").register()
    FakeWorker(store, name="e3").register()


def test_a_goodbye_shows_offline(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    store.workers.disconnected(one.principal, one.register().connection, left=Bye(reason="done"))
    assert _edge_worker(engine, "w1").state == "offline"


def test_a_request_of_edge3s_cli_survives_heartbeats_and_registrations(
    engine: sa.Engine, store: Store
) -> None:
    one = FakeWorker(store)
    connection = one.register().connection
    _change(engine, edge_worker, "w1", state="maintenance request")
    store.liveness.beat([connection])
    one.register()
    assert _edge_worker(engine, "w1").state == "maintenance request"


def test_heartbeats_show_what_runs(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    connection = one.register().connection
    job = new_job()
    enqueue(engine, job)
    claim_id = one.start(job)
    before = job_row(engine, job.key).last_update
    store.liveness.beat([connection])
    row = _edge_worker(engine, "w1")
    assert (row.state, row.jobs_active) == ("running", 1)
    assert job_row(engine, job.key).last_update >= before
    one.finish(claim_id)
    store.liveness.beat([connection])
    row = _edge_worker(engine, "w1")
    assert (row.state, row.jobs_active) == ("idle", 0)


def test_a_silent_worker_is_shown_as_unknown(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register()
    store.liveness.mark_silent()
    assert _edge_worker(engine, "w1").state == "idle"
    _change(engine, worker, "w1", seen_at=0.0)
    store.liveness.mark_silent()
    assert _edge_worker(engine, "w1").state == "unknown"


def test_a_wish_gets_a_number_whoever_wrote_it(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    assert one.register().wish.revision == 0
    name = WorkerName("w1")
    assert store.dispatch.new_wishes({name: 0}) == {}
    assert store.operators.wish_concurrency("w1", 2).revision == 1
    assert store.dispatch.new_wishes({name: 0})[name].wish.revision == 1
    assert store.dispatch.new_wishes({name: 1}) == {}
    _change(engine, edge_worker, "w1", concurrency=5)
    wish = store.dispatch.new_wishes({name: 1})[name].wish
    assert (wish.revision, wish.concurrency, wish.queues) == (2, 5, None)
    _change(engine, edge_worker, "w1", queues="['x', 'y']")
    wish = store.dispatch.new_wishes({name: 2})[name].wish
    assert (wish.revision, wish.concurrency, wish.queues) == (3, 5, ("x", "y"))
    assert store.dispatch.new_wishes({name: 3}) == {}
    # The worker restarts with other queues of its own: the wish wins.
    assert FakeWorker(store, queues=("z",), site=one.site).register().wish == wish
    assert _edge_worker(engine, "w1").queues == "['x', 'y']"


def test_own_queues_are_no_wish(store: Store) -> None:
    one = FakeWorker(store, queues=("a",))
    assert one.register().wish.queues is None
    changed = FakeWorker(store, queues=None, site=one.site)
    assert changed.register().wish.queues is None
    assert store.dispatch.new_wishes({WorkerName("w1"): 0}) == {}


def test_unreadable_queues_serve_nothing(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register()
    _change(engine, edge_worker, "w1", queues="rubbish(")
    (new,) = store.dispatch.new_wishes({WorkerName("w1"): 0}).values()
    assert new.wish.queues == ()


def test_the_wish_and_what_is_applied_are_two_things(store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    revision = store.operators.wish_concurrency("w1", 2).revision
    assert store.operators.applied("w1") == 0
    store.workers.note_applied(one.principal, Applied(revision=revision, concurrency=2, queues=("q",)))
    assert store.operators.applied("w1") == revision
    # A request that said so was late.
    store.workers.note_applied(one.principal, Applied(revision=revision - 1, concurrency=4, queues=None))
    assert store.operators.applied("w1") == revision
    (record,) = store.views.workers()
    assert (record.is_ours, record.concurrency, record.wished_concurrency) == (True, 2, 2)
    assert record.sysinfo["concurrency"] == 2
    assert (record.transport, record.queues) == ("websocket", ("q",))
    assert store.views.workers("x*") == []


def test_tokens(store: Store) -> None:
    secret = store.tokens.create_token(
        "factory", worker_pattern="factory-*", queues=["a"], team="t", expires_in_s=60.0
    )
    record, now = store.tokens.find_token(secret)
    assert (record.name, record.queues, record.team) == ("factory", ("a",), "t")
    assert record.admits_worker("factory-7")
    assert not record.admits_worker("office-1")
    assert record.expires_at == pytest.approx(now + 60, abs=5)
    assert store.tokens.find_token("edgews_wrong") is None
    assert store.tokens.tokens_by_id([record.id, "absent"])[0] == {record.id: record}
    assert store.tokens.revoke_token("factory") == 1
    assert store.tokens.revoke_token("factory") == 0
    assert [one.revoked_at is not None for one in store.tokens.all_tokens()] == [True]


def test_adoption_follows_the_task_instance(engine: sa.Engine, store: Store) -> None:
    one, two = new_job("one", ti_id="id-1"), new_job("two", ti_id="id-2")
    enqueue(engine, one, two)
    absent = JobKey("dag", "absent", "run", -1, 1)
    found = store.jobs.adopt(9, {one.key: "id-1", two.key: "another", absent: "x"})
    assert found == {one.key: "queued", two.key: None}
    assert store.jobs.owned(9) == {one.key}
    assert store.jobs.owned(OWNER) == {two.key}
    assert store.jobs.adopt(9, {}) == {}


def test_a_report_does_not_touch_a_new_round(engine: sa.Engine, store: Store) -> None:
    job = new_job()
    enqueue(engine, job)
    store.jobs.reported(OWNER, [job.key])
    assert job_row(engine, job.key).edge_ws_owner == OWNER


def test_a_database_that_is_away_is_said_in_one_sentence(tmp_path: object) -> None:
    engine = sa.create_engine(f"sqlite:////{tmp_path}/absent/folder/db")
    with pytest.raises(UnreachableError, match="failed: unable to open database file"):
        Store(engine).tokens.all_tokens()
    engine.dispose()


def test_an_executor_sees_its_own_team_only(engine: sa.Engine, store: Store) -> None:
    mine, theirs = new_job("mine", team="a"), new_job("theirs", team="b")
    enqueue(engine, mine, theirs)
    assert store.jobs.owned(OWNER, "a") == {mine.key}
    assert store.jobs.owned(OWNER) == set()
    for job in (mine, theirs):
        change_job(engine, job.key, state="failed")
    assert [one.key for one in store.jobs.ended(OWNER, "b")] == [theirs.key]


def test_gateways_come_and_go(store: Store) -> None:
    gateway = GatewayId(new_id())
    store.liveness.announce(gateway, "host", 1)
    assert store.liveness.beat([]) == frozenset()
    store.liveness.retire(gateway)
