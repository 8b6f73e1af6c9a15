"""What Airflow says of a task that has no row here."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.provider import compat
from edge_ws.provider.tasks import look_up
from edge_ws.server.scene import AirflowTask
from edge_ws.server.views import show_job
from edge_ws.store.store import Store
from tests.support.centre import Centre


def test_the_present_attempt(centre: Centre) -> None:
    ti = centre.task(state="running", executor="LocalExecutor", queue="far", try_number=3)
    found = look_up(ti.dag_id, ti.run_id, ti.task_id, -1)
    assert found == AirflowTask(state="running", executor="LocalExecutor", queue="far", try_number=3)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("queued", "another_executors"),
        ("scheduled", "not_queued_yet"),
        (None, "not_queued_yet"),
        ("failed", "over"),
    ],
)
def test_the_verdict(centre: Centre, state: str | None, code: str) -> None:
    ti = centre.task(state=state)
    row = show_job(Store(centre.engine), ti.dag_id, ti.run_id, ti.task_id, look_up=look_up)
    assert (row["code"], row["state"]) == (code, state)


def test_what_is_unknown_is_named(centre: Centre) -> None:
    ti = centre.task()
    for names, part in (
        (("nothing", ti.run_id, ti.task_id, -1), "Airflow knows no DAG nothing"),
        ((ti.dag_id, "nothing", ti.task_id, -1), "Airflow knows no run nothing of DAG factory"),
        ((ti.dag_id, ti.run_id, "nothing", -1), f"Airflow knows no task nothing in run {ti.run_id} of DAG"),
        ((ti.dag_id, ti.run_id, ti.task_id, 0), "has no map index 0 now: leave --map-index out"),
    ):
        with pytest.raises(UsageError, match=part):
            look_up(*names)
        with pytest.raises(UsageError, match=part):
            show_job(Store(centre.engine), *names, look_up=look_up)


def _map(centre: Centre, ti: Any, count: int) -> None:
    """Have the task instance mapped over so many values, as the scheduler does."""
    from airflow.models.taskinstance import TaskInstance

    table = TaskInstance.__table__
    index = "region_index" if compat.KEYS_ARE_IDS else "map_index"
    centre.set_task(ti, **{index: 0})
    with centre.engine.begin() as connection:
        row = connection.execute(sa.select(table).where(table.c.id == ti.id)).one()._asdict()
        others = [{**row, "id": uuid.uuid4(), index: number} for number in range(1, count)]
        connection.execute(table.insert(), others)


def test_a_mapped_task_takes_an_index(centre: Centre) -> None:
    ti = centre.task()
    _map(centre, ti, 3)
    named = ti.dag_id, ti.run_id, ti.task_id
    assert look_up(*named, 2).state == "queued"
    with pytest.raises(UsageError, match=r"of DAG factory is mapped: give --map-index \(0 to 2\)"):
        look_up(*named, -1)
    with pytest.raises(UsageError, match=r"has no map index 3: give --map-index \(0 to 2\)"):
        look_up(*named, 3)


def test_a_try_that_there_has_not_been(centre: Centre) -> None:
    ti = centre.task(state="queued")
    with pytest.raises(UsageError, match="there has been no try 4 of the task; the last is 1"):
        show_job(Store(centre.engine), ti.dag_id, ti.run_id, ti.task_id, try_number=4, look_up=look_up)
