"""The log of a task that our executor queued and an edge3 worker runs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from airflow.utils.session import create_session

from edge_ws.provider import workload
from edge_ws.provider.executor import EdgeWsExecutor
from tests.support.centre import SCHEDULER, Centre


@pytest.fixture
def running(centre: Centre) -> Any:
    """A task that edge3's worker `old-1` runs."""
    executor = EdgeWsExecutor()
    executor.job_id = SCHEDULER
    ti = centre.task(state="running")
    with create_session(scoped=False) as session:
        executor.queue_workload(centre.workload(ti), session=session)
    centre.set_row(workload.task_row(ti, 1), state="running", edge_worker="old-1")
    return ti


def push(ti: Any, number: int, text: str) -> None:
    """Take a chunk of the log as edge3's api-server does."""
    from airflow.providers.edge3.worker_api.datamodels import PushLogsBody
    from airflow.providers.edge3.worker_api.routes.logs import push_logs

    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    with create_session(scoped=False) as session:
        body = PushLogsBody(log_chunk_time=at, log_chunk_data=text)
        push_logs(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index, body, session)


def test_where_this_api_server_got_it_the_file_has_it(running: Any, tmp_path: Path) -> None:
    for number, text in enumerate(("grün\n", "blue\n")):
        push(running, number, text)
    (file,) = (tmp_path / "logs").rglob("attempt=1.log*")
    assert file.read_text() == "grün\nblue\n"
    (message,), texts = EdgeWsExecutor().get_task_log(running, 1)
    assert "edge3 worker old-1" in message
    # Airflow shows the file besides.
    assert texts == []


def test_where_another_api_server_got_it_the_table_has_it(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(("grün\n", "blue\n")):
        push(running, number, text)
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "elsewhere"))
    (message,), texts = EdgeWsExecutor().get_task_log(running, 1)
    assert "edge3 worker old-1" in message
    assert texts == ["grün\nblue\n"]


def test_before_anything_has_come(running: Any) -> None:
    (message,), texts = EdgeWsExecutor().get_task_log(running, 1)
    assert "edge3 worker old-1" in message
    assert texts == []


def test_the_attempt_before(running: Any) -> None:
    assert EdgeWsExecutor().get_task_log(running, 7) == ([], [])
