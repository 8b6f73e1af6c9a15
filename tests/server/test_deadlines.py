"""The deadline of a shutdown: from the operator's verb to what the worker hears."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.protocol.frames import Bye, Wish
from edge_ws.protocol.ids import CONTROL, DEADLINE, LifeId, WorkerName
from edge_ws.server.admin import perform
from edge_ws.store.records import WishRecord
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, utc_now
from tests.support.gateway import RunningGateway, connected, make_token
from tests.support.rows import LIFE, NEXT_LIFE, FakeWorker
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

W1 = WorkerName("w1")
ABLE = frozenset({DEADLINE})
SHUTDOWN = "shutdown-remote-edge-worker"


def shut_down(store: Store, **given: object) -> dict[str, Any]:
    told: dict[str, Any] = perform(store, SHUTDOWN, {"worker": "w1", **given})
    return told


def wish_of(store: Store) -> WishRecord:
    return store.dispatch.new_wishes({W1: -1})[W1].wish


def left_s(store: Store) -> float:
    leave_at = wish_of(store).leave_at
    assert leave_at is not None
    return leave_at - time.monotonic()


def leaves_by(store: Store) -> object:
    return perform(store, "show-worker", {"worker": "w1"})["leaves_by"]


async def test_a_worker_hears_what_is_left_of_it(store: Store, gateway: RunningGateway) -> None:
    token = make_token(store)
    async with connected(gateway, token, greet=False) as peer:
        await peer.hello(capabilities=(CONTROL, DEADLINE), life=LifeId("life"))
        await until(store.views.workers)
        told = shut_down(store, deadline="1m")
        assert told["told"] == "shutdown; what still runs in 60 s is stopped"
        wish = await peer.expect(Wish)
        assert wish.shutdown
        assert wish.deadline_s is not None
        assert 50 < wish.deadline_s <= 60
        # Another one is told, too, although nothing else has changed.
        shut_down(store, deadline=7200)
        later = await peer.expect(Wish)
        assert later.revision > wish.revision
        assert later.deadline_s is not None
        assert later.deadline_s > 7000
        assert leaves_by(store) is not None


async def test_a_worker_that_does_not_know_it_is_not_asked(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    # What the worker says of itself is not what a gateway knows of it.
    one.register(life=LIFE, sysinfo={"concurrency": 4, "capabilities": DEADLINE})
    with engine.begin() as connection:
        row = {"worker_name": "e3", "state": "idle", "jobs_active": 0, "sysinfo": {}, "queues": "['q']"}
        connection.execute(edge_worker.insert().values(**row, last_update=utc_now()))
    given = {"worker": ["w1", "e3"], "deadline": "30m"}
    old, theirs = perform(store, SHUTDOWN, given)
    assert "is of a release that knows no deadline" in old["error"]
    assert "is an edge3 worker, which knows no deadline" in theirs["error"]
    assert {row["state"] for row in perform(store, "list-workers", {})} == {"idle"}
    with pytest.raises(UsageError, match="knows no deadline"):
        shut_down(store, deadline="30m")
    assert shut_down(store)["error"] is None


async def test_it_is_for_one_life(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    registered = one.register(life=LIFE, capabilities=ABLE)
    shut_down(store, deadline="1h")
    assert 3590 < left_s(store) <= 3600
    # The same life comes back: so much is left of it.
    assert 3580 < (one.register(life=LIFE, capabilities=ABLE).wish.leave_at or 0) - time.monotonic() <= 3600
    registered = one.register(life=LIFE, capabilities=ABLE)
    store.workers.disconnected(one.principal, registered.connection, left=Bye(reason="drained"))
    assert leaves_by(store) is None
    assert one.register(life=NEXT_LIFE, capabilities=ABLE).wish.leave_at is None
    # Nor has its own shutdown that deadline.
    shut_down(store)
    assert (wish_of(store).shutdown, wish_of(store).leave_at) == (True, None)
    assert leaves_by(store) is None


async def test_a_later_shutdown_without_one_leaves_it(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    FakeWorker(store).register(life=LIFE, capabilities=ABLE)
    shut_down(store, deadline=600)
    shut_down(store)
    assert 590 < left_s(store) <= 600


async def test_one_that_is_silent_hears_it_when_it_is_back(sqlite_engine: sa.Engine) -> None:
    store = Store(sqlite_engine)
    one = FakeWorker(store)
    one.register(life=LIFE, capabilities=ABLE)
    with sqlite_engine.begin() as connection:
        connection.execute(edge_worker.update().values(state="unknown"))
    shut_down(store, deadline=0)
    wish = one.register(life=LIFE, capabilities=ABLE).wish
    assert wish.shutdown
    assert wish.leave_at is not None
    assert wish.leave_at <= time.monotonic()


@pytest.mark.parametrize("deadline", ["soon", "8d", -1, 1.5, "-5"])
async def test_a_wrong_one_shuts_nothing_down(sqlite_engine: sa.Engine, deadline: object) -> None:
    store = Store(sqlite_engine)
    FakeWorker(store).register(life=LIFE, capabilities=ABLE)
    with pytest.raises(UsageError, match="deadline"):
        shut_down(store, deadline=deadline)
    assert perform(store, "show-worker", {"worker": "w1"})["state"] == "idle"
