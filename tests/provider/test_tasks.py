"""What Airflow says of a task that has no row here."""

from __future__ import annotations

import pytest

from edge_ws.errors import UsageError
from edge_ws.provider.tasks import look_up
from edge_ws.server.scene import AirflowTask
from edge_ws.server.views import show_job
from edge_ws.store.store import Store
from tests.support.centre import Centre


def test_the_present_attempt(centre: Centre) -> None:
    ti = centre.task(state="running", executor="LocalExecutor", queue="far")
    found = look_up(ti.dag_id, ti.run_id, ti.task_id, -1)
    assert found == AirflowTask(state="running", executor="LocalExecutor", queue="far")
    assert look_up(ti.dag_id, ti.run_id, ti.task_id, 0) is None
    assert look_up(ti.dag_id, ti.run_id, "no-such-task", -1) is None


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


def test_a_task_that_there_is_not(centre: Centre) -> None:
    with pytest.raises(UsageError, match="Airflow knows no task nothing in run r of DAG factory"):
        show_job(Store(centre.engine), "factory", "r", "nothing", look_up=look_up)
