"""What operators wish of workers, by our verbs, by edge3's CLI and on the worker's own host; what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Applied, Asked, Bye, Held
from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.records import NewWish, Principal, Registration, Wished, WishRecord
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, utc_now, worker
from tests.support.rows import LIFE, NEXT_LIFE, FakeWorker, enqueue, job_row, new_job

W1 = WorkerName("w1")


def _state(store: Store) -> str:
    (found,) = store.views.workers()
    return found.state


def _write(engine: sa.Engine, **values: object) -> None:
    """Write as edge3's CLI does."""
    with engine.begin() as connection:
        connection.execute(edge_worker.update().where(edge_worker.c.worker_name == "w1").values(**values))


def _news(store: Store, sent: int) -> WishRecord:
    found: NewWish = store.dispatch.new_wishes({W1: sent})[W1]
    return found.wish


def _apply(one: FakeWorker, wish: WishRecord, **values: object) -> None:
    """Acknowledge as a worker does that carries out everything."""
    told = {"concurrency": 4, "queues": ("q",), "maintenance": wish.maintenance, "leaving": wish.shutdown}
    one.store.workers.note_applied(one.principal, Applied(revision=wish.revision, **{**told, **values}))


def _edge3_worker(engine: sa.Engine, state: str) -> None:
    with engine.begin() as connection:
        row = {"worker_name": "e3", "state": state, "jobs_active": 0, "sysinfo": {}, "queues": "['q']"}
        connection.execute(edge_worker.insert().values(**row, last_update=utc_now()))


def test_maintenance_goes_in_and_out(store: Store, one: FakeWorker) -> None:
    asked = store.operators.request_maintenance("w1", "new disk")
    assert (asked.revision, asked.state, asked.kind) == (1, "maintenance request", "edge-ws")
    wish = _news(store, 0)
    assert (wish.revision, wish.maintenance, wish.comment, wish.shutdown) == (1, True, "new disk", False)
    # A heartbeat from before the wish came takes nothing back.
    store.workers.note_applied(one.principal, Applied(revision=0, concurrency=4, queues=("q",)))
    assert _state(store) == "maintenance request"
    _apply(one, wish)
    assert _state(store) == "maintenance mode"
    assert store.dispatch.new_wishes({W1: 1}) == {}
    comment = store.operators.update_maintenance_comment("w1", "still the disk")
    assert (comment.revision, comment.state) == (2, "maintenance mode")
    assert _news(store, 1).comment == "still the disk"
    out = store.operators.exit_maintenance("w1")
    assert (out.revision, out.state) == (3, "maintenance exit")
    wish = _news(store, 2)
    assert (wish.maintenance, wish.comment) == (False, "")
    _apply(one, wish)
    assert _state(store) == "idle"


def test_maintenance_is_pending_while_jobs_run(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = one.start(job)
    store.operators.request_maintenance("w1", "why")
    _apply(one, _news(store, 0))
    assert _state(store) == "maintenance pending"
    one.finish(claim_id)
    _apply(one, _news(store, 0))
    assert _state(store) == "maintenance mode"


def test_a_heartbeat_sees_that_the_last_job_of_a_worker_in_maintenance_is_gone(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    connection = one.register(life=LIFE).connection
    _write(engine, state="maintenance pending")
    store.liveness.beat([connection])
    assert _state(store) == "maintenance mode"


def test_edge3s_cli_wishes_the_same(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    _write(engine, state="maintenance request", maintenance_comment="from edge3")
    wish = _news(store, 0)
    assert (wish.revision, wish.maintenance, wish.comment) == (1, True, "from edge3")
    _apply(one, wish)
    _write(engine, state="maintenance exit", maintenance_comment=None)
    wish = _news(store, 1)
    assert not wish.maintenance
    _apply(one, wish)
    _write(engine, state="shutdown request")
    assert _news(store, 2).shutdown


@pytest.mark.parametrize("state", ["maintenance exit", "maintenance request"])
def test_a_request_for_what_is_so_already_is_told_again(
    engine: sa.Engine, store: Store, one: FakeWorker, state: str
) -> None:
    """Else the request would stand in the column for ever: edge3's CLI writes it whatever the state is."""
    if state == "maintenance request":
        store.operators.request_maintenance("w1", "why")
        _apply(one, _news(store, 0))
        _write(engine, state=state)
    else:
        store.operators.wish_concurrency("w1", 3)
        _apply(one, _news(store, 0))
        _write(engine, state=state)
    wish = _news(store, 1)
    assert wish.revision == 1
    _apply(one, wish)
    assert _state(store) == ("maintenance mode" if wish.maintenance else "idle")
    assert store.dispatch.new_wishes({W1: 1}) == {}


def test_a_shutdown_is_for_the_life_it_was_wished_of(store: Store, one: FakeWorker) -> None:
    asked = store.operators.request_shutdown("w1")
    assert (asked.state, asked.revision) == ("shutdown request", 1)
    # The same process comes back: the wish stands.
    assert one.register(life=LIFE).wish.shutdown
    # Another one was started: it was not meant.
    found = one.register(life=NEXT_LIFE)
    assert not found.wish.shutdown
    assert _state(store) == "idle"


def test_a_shutdown_ends_with_the_goodbye(store: Store, one: FakeWorker) -> None:
    store.operators.request_shutdown("w1")
    with pytest.raises(UsageError, match="w1 is shutting down"):
        store.operators.request_maintenance("w1", "why")
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=Bye(reason="drained"))
    assert _state(store) == "offline"
    assert store.operators.request_shutdown("w1").told == "nothing to shut down: it is offline"
    assert not one.register(life=NEXT_LIFE).wish.shutdown


def test_maintenance_survives_a_shutdown(store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "why")
    _apply(one, _news(store, 0))
    store.operators.request_shutdown("w1")
    wish = _news(store, 1)
    assert (wish.maintenance, wish.shutdown) == (True, True)
    store.workers.disconnected(
        one.principal, one.register(life=LIFE).connection, left=Bye(reason="drained", maintenance=True)
    )
    assert _state(store) == "offline maintenance"
    back = one.register(life=NEXT_LIFE)
    assert (back.wish.maintenance, back.wish.shutdown, back.wish.comment) == (True, False, "why")
    assert _state(store) == "maintenance request"


def test_a_restart_in_maintenance_is_told_so_again(store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "why")
    _apply(one, _news(store, 0))
    # The same life comes back over another connection and is in maintenance still.
    one.register(life=LIFE, inventory=replace(one.inventory(), maintenance=True, revision=1))
    assert _state(store) == "maintenance mode"
    assert one.register(life=NEXT_LIFE).wish.maintenance
    assert _state(store) == "maintenance request"


def test_a_silent_worker_stays_in_maintenance(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "why")
    _apply(one, _news(store, 0))
    with engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=0.0))
    store.liveness.mark_silent()
    assert _state(store) == "offline maintenance"


def test_a_wish_for_a_worker_that_is_away_is_kept(store: Store, one: FakeWorker) -> None:
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=Bye(reason="done"))
    told = store.operators.wish_concurrency("w1", 2).told
    assert told == "concurrency 2; it is offline: kept until it connects"
    store.operators.add_queues("w1", ["r"])
    assert store.operators.request_maintenance("w1", "why").state == "offline maintenance"
    wish = one.register(life=NEXT_LIFE).wish
    assert (wish.concurrency, wish.queues, wish.maintenance) == (2, ("q", "r"), True)


def test_maintenance_of_one_that_is_away_can_be_ended(store: Store, one: FakeWorker) -> None:
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=Bye(reason="done"))
    store.operators.request_maintenance("w1", "why")
    assert store.operators.exit_maintenance("w1").state == "offline"
    assert not one.register(life=NEXT_LIFE).wish.maintenance


def test_queues_come_and_go(store: Store, one: FakeWorker) -> None:
    assert store.operators.add_queues("w1", ["r", "q", "r"]).told == "queues q, r now"
    assert _news(store, 0).queues == ("q", "r")
    assert store.operators.remove_queues("w1", ["q", "absent"]).told == "queues r now"
    assert _news(store, 1).queues == ("r",)
    with pytest.raises(UsageError, match="no queue left"):
        store.operators.remove_queues("w1", ["r"])
    every = FakeWorker(store, "w2", queues=None)
    every.register()
    with pytest.raises(UsageError, match="w2 serves every queue"):
        store.operators.remove_queues("w2", ["q"])
    assert store.operators.add_queues("w2", ["q"]).told == "queues q only, no longer every queue"


@pytest.mark.parametrize(
    "verb",
    [
        lambda store: store.operators.wish_concurrency("nobody", 1),
        lambda store: store.operators.add_queues("nobody", ["q"]),
        lambda store: store.operators.remove_queues("nobody", ["q"]),
        lambda store: store.operators.request_maintenance("nobody", "why"),
        lambda store: store.operators.exit_maintenance("nobody"),
        lambda store: store.operators.update_maintenance_comment("nobody", "why"),
        lambda store: store.operators.request_shutdown("nobody"),
        lambda store: store.operators.remove_worker("nobody"),
    ],
)
def test_an_unknown_worker_is_said(store: Store, verb: Callable[[Store], Wished]) -> None:
    with pytest.raises(UsageError, match="no worker named nobody has connected yet"):
        verb(store)


def test_what_is_not_in_maintenance_cannot_leave_it(store: Store, one: FakeWorker) -> None:
    assert one.name == "w1"
    with pytest.raises(UsageError, match="w1 is not in maintenance: it is idle"):
        store.operators.exit_maintenance("w1")
    with pytest.raises(UsageError, match="w1 is not in maintenance: it is idle"):
        store.operators.update_maintenance_comment("w1", "why")


def test_a_worker_is_removed_once_it_is_away_and_holds_nothing(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    job = new_job()
    enqueue(engine, job)
    claim_id = one.start(job)
    with pytest.raises(UsageError, match="cannot remove w1: it is idle"):
        store.operators.remove_worker("w1")
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=Bye(reason="done"))
    with pytest.raises(UsageError, match="it still holds 1 jobs"):
        store.operators.remove_worker("w1")
    one.finish(claim_id)
    store.operators.wish_concurrency("w1", 2)
    assert store.operators.remove_worker("w1").told == "removed"
    assert store.views.workers() == []
    assert one.register(life=NEXT_LIFE).wish.concurrency is None


def test_queues_that_the_workers_token_excludes_are_told(store: Store, one: FakeWorker) -> None:
    def come_by(name: str, queues: list[str] | None) -> None:
        secret = store.tokens.create_token(
            name, worker_pattern="w*", queues=queues, team=None, expires_in_s=None
        )
        token, _ = store.tokens.find_token(secret)
        said = Registration(
            gateway=GatewayId(one.gateway),
            transport="websocket",
            concurrency=4,
            queues=("q",),
            inventory=one.inventory(),
            sysinfo={},
            life=LIFE,
        )
        store.workers.register(Principal(worker=W1, token_id=token.id), said)

    come_by("narrow", ["q", "day"])
    told = store.operators.add_queues("w1", ["night", "day", "dawn"])
    assert told.told == (
        "queues q, night, day, dawn now; its token admits only queues q, day: no jobs of night, dawn"
    )
    assert store.operators.add_queues("w1", ["day"]).told == "queues q, night, day, dawn now"
    come_by("narrower", ["q"])
    assert store.operators.add_queues("w1", ["night"]).told.endswith(
        "; its token admits only queue q: no jobs of night"
    )
    come_by("wide", None)
    assert store.operators.add_queues("w1", ["night"]).told == "queues q, night, day, dawn now"


def test_edge3s_workers_keep_edge3s_rules(engine: sa.Engine, store: Store) -> None:
    _edge3_worker(engine, "offline")
    for verb in (
        lambda: store.operators.wish_concurrency("e3", 2),
        lambda: store.operators.add_queues("e3", ["r"]),
        lambda: store.operators.remove_queues("e3", ["r"]),
    ):
        with pytest.raises(UsageError, match="this edge3 worker is offline"):
            verb()
    with engine.begin() as connection:
        connection.execute(edge_worker.update().values(state="idle"))
    with pytest.raises(UsageError, match="1 or more"):
        store.operators.wish_concurrency("e3", 0)
    done = store.operators.wish_concurrency("e3", 2)
    assert (done.kind, done.revision) == ("edge3", 0)
    assert store.operators.request_maintenance("e3", "why").state == "maintenance request"
    assert store.operators.request_shutdown("e3").state == "shutdown request"


# The worker's own host


def _asks(one: FakeWorker, number: int, *, maintenance: bool) -> Asked:
    asked = Asked(number=number, maintenance=maintenance, comment="on the host" if maintenance else "")
    one.store.workers.take_in(one.principal, asked)
    return asked


def test_the_host_asks_for_maintenance(store: Store, one: FakeWorker) -> None:
    _asks(one, 1, maintenance=True)
    wish = _news(store, 0)
    assert (wish.maintenance, wish.comment, wish.asked) == (True, "on the host", 1)
    _apply(one, wish)
    # The centre ends it; what the host said before comes once more, late.
    store.operators.exit_maintenance("w1")
    _asks(one, 1, maintenance=True)
    wish = _news(store, 1)
    assert (wish.maintenance, wish.asked) == (False, 1)
    _apply(one, wish)
    _asks(one, 2, maintenance=True)
    _asks(one, 3, maintenance=False)
    wish = _news(store, 2)
    assert (wish.maintenance, wish.asked) == (False, 3)


def test_a_hello_tells_what_the_host_asked_for_meanwhile(store: Store, one: FakeWorker) -> None:
    asked = Asked(number=4, maintenance=True, comment="at sea")
    back = one.register(life=LIFE, inventory=replace(one.inventory(), maintenance=True, asked=asked))
    assert (back.wish.maintenance, back.wish.comment, back.wish.asked) == (True, "at sea", 4)
    _apply(one, back.wish)
    assert _state(store) == "maintenance mode"


def test_another_host_counts_anew(store: Store, one: FakeWorker) -> None:
    _asks(one, 9, maintenance=True)
    store.operators.exit_maintenance("w1")
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=None)
    asked = Asked(number=1, maintenance=True, comment="the new machine")
    other = FakeWorker(store)
    back = other.register(life=NEXT_LIFE, inventory=replace(other.inventory(), asked=asked))
    assert (back.wish.maintenance, back.wish.comment, back.wish.asked) == (True, "the new machine", 1)


# Offers that a wish does not admit


def _offers(engine: sa.Engine, one: FakeWorker, *queues: str) -> list[ClaimId]:
    jobs = [new_job(f"t{number}", queue=queue) for number, queue in enumerate(queues)]
    enqueue(engine, *jobs)
    return [claimed.claim for job in jobs for claimed in one.claim(job)]


def test_removing_a_queue_frees_what_is_offered_of_it(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    store.operators.add_queues("w1", ["r"])
    sent = _news(store, 0).revision
    of_q, of_r, accepted = _offers(engine, one, "q", "r", "q")
    one.accept(accepted)
    store.operators.remove_queues("w1", ["q"])
    new = store.dispatch.new_wishes({W1: sent})[W1]
    assert (new.wish.queues, new.taken_back) == (("r",), (of_q,))
    assert job_row(engine, new_job("t0").key).state == "queued"
    assert of_r in store.workers.open_ids([W1])
    # Its acceptance crosses the taking back.
    assert one.accept(of_q).value == "stale"


def test_fewer_slots_free_the_newest_offers(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    claims = _offers(engine, one, "q", "q", "q", "q")
    one.accept(claims[0])
    store.operators.wish_concurrency("w1", 2)
    taken_back = store.dispatch.new_wishes({W1: 0})[W1].taken_back
    assert set(taken_back) == set(claims[2:])
    assert store.workers.open_ids([W1]) == set(claims[:2])


def test_what_a_removed_queue_frees_counts_for_the_slots(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    store.operators.add_queues("w1", ["r"])
    sent = _news(store, 0).revision
    of_q, *of_r = _offers(engine, one, "q", "r", "r")
    store.operators.remove_queues("w1", ["q"])
    store.operators.wish_concurrency("w1", 2)
    assert store.dispatch.new_wishes({W1: sent})[W1].taken_back == (of_q,)
    assert store.workers.open_ids([W1]) == set(of_r)


@pytest.mark.parametrize("how", ["maintenance", "shutdown"])
def test_nothing_offered_is_left_to_a_worker_that_takes_nothing(
    engine: sa.Engine, store: Store, one: FakeWorker, how: str
) -> None:
    offered, accepted = _offers(engine, one, "q", "q")
    one.accept(accepted)
    if how == "maintenance":
        store.operators.request_maintenance("w1", "why")
    else:
        store.operators.request_shutdown("w1")
    assert store.dispatch.new_wishes({W1: 0})[W1].taken_back == (offered,)
    assert store.workers.open_ids([W1]) == {accepted}


def test_claims_in_a_hello_make_the_maintenance_pending(store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "why")
    held = Held(claim=ClaimId("c"), phase=Phase.STARTED, log_end=0)
    one.register(life=LIFE, inventory=replace(one.inventory(), maintenance=True, claims=(held,)))
    assert _state(store) == "maintenance pending"
