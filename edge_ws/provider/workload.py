"""Turns Airflow's workloads into job rows, and row keys back into Airflow's keys. Pure.

Rows have edge3's shape (its models/types.py and edge_executor.py), so that its workers can run them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.provider import compat
from edge_ws.store.records import CALLBACK_PRIORITY, JobKey, NewJob

_CALLBACK_MAP_INDEX = -1
_CALLBACK_TRY = 0


def new_job(workload: Any, *, owner: int, team: str | None, default_queue: str) -> NewJob | None:  # noqa: ANN401
    """Return the job that runs the workload, None for a kind of workload that we do not run.

    Args:
        workload: Airflow's object.
        owner: `job_id` of the scheduler that queues it.
        team: the executor's.
        default_queue: where callbacks go, which name no queue.
    """
    if isinstance(workload, compat.ExecuteTask):
        ti = workload.ti
        return NewJob(
            key=task_row(ti, ti.try_number),
            queue=ti.queue,
            slots=ti.pool_slots,
            priority=ti.priority_weight,
            command=workload.model_dump_json(),
            team=team,
            owner=owner,
        )
    if isinstance(workload, compat.ExecuteCallback):
        return NewJob(
            key=callback_row(str(workload.callback.id)),
            queue=default_queue,
            slots=1,
            priority=CALLBACK_PRIORITY,
            command=workload.model_dump_json(),
            team=team,
            owner=owner,
        )
    return None


def task_row(ti: Any, try_number: int) -> JobKey:  # noqa: ANN401 - model, history or workload: all have these
    """Return the key of the row that carries this attempt of a task."""
    return JobKey(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=compat.ti_index(ti),
        try_number=try_number,
        task_instance_id=str(ti.id) if compat.KEYS_ARE_IDS else "",
    )


def without_id(key: JobKey) -> JobKey:
    """Return the key as it was before Airflow 3.4."""
    return key._replace(task_instance_id="")


def callback_row(callback_id: str) -> JobKey:
    """Return the key of the row that carries a callback."""
    return JobKey(
        dag_id=CALLBACK_DAG_ID,
        task_id=callback_id,
        run_id=f"{CALLBACK_DAG_ID}-{callback_id}",
        map_index=_CALLBACK_MAP_INDEX,
        try_number=_CALLBACK_TRY,
    )


def is_callback(key: JobKey) -> bool:
    """Tell whether a row carries a callback; the name alone does not: a DAG may be called like that."""
    return key == callback_row(key.task_id)


def airflow_key(key: JobKey, subject: str = "") -> Hashable | None:
    """Return the key under which the scheduler knows the job.

    Args:
        key: the row's.
        subject: the task instance id in the row's workload, where it is known. A row from before an upgrade
            to Airflow 3.4 has it nowhere else.

    Returns:
        None where Airflow wants the task instance id and it is unknown.
    """
    if is_callback(key):
        return compat.callback_key(key.task_id)
    return compat.task_key(
        dag_id=key.dag_id,
        task_id=key.task_id,
        run_id=key.run_id,
        map_index=key.map_index,
        try_number=key.try_number,
        task_instance_id=key.task_instance_id or subject,
    )
