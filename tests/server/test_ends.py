"""Maintenance that ends by itself: when, once, whoever ends it, and what takes its end away."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Applied, Asked, Bye
from edge_ws.protocol.ids import WorkerName
from edge_ws.server.admin import perform
from edge_ws.store.operators import MOST_AHEAD_S, End
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, maintenance, utc_now
from tests.support.gateway import serving
from tests.support.rows import LIFE, NEXT_LIFE, FakeWorker
from tests.support.waiting import wait_until

W1 = WorkerName("w1")


@pytest.fixture
def one(store: Store) -> FakeWorker:
    fake = FakeWorker(store)
    fake.register(life=LIFE)
    return fake


def row_of(store: Store, name: str = "w1") -> dict[str, Any]:
    shown: dict[str, Any] = perform(store, "show-worker", {"worker": name})
    return shown


def let_it_be_over(engine: sa.Engine) -> None:
    """Move each end into the past: what passes is the database's time."""
    with engine.begin() as connection:
        connection.execute(maintenance.update().values(ends_at=maintenance.c.ends_at - MOST_AHEAD_S))


def write(engine: sa.Engine, **values: object) -> None:
    """Write as edge3's verbs do."""
    with engine.begin() as connection:
        connection.execute(edge_worker.update().values(**values))


def in_force(one: FakeWorker) -> None:
    """Have the worker apply what is wished."""
    wish = one.store.dispatch.new_wishes({W1: -1})[W1].wish
    applied = Applied(
        revision=wish.revision,
        concurrency=4,
        queues=("q",),
        maintenance=wish.maintenance,
        leaving=wish.shutdown,
    )
    one.store.workers.note_applied(one.principal, applied)


def test_it_ends_when_its_time_has_come_and_not_before(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    told = perform(
        store,
        "remote-edge-worker-request-maintenance",
        {"worker": "w1", "comment": "belt", "for": "1h"},
        user="ann",
    )
    assert told["told"].startswith("maintenance until ")
    assert told["told"].endswith(", when it ends by itself")
    in_force(one)
    done = store.ends.end_due()
    assert done.workers == []
    assert 3590 < done.next_s <= 3600
    row = row_of(store)
    assert (row["state"], row["maintenance_by"]) == ("maintenance mode", "ann")
    assert row["maintenance_since"] < row["maintenance_until"]
    assert " until 2" in row["why_no_jobs"]
    let_it_be_over(engine)
    assert store.ends.end_due().workers == ["w1"]
    row = row_of(store)
    assert (row["state"], row["maintenance_comment"], row["maintenance_until"]) == (
        "maintenance exit",
        None,
        None,
    )
    in_force(one)
    assert row_of(store)["state"] == "idle"
    assert store.ends.end_due() == ([], math.inf)


def test_of_several_gateways_one_ends_it(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    in_force(one)
    before = row_of(store)["wish_revision"]
    let_it_be_over(engine)
    with ThreadPoolExecutor(6) as gateways:
        done = list(gateways.map(lambda _: Store(engine).ends.end_due().workers, range(6)))
    assert sorted(done) == [[]] * 5 + [["w1"]]
    assert row_of(store)["wish_revision"] == before + 1


def test_a_gateway_that_comes_back_ends_at_once_what_is_over(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    let_it_be_over(engine)
    with serving(store):
        wait_until(lambda: row_of(store)["maintenance_comment"] is None)
    assert row_of(store)["state"] == "maintenance exit"


def test_a_gateway_ends_it_in_time(store: Store, one: FakeWorker) -> None:
    with serving(store):
        store.operators.request_maintenance("w1", "belt", end=End(in_s=0.5))
        wait_until(lambda: row_of(store)["state"] == "maintenance exit")


def by_our_verb(engine: sa.Engine, one: FakeWorker) -> None:
    one.store.operators.request_maintenance("w1", "belt")


def by_edge3s_verb(engine: sa.Engine, one: FakeWorker) -> None:
    write(engine, maintenance_comment="edge3's word", state="maintenance request")


def by_the_host(engine: sa.Engine, one: FakeWorker) -> None:
    one.store.workers.take_in(one.principal, Asked(number=1, maintenance=True, comment="belt"))


@pytest.mark.parametrize("asks", [by_our_verb, by_edge3s_verb, by_the_host])
def test_whoever_asks_anew_has_it_without_that_end(
    engine: sa.Engine, store: Store, one: FakeWorker, asks: Callable[[sa.Engine, FakeWorker], None]
) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    asks(engine, one)
    assert row_of(store)["maintenance_until"] is None
    let_it_be_over(engine)
    assert store.ends.end_due().workers == []
    assert row_of(store)["state"] == "maintenance request"
    # Nor is it looked at again.
    assert store.ends.end_due().next_s == math.inf


def test_another_end_takes_the_place_of_the_one_that_is_due(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    let_it_be_over(engine)
    # At the same moment: whoever comes first, the operator's word stands.
    with ThreadPoolExecutor(2) as both:
        ended = both.submit(store.ends.end_due)
        asked = both.submit(store.operators.request_maintenance, "w1", "belt", end=End(in_s=7200.0))
        ended.result()
        assert asked.result().state == "maintenance request"
    done = store.ends.end_due()
    assert done.workers == []
    assert 7190 < done.next_s <= 7200
    assert row_of(store)["state"] == "maintenance request"


def test_our_own_new_comment_keeps_the_end(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0), by="ann")
    until = row_of(store)["maintenance_until"]
    store.operators.update_maintenance_comment("w1", "and a motor")
    row = row_of(store)
    assert (row["maintenance_until"], row["maintenance_by"]) == (until, "ann")
    let_it_be_over(engine)
    assert store.ends.end_due().workers == ["w1"]


def test_an_operators_end_comes_first(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    store.operators.exit_maintenance("w1")
    # Asked for anew by edge3's verb, in the same words.
    write(engine, maintenance_comment="belt", state="maintenance request")
    let_it_be_over(engine)
    assert store.ends.end_due() == ([], math.inf)


def test_one_that_is_away_is_in_no_maintenance_when_it_comes(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    registered = one.register(life=LIFE)
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    in_force(one)
    store.workers.disconnected(
        one.principal, registered.connection, left=Bye(reason="drained", maintenance=True)
    )
    assert row_of(store)["maintenance_until"] is not None
    let_it_be_over(engine)
    assert store.ends.end_due().workers == ["w1"]
    assert row_of(store)["state"] == "offline"
    assert not one.register(life=NEXT_LIFE).wish.maintenance


def test_one_that_leaves_is_in_no_maintenance_when_it_has(
    engine: sa.Engine, store: Store, one: FakeWorker
) -> None:
    registered = one.register(life=LIFE)
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    in_force(one)
    store.operators.request_shutdown("w1")
    in_force(one)
    let_it_be_over(engine)
    assert store.ends.end_due() == ([], math.inf)
    assert row_of(store)["maintenance_until"] is not None
    store.workers.disconnected(
        one.principal, registered.connection, left=Bye(reason="drained", maintenance=True)
    )
    assert store.ends.end_due().workers == ["w1"]
    assert row_of(store)["state"] == "offline"


def test_a_removed_worker_has_no_end_left(engine: sa.Engine, store: Store, one: FakeWorker) -> None:
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    write(engine, state="offline maintenance")
    store.operators.remove_worker("w1")
    with engine.connect() as connection:
        assert connection.execute(sa.select(maintenance)).all() == []
    # edge3's verb deletes its own row alone.
    one.register(life=NEXT_LIFE)
    store.operators.request_maintenance("w1", "belt", end=End(in_s=60.0))
    with engine.begin() as connection:
        connection.execute(edge_worker.delete())
    assert store.ends.end_due() == ([], math.inf)
    with engine.connect() as connection:
        assert connection.execute(sa.select(maintenance)).all() == []


def test_that_of_edge3s_worker_ends_too(engine: sa.Engine, store: Store) -> None:
    with engine.begin() as connection:
        row = {"worker_name": "e3", "state": "idle", "jobs_active": 0, "sysinfo": {}, "queues": "['q']"}
        connection.execute(edge_worker.insert().values(**row, last_update=utc_now()))
    store.operators.request_maintenance("e3", "belt", end=End(in_s=60.0), by="ann")
    write(engine, state="maintenance mode")
    assert row_of(store, "e3")["maintenance_by"] == "ann"
    let_it_be_over(engine)
    assert store.ends.end_due().workers == ["e3"]
    assert row_of(store, "e3")["state"] == "maintenance exit"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"until": "2020-01-01T00:00Z"}, "is over: by the database's clock it is"),
        ({"until": "9999-12-31T23:59:59Z"}, "is more than 366 days ahead"),
        ({"until": "9999-12-31T23:59:59-12:00"}, "is no time in ISO 8601"),
        ({"until": "tomorrow"}, "is no time in ISO 8601"),
        ({"until": "2020-01-01T00:00Z", "for": "2h"}, "give one of them"),
        ({"for": "soon"}, "for: 'soon' is no length of time"),
        ({"for": "367d"}, "for: 367d is not between"),
        ({"for": 0}, "for: 0 is not between"),
        ({"for": True}, "for must be seconds"),
    ],
)
def test_a_wrong_end_changes_nothing(sqlite_engine: sa.Engine, given: dict[str, object], why: str) -> None:
    store = Store(sqlite_engine)
    FakeWorker(store).register()
    with pytest.raises(UsageError, match=why):
        perform(store, "remote-edge-worker-request-maintenance", {"worker": "w1", "comment": "belt", **given})
    assert row_of(store)["state"] == "idle"


def test_an_end_without_an_offset_is_utc(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    FakeWorker(store).register()
    tomorrow = store.views.clock() + 86_400
    with sqlite_engine.connect() as connection:
        text = connection.scalar(sa.text(f"SELECT strftime('%Y-%m-%dT%H:%M:00', {tomorrow}, 'unixepoch')"))
    given = {"worker": ["w1", "w2"], "comment": "belt", "until": text}
    first, second = perform(store, "remote-edge-worker-request-maintenance", given)
    assert (first["error"], second["told"]) == (None, None)
    assert row_of(store)["maintenance_until"] == f"{text}+00:00"
