"""What waits is read in order, and other queues' backlogs are not read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.store.records import CALLBACK_PRIORITY, JobKey
from edge_ws.store.store import Store
from tests.support.rows import enqueue, new_job

DEAD = 5000
_FILL = (
    "INSERT INTO edge_job (dag_id, task_id, run_id, map_index, try_number, state, queue, concurrency_slots,"
    " priority_weight, command, queued_dttm)"
    " SELECT 'd', 't' || n, 'r', -1, 1, 'queued', 'dead', 1, 100, 'x', CURRENT_TIMESTAMP FROM ({numbers}) g"
)
_NUMBERS = {
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {most}) SELECT n FROM c",
    "postgresql": "SELECT n FROM generate_series(1, {most}) n",
}
_EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN (ANALYZE, COSTS off, TIMING off) "}


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    numbers = _NUMBERS[engine.dialect.name].format(most=DEAD)
    with engine.begin() as connection:
        connection.exec_driver_sql(_FILL.format(numbers=numbers))
    return Store(engine)


@contextmanager
def last_statement(engine: sa.Engine) -> Iterator[list[tuple[str, object]]]:
    seen: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


def names(store: Store, *queues: str, limit: int = 10, **more: object) -> list[str]:
    return [one.key.task_id for one in store.dispatch.candidates(set(queues), limit, **more)]


@pytest.mark.parametrize("queues", [{"q"}, {"q", "p", "o"}, {f"q{number}" for number in range(200)} | {"q"}])
def test_a_dead_queues_backlog_is_not_read(engine: sa.Engine, store: Store, queues: set[str]) -> None:
    enqueue(engine, new_job(), new_job("first", priority=2))
    with last_statement(engine) as seen:
        assert [one.key.task_id for one in store.dispatch.candidates(queues, 100)] == ["first", "t"]
    statement, parameters = seen[-1]
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(_EXPLAIN[engine.dialect.name] + statement, parameters)
        lines = [str(row) for row in plan]
    assert any("edge_ws_job_queued" in line for line in lines)
    assert not any(
        "rj_order" in line or "Seq Scan on edge_job" in line or "SCAN edge_job" in line for line in lines
    )


def test_order_and_limits(engine: sa.Engine, store: Store) -> None:
    enqueue(
        engine,
        new_job("old"),
        new_job("high", priority=9),
        new_job("young"),
        new_job("p-high", queue="p", priority=8),
        new_job("cb", key=JobKey(CALLBACK_DAG_ID, "cb", "r", -1, 0), priority=CALLBACK_PRIORITY),
        new_job("wide", slots=5),
        new_job("a's", team="a", priority=3),
        new_job("b's", team="b", priority=2),
    )
    assert names(store, "q", "p") == ["cb", "high", "p-high", "a's", "b's", "old", "young", "wide"]
    assert names(store, "q", "p", limit=3) == ["cb", "high", "p-high"]
    assert names(store, "q", widest=4) == ["cb", "high", "a's", "b's", "old", "young"]
    assert names(store, "q", teams={"a"}) == ["a's"]
    assert names(store, "q", teams={"a", "b"}, widest=1) == ["a's", "b's"]
    assert names(store, "nobody's") == []
    everywhere = [one.key.task_id for one in store.dispatch.candidates(None, 3)]
    assert everywhere[0] == "cb"
    assert all(name.startswith("t") for name in everywhere[1:])


def test_how_long_it_has_waited(engine: sa.Engine, store: Store) -> None:
    enqueue(engine, new_job("now"), new_job("then", priority=0), new_job("never", priority=-1))
    earlier = {"sqlite": "datetime('now', '-100 seconds')", "postgresql": "now() - interval '100 seconds'"}
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE edge_job SET queued_dttm = {earlier[engine.dialect.name]} WHERE task_id = 'then'"
        )
        connection.exec_driver_sql("UPDATE edge_job SET queued_dttm = NULL WHERE task_id = 'never'")
    now, then, never = (one.waited_s for one in store.dispatch.candidates({"q"}, 10))
    assert 0 <= now < 10
    assert 100 <= then < 110
    assert never == 0
