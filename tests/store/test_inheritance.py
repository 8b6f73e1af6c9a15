"""What a dead scheduler leaves in the tables, on every kind of database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.store.live import REPORTED
from edge_ws.store.records import JobKey
from edge_ws.store.store import Store
from tests.support.rows import change_job, enqueue, job_row, new_job

DEAD, HEIR, OTHER = 6, 7, 5


def _callback(name: str) -> JobKey:
    return JobKey(CALLBACK_DAG_ID, name, f"{CALLBACK_DAG_ID}-{name}", -1, 0)


@pytest.mark.parametrize("state", ["queued", "restarting", "running", "success", "failed"])
def test_callbacks_go_to_the_heir_and_ended_tasks_to_nobody(engine: sa.Engine, state: str) -> None:
    store = Store(engine)
    task, callback = new_job("task", owner=DEAD), new_job(key=_callback("c"), owner=DEAD)
    like_one = new_job("like", key=JobKey(CALLBACK_DAG_ID, "like", "run", -1, 1), owner=DEAD)
    enqueue(engine, task, callback, like_one)
    for job in (task, callback, like_one):
        change_job(engine, job.key, state=state)
    assert store.jobs.inherit(HEIR, {HEIR, OTHER}) == {callback.key}
    assert store.jobs.owned(HEIR) == {callback.key}
    owner = REPORTED if state in {"success", "failed"} else DEAD
    assert [job_row(engine, job.key).edge_ws_owner for job in (task, like_one)] == [owner, owner]
    assert store.jobs.inherit(HEIR, {HEIR, OTHER}) == set()


def test_what_is_watched_stays(engine: sa.Engine) -> None:
    store = Store(engine)
    jobs = [new_job(f"t{owner}", key=_callback(f"c{owner}"), owner=owner) for owner in (HEIR, OTHER, -9)]
    enqueue(engine, *jobs)
    assert store.jobs.inherit(HEIR, {OTHER}) == set()
    assert [job_row(engine, job.key).edge_ws_owner for job in jobs] == [HEIR, OTHER, -9]


def test_adoption_in_the_callers_transaction(engine: sa.Engine) -> None:
    store, job = Store(engine), new_job(ti_id="id-1", owner=DEAD)
    enqueue(engine, job)
    with engine.connect() as connection:
        # SQLite: from here on nobody else can write.
        connection.execute(sa.text("UPDATE edge_job SET queue = 'q'"))
        assert store.jobs.adopt(HEIR, {job.key: "id-1"}, connection=connection) == {job.key: "queued"}
        connection.rollback()
    assert job_row(engine, job.key).edge_ws_owner == DEAD
