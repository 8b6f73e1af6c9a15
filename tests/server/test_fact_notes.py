"""What workers say of their machines comes to the database: seldom, and all at once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import ServerSession
from edge_ws.server.fact_notes import FactNotes
from edge_ws.server.hub import Hub, Link
from edge_ws.server.standing import are_news
from edge_ws.server.views import show_worker
from edge_ws.store.records import Principal
from edge_ws.store.store import Store
from edge_ws.store.tables import edge_worker, worker
from tests.support.workers import register_worker

pytestmark = pytest.mark.anyio
SAID = {"edge_ws_version": "1", "cpu_usage": 5.0, "press": "ready", "site_facts": "press"}


def connect(engine: sa.Engine, store: Store, hub: Hub, name: str) -> Link:
    register_worker(store, name)
    made = Link(Principal(worker=WorkerName(name)), ServerSession(0.0), "websocket")
    with engine.begin() as connection:
        of_it = worker.c.worker_name == name
        made.connection_id = connection.scalar(sa.select(worker.c.connection).where(of_it))
        told = {**SAID, "setting.queues": "a from --queues", "transport_since": "then", "not_ready": True}
        row = edge_worker.c.worker_name == name
        connection.execute(edge_worker.update().where(row).values(sysinfo=told))
    made.facts = made.facts_noted = dict(SAID)
    hub.add(made)
    return made


async def test_what_is_news_is_written_together(engine: sa.Engine, store: Store) -> None:
    hub = Hub(lambda: None, lambda _: None)
    links = [connect(engine, store, hub, f"w{number}") for number in range(3)]
    notes = FactNotes(store.liveness, hub)
    commits: list[object] = []

    def committed(connection: object) -> None:
        commits.append(connection)

    sa.event.listen(engine, "commit", committed)
    try:
        await notes.write()
        assert not commits
        # The machine ticks over: no news.
        links[0].facts = {**SAID, "cpu_usage": 14.0}
        await notes.write()
        assert not commits
        links[1].facts = {**SAID, "cpu_usage": 90.0}
        links[2].facts = {"edge_ws_version": "1", "cpu_usage": 5.0}
        await notes.write()
        await notes.write()
        assert len(commits) == 1
    finally:
        sa.event.remove(engine, "commit", committed)
    shown = [show_worker(store.views, f"w{number}") for number in range(3)]
    assert [one["sysinfo"].get("cpu_usage") for one in shown] == [5.0, 90.0, 5.0]
    assert [one["facts"] for one in shown] == [{"press": "ready"}, {"press": "ready"}, {}]
    for one in shown:
        assert one["settings"] == [{"name": "queues", "value": "a", "origin": "--queues"}]
        assert (one["sysinfo"]["transport_since"], one["sysinfo"]["not_ready"]) == ("then", True)


async def test_an_older_connection_writes_nothing(engine: sa.Engine, store: Store) -> None:
    hub = Hub(lambda: None, lambda _: None)
    link = connect(engine, store, hub, "w1")
    link.connection_id = "another"
    link.facts = {**SAID, "cpu_usage": 90.0}
    await FactNotes(store.liveness, hub).write()
    assert show_worker(store.views, "w1")["sysinfo"]["cpu_usage"] == 5.0


def test_what_is_news() -> None:
    assert not are_news({"a": 1, "b": "x"}, {"a": 1, "b": "x"})
    assert are_news({"a": 1}, {"a": 1, "b": "x"})
    assert are_news({"b": "x"}, {"b": "y"})
    assert are_news({"b": "x"}, {"b": 1})
    assert not are_news({"a": 100}, {"a": 109})
    assert are_news({"a": 100}, {"a": 115})
    assert not are_news({"sys_load": 0.1}, {"sys_load": 1.0})
