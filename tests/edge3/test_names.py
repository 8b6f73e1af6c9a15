"""A worker's name goes from edge3's worker to ours and back: no row of either is left in the other's way."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.utils.session import create_session

from edge_ws.errors import RefusedError
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, epoch_now, worker
from tests.support.centre import Centre
from tests.support.rows import FakeWorker

NAME = "factory-7"
SYSINFO = {"status": 20, "concurrency": 8, "free_concurrency": 8}


class Edge3Worker:
    """What edge3's worker says of itself, at its real routes."""

    def _body(self, state: str, **more: Any) -> Any:
        from airflow import __version__ as core
        from airflow.providers.edge3 import __version__ as edge3
        from airflow.providers.edge3.models.edge_worker import EdgeWorkerState
        from airflow.providers.edge3.worker_api.datamodels import WorkerStateBody

        sysinfo = {**SYSINFO, "airflow_version": core, "edge_provider_version": edge3}
        return WorkerStateBody(
            state=EdgeWorkerState(state), jobs_active=0, queues=["q"], sysinfo=sysinfo, **more
        )

    def register(self) -> None:
        from airflow.providers.edge3.worker_api.routes.worker import register

        with create_session(scoped=False) as session:
            register(NAME, self._body("starting"), session)

    def beat(self, state: str = "idle") -> Any:
        from airflow.providers.edge3.worker_api.routes.worker import set_state

        with create_session(scoped=False) as session:
            return set_state(NAME, self._body(state), session)


@pytest.fixture
def store(centre: Centre) -> Store:
    return Store(centre.engine)


def row(centre: Centre) -> Any:
    with centre.engine.connect() as connection:
        return connection.execute(sa.select(edge_worker)).one()


def leave(ours: FakeWorker, connection: str) -> None:
    from edge_ws.protocol.frames import Bye

    assert ours.store.workers.disconnected(ours.principal, connection, left=Bye(reason="shutdown"))


def test_a_live_one_of_edge3s_keeps_its_name(centre: Centre, store: Store) -> None:
    theirs = Edge3Worker()
    theirs.register()
    with pytest.raises(RefusedError, match="in use by a live edge3 worker"):
        FakeWorker(store, NAME).register()
    theirs.beat("offline")
    FakeWorker(store, NAME).register()
    (shown,) = store.views.workers()
    assert (shown.is_ours, shown.state, shown.queues) == (True, "idle", ("q",))


def test_a_dead_one_of_edge3s_loses_it(centre: Centre, store: Store) -> None:
    Edge3Worker().register()
    with centre.engine.begin() as connection:
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=3)
        connection.execute(edge_worker.update().values(last_update=long_ago))
    FakeWorker(store, NAME).register()


def test_a_live_one_of_ours_keeps_its_name(centre: Centre, store: Store) -> None:
    from fastapi import HTTPException

    FakeWorker(store, NAME).register()
    with pytest.raises(HTTPException, match=re.compile("already active", re.DOTALL)):
        Edge3Worker().register()


def test_what_ours_has_left_does_not_touch_edge3s(centre: Centre, store: Store) -> None:
    ours = FakeWorker(store, NAME)
    leave(ours, ours.register().connection)
    assert row(centre).state == "offline"
    theirs = Edge3Worker()
    theirs.register()
    with centre.engine.begin() as connection:
        connection.execute(worker.update().values(seen_at=epoch_now() - 3600))
    store.liveness.mark_silent()
    assert row(centre).state == "starting"
    theirs.beat()
    store.liveness.mark_silent()
    assert row(centre).state == "idle"
    store.retention.forget_workers(60.0)
    assert row(centre).state == "idle"
    (shown,) = store.views.workers()
    assert (shown.is_ours, shown.state) == (False, "idle")


def test_operators_verbs_treat_it_as_what_it_is(centre: Centre, store: Store) -> None:
    ours = FakeWorker(store, NAME)
    connection = ours.register().connection
    assert store.operators.wish_concurrency(NAME, 3).kind == "edge-ws"
    leave(ours, connection)
    theirs = Edge3Worker()
    theirs.register()
    wished = store.operators.wish_concurrency(NAME, 5)
    assert (wished.kind, wished.revision) == ("edge3", 0)
    assert theirs.beat().concurrency == 5
    store.operators.request_maintenance(NAME, "why not")
    assert theirs.beat().state == "maintenance request"


def test_back_and_forth(centre: Centre, store: Store) -> None:
    """A wish of edge3's time is in force for ours, and the other way round: one column, one wish."""
    theirs = Edge3Worker()
    theirs.register()
    with centre.engine.begin() as connection:
        connection.execute(edge_worker.update().values(concurrency=2))
    theirs.beat("offline")
    ours = FakeWorker(store, NAME)
    registered = ours.register()
    assert registered.wish.concurrency == 2
    leave(ours, registered.connection)
    theirs.register()
    assert theirs.beat().concurrency == 2
    theirs.beat("offline")
    # What edge3's worker serves is its own affair, and no wish.
    wish = FakeWorker(store, NAME, queues=("mine",), site=ours.site).register().wish
    assert (wish.concurrency, wish.queues) == (2, None)
    assert row(centre).queues == "['mine']"
