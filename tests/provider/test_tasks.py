"""What Airflow says of a task that has no row here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edge_ws.errors import UsageError
from edge_ws.provider import compat
from edge_ws.provider.airflow_tables import STUCK
from edge_ws.provider.dependencies import unmet
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server.diagnosis import AirflowTask
from edge_ws.server.views import show_job
from edge_ws.store.store import Store
from tests.support.centre import Centre


@pytest.fixture
def tasks(centre: Centre, tmp_path: Path) -> AirflowTasks:
    return AirflowTasks(centre.engine, lambda: tmp_path, unmet)


def _execute(centre: Centre, *statements: str) -> None:
    with centre.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def _unpaused(centre: Centre) -> Iterator[None]:
    """Let Airflow queue the DAG's tasks for the length of a test."""
    _execute(centre, "UPDATE dag SET is_paused = false")
    yield
    _execute(centre, "UPDATE dag SET is_paused = true", "UPDATE slot_pool SET slots = 128")


def test_the_present_attempt(centre: Centre, tasks: AirflowTasks) -> None:
    ti = centre.task(state="running", executor="LocalExecutor", queue="far", try_number=3)
    found = tasks.look_up(ti.dag_id, ti.run_id, ti.task_id, -1)
    assert found == AirflowTask(
        state="running",
        executor="LocalExecutor",
        queue="far",
        try_number=3,
        pool="default_pool",
        dag_paused=True,
        run_state="running",
    )


def test_how_often_it_was_queued_again(centre: Centre, tasks: AirflowTasks) -> None:
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    ti = centre.task(state="queued")
    named = ti.dag_id, ti.run_id, ti.task_id, -1
    assert (tasks.look_up(*named).requeues, tasks.look_up(*named).requeued_s) == (0, None)
    with create_session(scoped=False) as session:
        session.add(Log(event=STUCK, task_instance=ti.key))
        session.add(Log(event="other", task_instance=ti.key))
    found = tasks.look_up(*named)
    assert found.requeues == 1
    assert 0 <= (found.requeued_s or -1.0) < 60


def test_the_event_of_a_requeue_is_airflows() -> None:
    from airflow.jobs import scheduler_job_runner

    assert scheduler_job_runner.TASK_STUCK_IN_QUEUED_RESCHEDULE_EVENT == STUCK


@pytest.mark.usefixtures("_unpaused")
@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ("dag paused", "dag_paused", "the DAG factory is paused"),
        ("run queued", "run_not_running", "queued"),
        ("pool full", "pool_full", "pool"),
        ("no scheduler", "no_scheduler", "no scheduler is alive; none has registered"),
    ],
)
def test_what_keeps_airflow_from_queueing_it(
    centre: Centre, tasks: AirflowTasks, change: str, code: str, part: str
) -> None:
    ti = centre.task(state="scheduled")
    _execute(
        centre,
        # Runs of the tests begin a moment later, each after the one before.
        "UPDATE dag_run SET logical_date = NULL",
        {
            "dag paused": "UPDATE dag SET is_paused = true",
            "run queued": "UPDATE dag_run SET state = 'queued'",
            "pool full": "UPDATE slot_pool SET slots = 0",
            "no scheduler": "UPDATE slot_pool SET slots = 128",
        }[change],
    )
    row = show_job(Store(centre.engine).views, ti.dag_id, ti.run_id, ti.task_id, tasks=tasks)
    assert row["code"] == code
    assert part in str(row["verdict"])


def test_the_end_of_a_log_is_read_within_the_folder(tasks: AirflowTasks, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_bytes(b"x" * 100_000 + b"end")
    assert tasks.log_end("a/log").endswith(b"xend")
    assert len(tasks.log_end("a/log")) == 64 * 1024
    for path in ("a", "b", "../log", "a/../../log", "/etc/hostname"):
        assert tasks.log_end(path) == b""


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("queued", "another_executors"),
        ("scheduled", "dag_paused"),
        (None, "dag_paused"),
        ("failed", "over"),
    ],
)
def test_the_verdict(centre: Centre, tasks: AirflowTasks, state: str | None, code: str) -> None:
    ti = centre.task(state=state)
    row = show_job(Store(centre.engine).views, ti.dag_id, ti.run_id, ti.task_id, tasks=tasks)
    assert (row["code"], row["state"]) == (code, state)


def test_what_is_unknown_is_named(centre: Centre, tasks: AirflowTasks) -> None:
    ti = centre.task()
    for names, part in (
        (("nothing", ti.run_id, ti.task_id, -1), "Airflow knows no DAG nothing"),
        ((ti.dag_id, "nothing", ti.task_id, -1), "Airflow knows no run nothing of DAG factory"),
        ((ti.dag_id, ti.run_id, "nothing", -1), f"Airflow knows no task nothing in run {ti.run_id} of DAG"),
        ((ti.dag_id, ti.run_id, ti.task_id, 0), "has no map index 0 now: leave --map-index out"),
    ):
        with pytest.raises(UsageError, match=part):
            tasks.look_up(*names)
        with pytest.raises(UsageError, match=part):
            show_job(Store(centre.engine).views, *names, tasks=tasks)


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


def test_a_mapped_task_takes_an_index(centre: Centre, tasks: AirflowTasks) -> None:
    ti = centre.task()
    _map(centre, ti, 3)
    named = ti.dag_id, ti.run_id, ti.task_id
    assert tasks.look_up(*named, 2).state == "queued"
    with pytest.raises(UsageError, match=r"of DAG factory is mapped: give --map-index \(0 to 2\)"):
        tasks.look_up(*named, -1)
    with pytest.raises(UsageError, match=r"has no map index 3: give --map-index \(0 to 2\)"):
        tasks.look_up(*named, 3)


def test_a_try_that_there_has_not_been(centre: Centre, tasks: AirflowTasks) -> None:
    ti = centre.task(state="queued")
    with pytest.raises(UsageError, match="there has been no try 4 of the task; the last is 1"):
        show_job(Store(centre.engine).views, ti.dag_id, ti.run_id, ti.task_id, try_number=4, tasks=tasks)
