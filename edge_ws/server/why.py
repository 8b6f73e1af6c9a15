"""Why a job is where it is, and what to do: a stable code, a sentence, a piece of advice. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from edge_ws.errors import UsageError
from edge_ws.protocol.states import Phase
from edge_ws.server.scene import NO_GATEWAY_ADVICE, SLOW_S, AirflowTask, Code, Scene, Why
from edge_ws.server.seats import is_here, lasted
from edge_ws.server.why_queued import why_queued
from edge_ws.store.view_records import ClaimView


def why(scene: Scene) -> Why:
    """Return why the job is where it is."""
    job = scene.job
    claim = job.held_by
    if claim is not None:
        return _claimed(scene, claim)
    if job.state == "queued":
        return why_queued(scene)
    if job.state in {"restarting", "running"}:
        return _foreign(scene)
    return _ended(scene)


# In a worker's hands


def _claimed(scene: Scene, claim: ClaimView) -> Why:
    if claim.result is not None:
        return _known_end(claim)
    if claim.phase is Phase.OFFERED:
        return _offered(scene, claim)
    if claim.phase is Phase.ACCEPTED:
        return _accepted(scene, claim)
    name, away = claim.worker, _away(scene, claim.worker)
    return Why(
        code=Code.RUNNING,
        sentence=f"Runs on worker {name}, to which it was offered {lasted(claim.offered_s)} ago.{away}",
        advice=f"Look at {name} on its host: edge-ws status." if away else "",
    )


def _away(scene: Scene, name: str) -> str:
    """Return what to add if the worker is not heard of; a task does not end by that."""
    worker = scene.worker(name)
    if worker is not None and is_here(worker):
        return ""
    seen_s = worker.seen_s if worker is not None else None
    seen = "is known no more" if seen_s is None else f"is not connected (last seen {lasted(seen_s)} ago)"
    return (
        f" {name} {seen}: the task may well go on there, where Airflow watches its heartbeat; its end is"
        " reported when the worker is back."
    )


def _offered(scene: Scene, claim: ClaimView) -> Why:
    left_s = claim.lease_s or 0.0
    until = _moment(scene.now + left_s)
    offered = f"Offered to worker {claim.worker} {lasted(claim.offered_s)} ago"
    if left_s > 0:
        return Why(
            code=Code.OFFERED,
            sentence=f"{offered}; it has until {until} ({lasted(left_s)}) to accept it,"
            " else it is offered again.",
        )
    if not scene.has_gateway:
        return Why(
            code=Code.NO_GATEWAY,
            sentence=f"{offered}, until {until}; it was not accepted, and no gateway is alive to take"
            " it back.",
            advice=NO_GATEWAY_ADVICE,
        )
    return Why(
        code=Code.OFFERED,
        sentence=f"{offered}, until {until}; it was not accepted, and is taken back within {SLOW_S:g} s.",
    )


def _accepted(scene: Scene, claim: ClaimView) -> Why:
    left_s = claim.lease_s or 0.0
    begun = f"Accepted by worker {claim.worker}, to which it was offered {lasted(claim.offered_s)} ago"
    away = _away(scene, claim.worker)
    if left_s > 0:
        waits = f"its start is waited for until {_moment(scene.now + left_s)} ({lasted(left_s)})"
    else:
        waits = (
            "its start was not heard of in time: it goes back to the queue if Airflow still has the task"
            " as queued"
        )
    return Why(code=Code.ACCEPTED, sentence=f"{begun}; {waits}.{away}")


def _known_end(claim: ClaimView) -> Why:
    detail = f" ({claim.detail})" if claim.detail else ""
    what = (
        "could not start it" if claim.result == "not_started" else "lost the process in which it was to run"
    )
    left_s = claim.lease_s or 0.0
    when = f"in {lasted(left_s)} at the latest" if left_s > 0 else f"within {SLOW_S:g} s"
    return Why(
        code=Code.NOT_STARTED,
        sentence=f"Worker {claim.worker} {what}{detail}; by the task's state in Airflow it goes back to"
        f" the queue or ends, {when}.",
        advice=f"If it goes on so, see the task's log and the log of {claim.worker}.",
    )


def _foreign(scene: Scene) -> Why:
    job = scene.job
    written = "" if job.updated_s is None else f", written {lasted(job.updated_s)} ago"
    if job.worker is None:
        return Why(
            code=Code.UNCLAIMED,
            sentence=f"The row's state is {job.state}{written}, but it names no worker: a gateway puts it"
            " back into the queue.",
            advice="" if scene.has_gateway else NO_GATEWAY_ADVICE,
        )
    if job.state == "restarting":
        return Why(
            code=Code.EDGE3_FETCHED,
            sentence=f"Fetched by edge3 worker {job.worker}{written}; it has not said yet that the job runs.",
        )
    return Why(code=Code.EDGE3_RUNNING, sentence=f"Runs on edge3 worker {job.worker}{written}.")


# Over


def _ended(scene: Scene) -> Why:
    job = scene.job
    where = f" on worker {job.worker}" if job.worker else ""
    when = "" if job.updated_s is None else f" {lasted(job.updated_s)} ago"
    detail = (
        f" ({job.claim.detail})" if job.claim is not None and job.was_claimed and job.claim.detail else ""
    )
    code = {"success": Code.SUCCESS, "failed": Code.FAILED}.get(job.state, Code.REMOVED)
    reported, advice = "", ""
    if job.owner is not None:
        reported = f"; the scheduler (job {job.owner}) has not taken note yet"
        if (job.updated_s or 0.0) > SLOW_S:
            advice = "See the scheduler's log: is it alive, and is edge-ws in its [core] executor?"
    elif job.reported:
        reported = "; the scheduler has taken note"
    said = f"Ended as {job.state}" if code is not Code.REMOVED else f"Over, as {job.state}"
    return Why(code=code, sentence=f"{said}{where}{when}{detail}{reported}.", advice=advice)


# No row


def why_absent(task: AirflowTask | None, try_number: int | None = None) -> Why:
    """Return why there is no row for a task; None: nobody could ask Airflow.

    Raises:
        UsageError: there has been no such try.
    """
    if task is not None and try_number is not None and not 1 <= try_number <= task.try_number:
        last = f"the last is {task.try_number}" if task.try_number else "there has been none yet"
        raise UsageError(f"there has been no try {try_number} of the task; {last}")
    if task is not None and try_number is not None and try_number < task.try_number:
        return Why(
            code=Code.OVER,
            sentence=f"Try {try_number} is over, for the task is at try {task.try_number} in Airflow; its row"
            " here was purged, or it was another executor's.",
        )
    if task is None:
        return Why(
            code=Code.NO_SUCH_JOB,
            sentence="There is no such job in edge_job: it is another executor's, is not queued yet, or has"
            " ended and was purged.",
        )
    if task.state in {"queued", "running", "restarting"}:
        which = task.executor or "the default executor"
        return Why(
            code=Code.ANOTHER_EXECUTORS,
            sentence=f"The task is {task.state} in Airflow, but with no edge executor: it is {which}'s.",
            advice="To have it run on a worker: give the task executor= the name that edge-ws has in [core]"
            " executor, and a queue that a worker serves.",
        )
    if task.state in {None, "scheduled", "up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"}:
        return Why(
            code=Code.NOT_QUEUED_YET,
            sentence=f"The task's state is {task.state or 'none'}: the scheduler has not queued it yet.",
            advice="Airflow says why in the task's details: dependencies, pools, limits of parallelism.",
        )
    return Why(
        code=Code.OVER,
        sentence=f"The task is over in Airflow ({task.state}); its row here was purged, or it was another"
        " executor's.",
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")
