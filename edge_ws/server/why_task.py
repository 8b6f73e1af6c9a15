"""Why a task waits where it is Airflow's turn, not a worker's. Pure; called by `why` and its parts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from edge_ws.server.diagnosis import AirflowTask, Code, Unmet, Why

AIRFLOWS_TURN = frozenset(
    {None, "scheduled", "up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"}
)
"""States of a task that Airflow has yet to queue, for the first time or again."""
OVER = {
    "success": Code.SUCCESS,
    "failed": Code.FAILED,
    "skipped": Code.SKIPPED,
    "upstream_failed": Code.FAILED,
    "removed": Code.REMOVED,
}
"""States of a task that has ended."""
_QUOTED = re.compile(r"(?<!\w)'([^']*)'")
_MOST = 3
"""Reasons that a sentence has at the most."""
_INNER = re.compile(r"\.? ?upstream_states=.*?, upstream_task_ids=\{(.*?)\}\.?")
"""What a trigger rule's reason has from the inside of Airflow."""


_TIMED = re.compile(r"will be (?:retried|rescheduled) at (\S+?)\.?$")
"""What Airflow says of a task that waits for a time."""


def state_told(state: str | None) -> str:
    """Return a task's state in words."""
    return state or "not scheduled yet"


def of_task(task: AirflowTask, dag_id: str) -> Why:
    """Return why Airflow has not queued the task; its state is one of AIRFLOWS_TURN."""
    if task.state == "deferred":
        return Why(
            code=Code.DEFERRED,
            sentence=f"The task is deferred: it waits for {_trigger(task)}, and is queued again when that"
            " fires.",
            advice="If it waits longer than it should, make sure that a triggerer runs:"
            " airflow jobs check --job-type TriggererJob.",
        )
    if task.state == "awaiting_input":
        return Why(
            code=Code.AWAITING_INPUT,
            sentence="The task waits for a person's answer, and is queued again when that is given.",
            advice="Answer it on the task's page in Airflow.",
        )
    return _not_queued(task, dag_id)


def _not_queued(task: AirflowTask, dag_id: str) -> Why:
    state = {"up_for_retry": Code.UP_FOR_RETRY, "up_for_reschedule": Code.UP_FOR_RESCHEDULE}
    head = f"The task is {state_told(task.state)}"
    if task.dag_stale:
        return Why(
            code=Code.DAG_STALE,
            sentence=f"{head}, and the DAG {dag_id} is gone from its bundle: Airflow queues none of its"
            " tasks.",
            advice="Bring the DAG's file back, or see why it cannot be loaded:"
            " airflow dags list-import-errors.",
        )
    if task.dag_paused:
        return Why(
            code=Code.DAG_PAUSED,
            sentence=f"{head}, and the DAG {dag_id} is paused: Airflow queues none of its tasks.",
            advice=f"airflow dags unpause {dag_id}",
        )
    if task.unmet:
        code = state.get(task.state or "", task.unmet[0].code)
        return Why(code=code, sentence=f"{head}: {_told(task.unmet)}.", advice=_advice(task))
    if task.run_state not in {None, "running"}:
        return Why(
            code=Code.RUN_NOT_RUNNING,
            sentence=f"{head}: its run is {task.run_state}, and Airflow queues tasks of running runs only.",
        )
    return Why(
        code=state.get(task.state or "", Code.NOT_QUEUED_YET),
        sentence=f"{head}: Airflow's scheduler has not queued it yet.",
        advice="If that lasts longer than some seconds, see the scheduler's log.",
    )


def _trigger(task: AirflowTask) -> str:
    return "its trigger" if task.trigger is None else f"the trigger {task.trigger.rpartition('.')[2]}"


def _told(unmet: tuple[Unmet, ...]) -> str:
    reasons = list(dict.fromkeys(_plain(one.reason) for one in unmet))
    more = f"; and {len(reasons) - _MOST} more reasons" if len(reasons) > _MOST else ""
    return "; ".join(reasons[:_MOST]) + more


def _plain(reason: str) -> str:
    """Return Airflow's reason without what only its programmers can read."""
    if timed := _TIMED.search(reason):
        return f"it is queued again at {_moment(timed[1])}"
    plain = _QUOTED.sub(r"\1", _INNER.sub(r" (upstream: \1)", reason))
    return plain.strip().rstrip(".")


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return text


def _advice(task: AirflowTask) -> str:
    advice = {
        Code.WAITS_FOR_UPSTREAM: "Look at the tasks before it.",
        Code.POOL_FULL: f"Give the pool {task.pool} more slots, or wait until its tasks have ended.",
        Code.LIMIT_REACHED: "It is queued when others have ended; or raise the limit.",
        Code.NO_SCHEDULER: "Start the scheduler: airflow jobs check --job-type SchedulerJob.",
    }
    return advice.get(task.unmet[0].code, "")
