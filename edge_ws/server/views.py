"""What operators are shown: jobs, queues, one worker, one job with its verdict, as plain JSON-able rows.

Reads by the store's views and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.protocol.states import Phase
from edge_ws.server.diagnosis import AirflowTask, JobFacts
from edge_ws.server.log_end import log_end
from edge_ws.server.ports import Tasks
from edge_ws.server.view_rows import (
    Row,
    absent_row,
    job_row,
    listed_worker,
    queue_row,
    served,
    shown_job,
    worker_row,
)
from edge_ws.server.why import why, why_absent
from edge_ws.store.records import JobKey
from edge_ws.store.view_records import Backlog, JobView
from edge_ws.store.views import ViewStore

JOB_STATES = (
    "queued",
    *(phase.value for phase in Phase if phase is not Phase.ENDED),
    "restarting",
    "running",
    "success",
    "failed",
    "removed",
)
"""What jobs can be listed by: a row's state, or how far its worker is with it."""
MOST = 10_000
"""Jobs that are listed at the most."""
HISTORY = 10
"""Claims of a job that are shown."""


def list_jobs(
    store: ViewStore,
    *,
    state: str | None = None,
    queue: str | None = None,
    worker: str | None = None,
    dag_id: str | None = None,
    limit: int = 1000,
) -> list[Row]:
    """Return jobs as rows, those that run first, then those that wait in their order.

    Raises:
        UsageError: there is no such state, or the limit is out of range.
    """
    if state is not None and state not in JOB_STATES:
        raise UsageError(f"no job has the state {state!r}; states are {', '.join(JOB_STATES)}")
    if not 1 <= limit <= MOST:
        raise UsageError(f"the limit {limit} is not between 1 and {MOST}")
    jobs = store.jobs(limit, state=state, queue=queue, worker=worker, dag_id=dag_id)
    return [job_row(job) for job in jobs]


def list_queues(store: ViewStore) -> list[Row]:
    """Return the queues that hold a job, that a worker names or that are paused, with who takes jobs."""
    backlogs = {one.queue: one for one in store.backlogs()}
    workers = store.workers()
    named = {queue for one in workers for queue in served(one) or ()}
    pauses = store.pauses()
    return [
        queue_row(
            backlogs.get(queue) or Backlog(queue=queue, queued=0, running=0, oldest_wait_s=None),
            workers,
            pauses.get(queue),
        )
        for queue in sorted({*backlogs, *named, *pauses})
    ]


def is_known_queue(store: ViewStore, queue: str) -> bool:
    """Tell whether the queue holds a job, or a worker names it."""
    return any(one.queue == queue for one in store.backlogs()) or any(
        queue in (served(one) or ()) for one in store.workers()
    )


def list_workers(
    store: ViewStore,
    *,
    state: Collection[str] | None = None,
    worker_name_pattern: str | None = None,
    queues: Collection[str] | None = None,
) -> list[Row]:
    """Return the workers, ours and edge3's, in any of these states and serving any of these queues, by name.

    The pattern may have `*` and `?`.
    """
    return [
        listed_worker(worker)
        for worker in store.workers(worker_name_pattern)
        if (state is None or worker.state in state)
        # One without a list serves every queue.
        and (queues is None or worker.queues is None or not set(queues).isdisjoint(worker.queues))
    ]


def show_workers(store: ViewStore, pattern: str) -> list[Row]:
    """Return all that is known of each worker whose name is like the pattern (`*` and `?`), by name."""
    gateways = {one.id: one for one in store.gateways()}
    jobs: dict[str | None, list[JobView]] = {}
    for job in store.jobs(MOST):
        jobs.setdefault(job.worker, []).append(job)
    now = store.clock()
    return [
        worker_row(one, gateways.get(one.gateway) if one.gateway else None, jobs.get(one.name, []), now)
        for one in store.workers(pattern)
    ]


def show_worker(store: ViewStore, name: str) -> Row:
    """Return all that is known of a worker, ours or edge3's: the wish beside what is in force, its jobs.

    Raises:
        UsageError: there is no worker of that name.
    """
    found = store.workers(name=name)
    if not found:
        raise UsageError(f"no worker named {name} has connected yet; see: edge-ws list-workers")
    gateway = next((one for one in store.gateways() if one.id == found[0].gateway), None)
    return worker_row(found[0], gateway, store.jobs(MOST, worker=name), store.clock())


def show_job(  # noqa: PLR0917 - a task is named by so many
    store: ViewStore,
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: int = -1,
    try_number: int | None = None,
    *,
    tasks: Tasks | None = None,
) -> Row:
    """Return a job with its verdict: why it is where it is, and what to do.

    Args:
        store: reads the database.
        dag_id: with the next ones, the task's attempt.
        run_id: its run.
        task_id: its task.
        map_index: -1 for a task that is not mapped.
        try_number: None: the last one that there is.
        tasks: what Airflow knows of the task; None: nobody is asked.

    Raises:
        UsageError: Airflow knows no such task, or there has been no such try of it.
    """
    job = store.find_job(dag_id, run_id, task_id, map_index, try_number)
    if job is None:
        key = JobKey(dag_id, task_id, run_id, map_index, try_number or 0)
        task = None if tasks is None else tasks.look_up(dag_id, run_id, task_id, map_index, try_number)
        return absent_row(key, task, why_absent(task, dag_id, try_number))
    history, ahead = store.history(job, HISTORY)
    facts = JobFacts(
        task=_task_of(job, tasks),
        log=log_end(_end_of_log(store, job, tasks)),
        job=job,
        history=history,
        ahead=ahead,
        workers=store.workers(),
        gateways=store.gateways(),
        now=store.clock(),
        pause=store.pauses().get(job.queue) if job.state == "queued" else None,
    )
    return shown_job(facts, why(facts))


def _task_of(job: JobView, tasks: Tasks | None) -> AirflowTask | None:
    """Return the job's task as Airflow has it, None for a callback or one that Airflow has forgotten."""
    key = job.key
    if tasks is None or key.dag_id == CALLBACK_DAG_ID:
        return None
    try:
        return tasks.look_up(key.dag_id, key.run_id, key.task_id, key.map_index, key.try_number)
    except UsageError:
        return None


def _end_of_log(store: ViewStore, job: JobView, tasks: Tasks | None) -> bytes:
    """Return the end of the log of the job's claim, from here or from Airflow's folder."""
    claim = job.claim
    if claim is None or not job.was_claimed:
        return b""
    data = store.log_end(claim.id)
    return data if data or tasks is None or not claim.log_path else tasks.log_end(claim.log_path)
