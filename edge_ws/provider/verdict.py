"""What the scheduler is to be told about a job that has ended. Pure.

The scheduler takes an event about a task that is still queued or running as "killed from outside" and fails
or retries it. So it hears of an end only where that is right; else the task's own report has settled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from edge_ws.provider.workload import is_callback
from edge_ws.store.records import EndedJob, JobKey

Attempt = tuple[str, str, str, int, int]
"""DAG, task, run, map index, try."""


class Outcome(Enum):
    """The event for the scheduler."""

    NOTHING = "nothing"
    SUCCESS = "success"
    FAILED = "failed"


def attempt(key: JobKey) -> Attempt:
    """Return what names the attempt when its task instance id does not any more."""
    return key.dag_id, key.task_id, key.run_id, key.map_index, key.try_number


def outcome(
    job: EndedJob, *, by_id: Mapping[str, str | None], by_try: Mapping[Attempt, str | None]
) -> Outcome:
    """Return what to tell about the job.

    Args:
        job: the row that ended.
        by_id: task instance id -> state.
        by_try: state of the tasks that are there, but under another id now.
    """
    succeeded = job.state == "success"
    if is_callback(job.key):
        # Nothing else ends a callback.
        return Outcome.SUCCESS if succeeded else Outcome.FAILED
    same = job.subject in by_id
    state = by_id.get(job.subject) if same else by_try.get(attempt(job.key))
    if job.state == "not_started" and state in {"running", "restarting"}:
        # Another process runs or ran it: a claim that a foreign writer made stale does so to its end.
        return Outcome.NOTHING
    if state == "restarting":
        # Cleared while it ran: the old process is gone, which is what the task waits for. FAILED would run
        # its failure callbacks and use up a retry.
        return Outcome.SUCCESS
    if not same:
        return Outcome.NOTHING
    if succeeded:
        # A queued task may be the next round of a sensor or of a deferral, whose old round this is.
        return Outcome.SUCCESS if state == "running" else Outcome.NOTHING
    return Outcome.FAILED if state in {"queued", "running"} else Outcome.NOTHING
