"""The reaper's look, one at a time: when it looks again, and whom it forgets."""

from __future__ import annotations

import anyio
import pytest
import sqlalchemy as sa

from edge_ws.protocol.ids import GatewayId
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub
from edge_ws.server.reaper import LOOK_S, PURGE_EVERY_S, SETTLE_S, Reaper
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, epoch_now, worker
from tests.support.gateway import LogFolder, Tasks
from tests.support.rows import FakeWorker, enqueue, new_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(sqlite_engine: sa.Engine) -> Store:
    return Store(sqlite_engine)


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


def make_reaper(store: Store, tasks: Tasks, **settings: float) -> Reaper:
    return Reaper(
        store,
        Hub(lambda: None, lambda _queues: None),
        GatewaySettings(hostname="test", **settings),
        GatewayId("g"),
        task_states=tasks,
        finished_logs=LogFolder(),
    )


@pytest.mark.parametrize(
    ("state", "again_s"),
    [("running", LOOK_S), ("failed", SETTLE_S), ("skipped", SETTLE_S), ("success", LOOK_S)],
)
async def test_it_looks_again_soon_where_a_task_was_ended(
    sqlite_engine: sa.Engine, store: Store, tasks: Tasks, state: str, again_s: float
) -> None:
    one = FakeWorker(store)
    one.register()
    job = new_job(ti_id="ti-1")
    enqueue(sqlite_engine, job)
    one.start(job)
    tasks.known["ti-1"] = state
    reaper, now = make_reaper(store, tasks), anyio.current_time()
    assert await reaper.look(now, whole=True) == again_s
    # Whoever is to be told has been told by then.
    assert await reaper.look(now + SETTLE_S, whole=True) == LOOK_S


async def test_an_idle_one_takes_its_time(store: Store, tasks: Tasks) -> None:
    assert await make_reaper(store, tasks).look(anyio.current_time(), whole=False) == LOOK_S


@pytest.mark.parametrize(("keep_s", "is_forgotten"), [(3600.0, True), (0.0, False), (90_000.0, False)])
async def test_a_worker_that_is_away_for_long_is_forgotten(
    sqlite_engine: sa.Engine, store: Store, tasks: Tasks, *, keep_s: float, is_forgotten: bool
) -> None:
    FakeWorker(store).register()
    with sqlite_engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=epoch_now() - 86_400.0, gateway=None))
        connection.execute(edge_worker.update().values(state="offline"))
    reaper = make_reaper(store, tasks, keep_offline_workers_s=keep_s)
    await reaper.look(PURGE_EVERY_S, whole=False)
    assert (store.views.workers() == []) is is_forgotten
