"""What is wished of a worker stays while nobody hears it, and whatever the database has missed or forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Applied, Asked, Bye
from edge_ws.protocol.ids import GatewayId, LifeId, WorkerName, new_id
from edge_ws.store.records import WishRecord
from edge_ws.store.retention import FORGOTTEN_S
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, gateway, utc_now, worker
from edge_ws.store.wishes import LARGEST_REVISION
from tests.support.rows import LIFE, NEXT_LIFE, FakeWorker, wish_of
from tests.support.waiting import wait_until


def _state(store: Store) -> str:
    (found,) = store.views.workers()
    return found.state


def _silent(engine: sa.Engine, store: Store) -> None:
    """Let nobody hear of any worker for long."""
    with engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=0.0))
    store.liveness.mark_silent()


def _apply(one: FakeWorker) -> WishRecord:
    """Put in force what is wished, and say so."""
    wish = wish_of(one.store, one.name)
    applied = Applied(
        revision=wish.revision,
        concurrency=one.concurrency if wish.concurrency is None else wish.concurrency,
        queues=one.queues,
        maintenance=wish.maintenance,
        leaving=wish.shutdown,
    )
    one.store.workers.note_applied(one.principal, applied)
    return wish


def _silent_in_maintenance(engine: sa.Engine, one: FakeWorker) -> WishRecord:
    """Let nobody hear of a worker that is in maintenance; return the wish that it has in force."""
    one.store.operators.request_maintenance("w1", "new disk")
    wish = _apply(one)
    _silent(engine, one.store)
    assert _state(one.store) == "offline maintenance"
    return wish


def _comes_back(one: FakeWorker, *, maintenance: bool, revision: int, life: LifeId = LIFE) -> WishRecord:
    inventory = replace(one.inventory(), maintenance=maintenance, revision=revision)
    return one.register(life=life, inventory=inventory).wish


# Maintenance


def test_the_end_of_maintenance_holds_against_what_was_in_force_before(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    wish = _silent_in_maintenance(engine, one)
    store.operators.exit_maintenance("w1")
    # Nobody has told it, so it says what it knows, in its hello and once more after it.
    assert not _comes_back(one, maintenance=True, revision=wish.revision).maintenance
    late = Applied(revision=wish.revision, concurrency=4, queues=("q",), maintenance=True)
    store.workers.note_applied(one.principal, late)
    assert _state(store) == "idle"
    assert not _apply(one).maintenance


def test_a_host_that_says_maintenance_after_a_restart_asks_for_nothing(store: Store, one: FakeWorker) -> None:
    store.workers.take_in(one.principal, Asked(number=1, maintenance=True, comment="on the host"))
    _apply(one)
    store.operators.exit_maintenance("w1")
    _apply(one)
    said = Asked(number=1, maintenance=True, comment="on the host")
    inventory = replace(one.inventory(), maintenance=True, asked=said)
    assert not one.register(life=NEXT_LIFE, inventory=inventory).wish.maintenance
    assert _state(store) == "idle"


def test_who_is_heard_again_without_a_hello_is_in_maintenance_still(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    connection = one.register(life=LIFE).connection
    wish = _silent_in_maintenance(engine, one)
    store.liveness.beat([connection])
    assert _state(store) == "maintenance request"
    # Told once more, it says so once more.
    assert store.dispatch.new_wishes({WorkerName("w1"): wish.revision})[WorkerName("w1")].wish == wish
    _apply(one)
    assert _state(store) == "maintenance mode"


def test_who_is_heard_again_after_its_maintenance_was_ended_is_here(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    connection = one.register(life=LIFE).connection
    _silent_in_maintenance(engine, one)
    assert store.operators.exit_maintenance("w1").state == "offline"
    store.liveness.beat([connection])
    assert _state(store) == "idle"


def test_a_heartbeat_does_not_bring_back_who_has_left(store: Store, one: FakeWorker) -> None:
    connection = one.register(life=LIFE).connection
    store.workers.disconnected(one.principal, connection, left=Bye(reason="drained"))
    store.liveness.beat([connection])
    assert _state(store) == "offline"


def test_maintenance_that_the_host_asks_for_while_it_shuts_down_is_for_its_next_life(
    store: Store, one: FakeWorker
) -> None:
    store.operators.request_shutdown("w1")
    _apply(one)
    store.workers.take_in(one.principal, Asked(number=1, maintenance=True, comment="new disk"))
    wish = _apply(one)
    assert (wish.shutdown, wish.maintenance, wish.comment, wish.asked) == (True, True, "new disk", 1)
    connection = one.register(life=LIFE).connection
    store.workers.disconnected(one.principal, connection, left=Bye(reason="drained", maintenance=True))
    back = one.register(life=NEXT_LIFE).wish
    assert (back.shutdown, back.maintenance, back.comment) == (False, True, "new disk")


# Shutdown


@pytest.mark.parametrize("maintenance", [False, True])
def test_a_shutdown_that_nobody_could_tell_is_told_when_that_life_is_heard_again(
    engine: sa.Engine, store: Store, one: FakeWorker, maintenance: bool
) -> None:
    if maintenance:
        store.operators.request_maintenance("w1", "new disk")
        _apply(one)
    before = wish_of(store, "w1").revision
    with engine.begin() as connection:
        # As edge3's CLI does it, while no gateway is there to number it.
        connection.execute(edge_worker.update().values(state="shutdown request"))
    _silent(engine, store)
    assert _state(store) == ("offline maintenance" if maintenance else "unknown")
    with pytest.raises(UsageError, match="w1 is shutting down"):
        store.operators.request_maintenance("w1", "why")
    with pytest.raises(UsageError, match="w1 is shutting down"):
        store.operators.exit_maintenance("w1")
    wish = _comes_back(one, maintenance=maintenance, revision=before)
    assert (wish.shutdown, wish.maintenance) == (True, maintenance)
    assert _state(store) == "shutdown request"


@pytest.mark.parametrize("maintenance", [False, True])
def test_a_silent_worker_can_be_shut_down_for_its_present_life(
    engine: sa.Engine, store: Store, one: FakeWorker, maintenance: bool
) -> None:
    if maintenance:
        store.operators.request_maintenance("w1", "new disk")
        _apply(one)
    before = wish_of(store, "w1").revision
    _silent(engine, store)
    state = "offline maintenance" if maintenance else "unknown"
    asked = store.operators.request_shutdown("w1")
    assert (asked.revision, asked.state) == (before + 1, state)
    assert asked.told == f"shutdown; it is {state}: kept until it connects"
    assert store.operators.request_shutdown("w1").revision == before + 1
    # It was not: another life of it comes.
    wish = _comes_back(one, maintenance=False, revision=0, life=NEXT_LIFE)
    assert (wish.shutdown, wish.maintenance) == (False, maintenance)
    assert _state(store) == ("maintenance request" if maintenance else "idle")


def test_a_shutdown_of_a_silent_worker_is_told_when_it_is_heard_again_without_a_hello(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    connection = one.register(life=LIFE).connection
    _silent(engine, store)
    revision = store.operators.request_shutdown("w1").revision
    store.liveness.beat([connection])
    assert _state(store) == "shutdown request"
    wish = _apply(one)
    assert (wish.shutdown, wish.revision) == (True, revision)


def test_there_is_nothing_to_wait_for_where_there_is_nothing_to_shut_down(
    store: Store, one: FakeWorker
) -> None:
    store.operators.wish_concurrency("w1", 2)
    store.workers.disconnected(one.principal, one.register(life=LIFE).connection, left=Bye(reason="drained"))
    asked = store.operators.request_shutdown("w1")
    assert (asked.revision, asked.told) == (0, "nothing to shut down: it is offline")


def test_maintenance_of_a_silent_edge3_worker_is_refused(engine: sa.Engine, store: Store) -> None:
    """It goes on without registering anew, and its next word would overwrite the request."""
    row = {"worker_name": "e3", "state": "unknown", "jobs_active": 0, "sysinfo": {}, "queues": "['q']"}
    with engine.begin() as connection:
        connection.execute(edge_worker.insert().values(**row, last_update=utc_now()))
    with pytest.raises(UsageError, match="this edge3 worker is unknown"):
        store.operators.request_maintenance("e3", "why")
    with engine.begin() as connection:
        connection.execute(edge_worker.update().values(state="offline"))
    assert store.operators.request_maintenance("e3", "why").state == "offline maintenance"


@pytest.mark.parametrize(
    ("state", "then"),
    [
        ("idle", "unknown"),
        ("shutdown request", "unknown"),
        ("maintenance mode", "offline maintenance"),
        ("maintenance exit", "unknown"),
        ("offline", "offline"),
    ],
)
@pytest.mark.parametrize("beat_s", [None, 120.0])
def test_an_edge3_worker_that_is_dead_is_shown_so_though_no_edge3_executor_runs(
    engine: sa.Engine, store: Store, state: str, then: str, beat_s: float | None
) -> None:
    if beat_s is not None:
        store = Store(engine, edge3_beat_s=beat_s)
    abandoned_s = 10 * (beat_s or 30.0)
    row = {"worker_name": "e3", "jobs_active": 0, "sysinfo": {}, "queues": "['q']", "state": state}

    def last_seen(ago_s: float) -> None:
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        with engine.begin() as connection:
            connection.execute(edge_worker.update().values(last_update=at))

    with engine.begin() as connection:
        connection.execute(edge_worker.insert().values(**row, last_update=utc_now()))
    last_seen(abandoned_s - 30.0)
    store.liveness.mark_silent()
    assert _state(store) == state
    last_seen(abandoned_s + 30.0)
    store.liveness.mark_silent()
    assert _state(store) == then
    assert store.operators.remove_worker("e3").told == "removed"


# Numbers


def test_a_database_that_knows_less_than_the_worker_tells_it_anew(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    """Restored from a backup, or the worker was removed while only its link was down."""
    store.operators.wish_concurrency("w1", 3)
    assert _comes_back(one, maintenance=False, revision=7).revision == 2
    assert store.operators.applied("w1") == 0
    wish = _apply(one)
    assert (wish.revision, wish.concurrency) == (2, 3)
    _silent(engine, store)
    store.operators.remove_worker("w1")
    assert _comes_back(one, maintenance=False, revision=2).revision == 1
    asked = store.operators.wish_concurrency("w1", 2)
    assert asked.revision == 2
    assert store.operators.applied("w1") == 0
    _apply(one)
    assert store.operators.applied("w1") == 2


def test_a_worker_does_not_say_how_far_the_numbers_are(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    assert _comes_back(one, maintenance=False, revision=LARGEST_REVISION).revision == 1
    store.workers.note_applied(
        one.principal, Applied(revision=LARGEST_REVISION, concurrency=4, queues=("q",))
    )
    assert store.operators.applied("w1") == 0
    assert store.operators.wish_concurrency("w1", 2).revision == 2
    _apply(one)
    assert store.operators.applied("w1") == 2


@pytest.mark.parametrize("last", [LARGEST_REVISION - 1, LARGEST_REVISION])
def test_numbers_begin_anew_after_the_greatest(
    engine: sa.Engine, store: Store, one: FakeWorker, last: int
) -> None:
    """A row that an older release let a worker number."""
    numbers = {"wish_revision": last, "applied_revision": last}
    with engine.begin() as connection:
        connection.execute(worker.update().values(numbers))
    store.operators.wish_concurrency("w1", 3)
    asked = store.operators.wish_concurrency("w1", 2)
    assert asked.revision == (1 if last == LARGEST_REVISION - 1 else 2)
    assert store.operators.applied("w1") == 0
    wish = _apply(one)
    assert (wish.revision, wish.concurrency) == (asked.revision, 2)
    assert store.operators.applied("w1") == asked.revision
    with engine.begin() as connection:
        connection.execute(worker.update().values(numbers))
    _silent(engine, store)
    assert store.operators.request_shutdown("w1").revision in {1, LARGEST_REVISION}


def test_whoever_numbers_a_wish_sends_that_very_one(postgres_engine: sa.Engine) -> None:
    """A gateway has read a wish without a number when an operator's, later, is given that number."""
    store = Store(postgres_engine)
    FakeWorker(store).register()
    name = WorkerName("w1")
    with postgres_engine.begin() as connection:
        connection.execute(edge_worker.update().values(concurrency=5))
    with ThreadPoolExecutor(1) as pool:
        with postgres_engine.begin() as connection:
            connection.execute(sa.select(worker.c.worker_name).with_for_update())
            found = pool.submit(store.dispatch.new_wishes, {name: 0})
            waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            with postgres_engine.connect() as beside:
                wait_until(lambda: beside.scalar(waits) > 0, 30.0)
            connection.execute(edge_worker.update().values(concurrency=6))
            connection.execute(worker.update().values(wish_revision=1, wish_concurrency=6))
        wish = found.result(30)[name].wish
    assert (wish.revision, wish.concurrency) == (1, 6)


def test_who_comes_back_at_this_moment_is_not_taken_for_silent(postgres_engine: sa.Engine) -> None:
    store = Store(postgres_engine)
    FakeWorker(store).register()
    with postgres_engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=0.0))
    with postgres_engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=sa.func.extract("epoch", sa.func.now())))
        store.liveness.mark_silent()
    assert _state(store) == "idle"
    store.liveness.mark_silent()
    assert _state(store) == "idle"


def test_a_worker_that_is_removed_meanwhile_has_no_wish(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register(life=LIFE)
    store.operators.wish_concurrency("w1", 2)
    with engine.begin() as connection:
        # edge3's verb, which knows one table only.
        connection.execute(edge_worker.delete())
    assert store.dispatch.new_wishes({WorkerName("w1"): 0}) == {}


# Gateways


def test_a_gateway_that_was_forgotten_makes_itself_known_again(engine: sa.Engine, store: Store) -> None:
    this, other = GatewayId(new_id()), GatewayId(new_id())
    for one in (this, other):
        store.liveness.announce(one, "api-1", 7)
    with engine.begin() as connection:
        connection.execute(gateway.update().values(seen_at=gateway.c.seen_at - FORGOTTEN_S + 60))
    store.retention.purge(0.0)
    assert len(store.views.gateways()) == 2
    with engine.begin() as connection:
        connection.execute(gateway.update().values(seen_at=gateway.c.seen_at - 120))
    store.liveness.announce(other, "api-1", 7)
    store.retention.purge(0.0)
    assert [one.id for one in store.views.gateways()] == [other]
    store.liveness.announce(this, "api-1", 7)
    assert {one.id for one in store.views.gateways()} == {this, other}
