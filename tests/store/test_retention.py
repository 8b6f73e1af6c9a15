"""Workers that have been away for long are forgotten; others never are."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edge_ws.protocol.frames import Bye
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, epoch_now, utc_now, worker
from tests.support.rows import FakeWorker, enqueue, new_job

MONTH_S = 30 * 86_400.0


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    return Store(engine)


def age(engine: sa.Engine, name: str, seen_s: float, state: str = "offline") -> None:
    """Have the worker be away for so long."""
    with engine.begin() as connection:
        connection.execute(
            worker.update()
            .where(worker.c.worker_name == name)
            .values(seen_at=epoch_now() - seen_s, gateway=None)
        )
        connection.execute(edge_worker.update().where(edge_worker.c.worker_name == name).values(state=state))


def left(engine: sa.Engine) -> tuple[set[str], set[str]]:
    """Return the names in edge3's table and in ours."""
    with engine.connect() as connection:
        both = [connection.scalars(sa.select(table.c.worker_name)) for table in (edge_worker, worker)]
        return set(both[0]), set(both[1])


@pytest.mark.parametrize("state", ["offline", "unknown", "offline maintenance"])
def test_who_is_away_for_long_is_forgotten(engine: sa.Engine, store: Store, state: str) -> None:
    for name in ("old", "young", "here"):
        FakeWorker(store, name=name).register()
    age(engine, "old", MONTH_S + 60, state)
    age(engine, "young", MONTH_S - 60, state)
    assert store.retention.forget_workers(MONTH_S) == ["old"]
    assert left(engine) == ({"young", "here"}, {"young", "here"})
    assert store.retention.forget_workers(MONTH_S) == []


def test_who_is_not_shown_as_away_stays(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store).register()
    age(engine, "w1", MONTH_S + 60, "running")
    assert store.retention.forget_workers(MONTH_S) == []
    assert left(engine) == ({"w1"}, {"w1"})


def test_who_may_still_run_a_job_stays(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    one.register()
    job = new_job()
    enqueue(engine, job)
    claim = one.start(job)
    age(engine, "w1", MONTH_S + 60, "unknown")
    assert store.retention.forget_workers(MONTH_S) == []
    one.finish(claim)
    assert store.retention.forget_workers(MONTH_S) == ["w1"]


def test_edge3s_workers_stay(engine: sa.Engine, store: Store) -> None:
    FakeWorker(store, name="taken-over").register()
    age(engine, "taken-over", MONTH_S + 60)
    with engine.begin() as connection:
        # An edge3 worker has had the name since, and is away, too.
        connection.execute(edge_worker.update().values(sysinfo={"concurrency": 1}, last_update=utc_now()))
        connection.execute(
            edge_worker.insert().values(
                worker_name="edge3s", state="offline", jobs_active=0, last_update=None
            )
        )
    assert store.retention.forget_workers(MONTH_S) == []
    assert left(engine) == ({"taken-over", "edge3s"}, set())


def test_it_may_come_back(engine: sa.Engine, store: Store) -> None:
    one = FakeWorker(store)
    registered = one.register()
    store.workers.disconnected(one.principal, registered.connection, left=Bye(reason="stop"))
    age(engine, "w1", MONTH_S + 60)
    assert store.retention.forget_workers(MONTH_S) == ["w1"]
    assert one.register().wish.revision == 0
    assert left(engine) == ({"w1"}, {"w1"})
