from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.executors import workloads
from airflow.executors.workloads import (
    BundleInfo,
    ExecuteCallback,
    ExecuteTask,
    TaskInstanceDTO,
)
from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey

from edge_ws.provider import compat, workload
from edge_ws.store.command import parse
from edge_ws.store.records import CALLBACK_PRIORITY, JobKey

TI_ID = uuid.uuid4()
CALLBACK_ID = str(uuid.uuid4())


def task() -> ExecuteTask:
    ti = TaskInstanceDTO(
        id=TI_ID,
        task_id="press",
        dag_id="factory",
        run_id="run-1",
        try_number=2,
        map_index=5,
        dag_version_id=uuid.uuid4(),
        queue="hall-3",
        pool_slots=4,
        priority_weight=11,
        executor_config={"kept": "here"},
    )
    return ExecuteTask(
        ti=ti,
        dag_rel_path="factory.py",
        token="a.b.c",
        log_path="dag_id=factory/attempt=2.log",
        bundle_info=BundleInfo(name="dags-folder"),
    )


def callback() -> ExecuteCallback:
    return ExecuteCallback(
        callback={"id": CALLBACK_ID, "fetch_method": "import_path", "data": {"path": "a.b", "kwargs": {}}},
        dag_rel_path="factory.py",
        token="a.b.c",
        log_path=f"executor_callbacks/factory/run-1/{CALLBACK_ID}",
        bundle_info=BundleInfo(name="dags-folder"),
    )


def new_job(item: object) -> Any:
    return workload.new_job(item, owner=7, team="red", default_queue="anywhere")


def test_a_task_becomes_a_row_as_edge3_writes_it() -> None:
    job = new_job(task())
    assert job.key == JobKey("factory", "press", "run-1", 5, 2, str(TI_ID) if compat.KEYS_ARE_IDS else "")
    assert (job.queue, job.slots, job.priority, job.team, job.owner) == ("hall-3", 4, 11, "red", 7)


def test_a_callback_becomes_a_row_as_edge3_writes_it() -> None:
    job = new_job(callback())
    assert job.key == JobKey("ExecuteCallback", CALLBACK_ID, f"ExecuteCallback-{CALLBACK_ID}", -1, 0, "")
    assert (job.queue, job.slots, job.priority, job.team, job.owner) == (
        "anywhere",
        1,
        CALLBACK_PRIORITY,
        "red",
        7,
    )


@pytest.mark.parametrize("make", [task, callback])
def test_the_command_is_the_whole_workload_with_its_token(make: Callable[[], Any]) -> None:
    command = new_job(make()).command
    assert json.loads(command)["token"] == "a.b.c"
    assert type(make()).model_validate_json(command).key == make().key


@pytest.mark.parametrize(
    ("make", "subject"), [(task, str(TI_ID)), (callback, CALLBACK_ID)], ids=["task", "callback"]
)
def test_the_store_can_read_the_command(make: Callable[[], Any], subject: str) -> None:
    parsed = parse(new_job(make()).command)
    assert (parsed.subject, parsed.log_path) == (subject, make().log_path)


def test_other_workloads_are_not_ours() -> None:
    other = workloads.TestConnection(connection_test_id=uuid.uuid4(), connection_id="db", timeout=1, token="")
    assert new_job(other) is None
    assert new_job(object()) is None


def test_keys_there_and_back() -> None:
    item = task()
    key = new_job(item).key
    assert workload.airflow_key(key) == compat.workload_key(item)
    if not compat.KEYS_ARE_IDS:
        assert workload.airflow_key(key) == item.key == TaskInstanceKey("factory", "press", "run-1", 2, 5)
    assert workload.task_row(item.ti, 2) == key
    assert workload.airflow_key(new_job(callback()).key) == CallbackKey(CALLBACK_ID) == callback().key


def test_a_dag_may_have_the_name_that_marks_callbacks() -> None:
    ti = SimpleNamespace(dag_id="ExecuteCallback", task_id="press", run_id="run-1", map_index=-1, id=TI_ID)
    key = workload.task_row(ti, 0)
    assert not workload.is_callback(key)
    assert not isinstance(workload.airflow_key(key), CallbackKey)


def test_a_pass_of_a_loop_is_a_row_of_its_own() -> None:
    """In Airflow 3.4's workloads the map index is the one that people see; its table has the pass."""
    names = {"dag_id": "factory", "task_id": "press", "run_id": "run-1", "id": TI_ID}
    shown = SimpleNamespace(**names, map_index=-1, region_index=2)
    stored = SimpleNamespace(**names, map_index=2, region_index=2)
    assert workload.task_row(shown, 1).map_index == 2
    assert workload.task_row(shown, 1) == workload.task_row(stored, 1)
