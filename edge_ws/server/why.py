"""Why a job is where it is, and what to do: a stable code, a sentence, a piece of advice. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import CALLBACK_DAG_ID
from edge_ws.protocol.states import Phase
from edge_ws.server.diagnosis import NO_GATEWAY_ADVICE, SLOW_S, AirflowTask, Code, JobFacts, Why
from edge_ws.server.eligibility import is_here, lasted
from edge_ws.server.why_queued import why_queued
from edge_ws.server.why_task import AIRFLOWS_TURN, OVER, of_task, state_told
from edge_ws.store.view_records import ClaimView

_LACKS = ("Dag not found", "No module named", "ModuleNotFoundError", "ImportError", "cannot import name")
"""Signs in a log that the host is not set up as the task wants it."""


def why(facts: JobFacts) -> Why:
    """Return why the job is where it is."""
    job = facts.job
    claim = job.held_by
    if claim is not None:
        return _claimed(facts, claim)
    if job.state == "queued":
        return why_queued(facts)
    if job.state in {"restarting", "running"}:
        return _foreign(facts)
    return _ended(facts)


# In a worker's hands


def _claimed(facts: JobFacts, claim: ClaimView) -> Why:
    if claim.result is not None:
        return _known_end(claim)
    if claim.phase is Phase.OFFERED:
        return _offered(facts, claim)
    if claim.phase is Phase.ACCEPTED:
        return _accepted(facts, claim)
    name, away = claim.worker, _away(facts, claim.worker)
    return Why(
        code=Code.RUNNING,
        sentence=f"Runs on worker {name}, to which it was offered {lasted(claim.offered_s)} ago."
        f"{_unwanted(facts)}{away}",
        advice=f"Look at {name} on its host: edge-ws status." if away else "",
    )


def _unwanted(facts: JobFacts) -> str:
    """Return what to add if Airflow has another state for the task than that of one that runs."""
    task, number = facts.task, facts.job.key.try_number
    if task is None or task.try_number < number:
        return ""
    if task.try_number > number:
        return f" In Airflow the task is at try {task.try_number} already: this one is being stopped."
    if task.state in {"running", "queued", "restarting"}:
        return ""
    if task.state in {None, "scheduled"}:
        return " In Airflow the task was cleared: it is being stopped."
    return (
        f" In Airflow the task is {task.state} already: its callbacks still run, its end is on its way, or it"
        " is being stopped."
    )


def _away(facts: JobFacts, name: str) -> str:
    """Return what to add if the worker is not heard of; a task does not end by that."""
    worker = facts.worker(name)
    if worker is not None and is_here(worker):
        return ""
    seen_s = worker.seen_s if worker is not None else None
    seen = "is known no more" if seen_s is None else f"is not connected (last seen {lasted(seen_s)} ago)"
    return (
        f" {name} {seen}: the task may well go on there, where Airflow watches its heartbeat; its end is"
        " reported when the worker is back."
    )


def _offered(facts: JobFacts, claim: ClaimView) -> Why:
    left_s = claim.lease_s or 0.0
    until = _moment(facts.now + left_s)
    offered = f"Offered to worker {claim.worker} {lasted(claim.offered_s)} ago"
    if left_s > 0:
        return Why(
            code=Code.OFFERED,
            sentence=f"{offered}; it has until {until} ({lasted(left_s)}) to accept it,"
            " else it is offered again.",
        )
    if not facts.has_gateway:
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


def _accepted(facts: JobFacts, claim: ClaimView) -> Why:
    left_s = claim.lease_s or 0.0
    begun = f"Accepted by worker {claim.worker}, to which it was offered {lasted(claim.offered_s)} ago"
    away = _away(facts, claim.worker)
    if left_s > 0:
        waits = f"its start is waited for until {_moment(facts.now + left_s)} ({lasted(left_s)})"
    else:
        waits = (
            "its start was not heard of in time: it goes back to the queue if Airflow still has the task"
            " as queued"
        )
    return Why(code=Code.ACCEPTED, sentence=f"{begun}; {waits}.{_unwanted(facts)}{away}")


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


def _foreign(facts: JobFacts) -> Why:
    job = facts.job
    written = "" if job.updated_s is None else f", written {lasted(job.updated_s)} ago"
    if job.worker is None:
        return Why(
            code=Code.UNCLAIMED,
            sentence=f"The row's state is {job.state}{written}, but it names no worker: a gateway puts it"
            " back into the queue.",
            advice="" if facts.has_gateway else NO_GATEWAY_ADVICE,
        )
    if job.state == "restarting":
        return Why(
            code=Code.EDGE3_FETCHED,
            sentence=f"Fetched by edge3 worker {job.worker}{written}; it has not said yet that the job runs.",
        )
    runs = f"Runs on edge3 worker {job.worker}{written}.{_unwanted(facts)}"
    return Why(code=Code.EDGE3_RUNNING, sentence=runs)


# Over


def _ended(facts: JobFacts) -> Why:
    """Judge by the task's own state where that is known: the row only tells that a process has ended."""
    job, task = facts.job, facts.task
    if job.state == "removed" and job.reported and not job.was_claimed:
        return _left_queue(facts)
    if task is None or task.try_number < job.key.try_number:
        return _ended_here(facts)
    if task.try_number > job.key.try_number:
        return _earlier_try(facts, task)
    if task.state in OVER:
        return _task_is_over(facts, task)
    if task.state in AIRFLOWS_TURN:
        return _goes_on(facts, task)
    return _not_settled(facts, task)


def _where_and_when(facts: JobFacts) -> str:
    job = facts.job
    where = f" on worker {job.worker}" if job.worker else ""
    return where + ("" if job.updated_s is None else f" {lasted(job.updated_s)} ago") + _detail(facts)


def _detail(facts: JobFacts) -> str:
    job = facts.job
    return f" ({job.claim.detail})" if job.claim is not None and job.was_claimed and job.claim.detail else ""


def _log_told(facts: JobFacts) -> str:
    return f' Its log says: "{facts.log.line}".' if facts.log.line else ""


def _is_lacking(facts: JobFacts) -> bool:
    return any(sign in facts.log.line for sign in _LACKS)


def _log_advice(facts: JobFacts) -> str:
    """Return what to do about what the log says."""
    if _is_lacking(facts):
        return (
            f"The host of {facts.job.worker} lacks something that the task needs: compare its DAG files and"
            " its installed packages with the centre's."
        )
    return "See the task's log in Airflow."


def _unreported(facts: JobFacts) -> tuple[str, str]:
    """Return what to add, and to advise, while the scheduler has not taken note of the end."""
    if facts.job.owner is None:
        return "", ""
    told = f"; the scheduler (job {facts.job.owner}) has not taken note yet"
    if (facts.job.updated_s or 0.0) <= SLOW_S:
        return told, ""
    return told, "See the scheduler's log: is it alive, and is edge-ws in its [core] executor?"


def _ended_here(facts: JobFacts) -> Why:
    """Judge by the row alone: of a callback, say, or of a task that Airflow has forgotten."""
    job = facts.job
    code = {"success": Code.SUCCESS, "failed": Code.FAILED}.get(job.state, Code.REMOVED)
    unreported, advice = _unreported(facts)
    reported = "; the scheduler has taken note" if job.reported else ""
    said = f"Ended as {job.state}" if code is not Code.REMOVED else f"Over, as {job.state}"
    log_told = "" if code is Code.SUCCESS else _log_told(facts)
    sentence = f"{said}{_where_and_when(facts)}{unreported or reported}.{log_told}"
    return Why(code=code, sentence=sentence, advice=advice)


def _left_queue(facts: JobFacts) -> Why:
    """Tell of a row that the executor has ended, for nothing waited for it; see `store.jobs`."""
    job, task, number = facts.job, facts.task, facts.job.key.try_number
    ago = "" if job.updated_s is None else f" {lasted(job.updated_s)} ago"
    left = f"its row left the queue{ago}, without having run"
    when = "while it was queued"
    if job.worker is not None:
        left = f"its row was ended{ago}"
        when = f"while edge3 worker {job.worker} had it, of which nothing more was heard"
    if job.key.dag_id == CALLBACK_DAG_ID:
        what = f"Airflow did not wait for the callback any more {when}"
    elif task is None:
        what = f"The task was marked, cleared or deleted {when}"
    elif task.try_number < number or (task.try_number == number and task.state in AIRFLOWS_TURN):
        what = f"The task was cleared {when}"
    elif task.try_number > number:
        what = f"The task was cleared {when}, and is at try {task.try_number} now"
    elif task.state in OVER:
        what = f"The task was marked {task.state} {when}"
    else:
        what = f"Airflow did not wait for this round of the task {when}, and has it as {task.state} now"
    sentence = f"{what}: {left}."
    if task is not None and task.state in AIRFLOWS_TURN:
        turn = of_task(task, job.key.dag_id)
        return replace(turn, code=Code.LEFT_QUEUE, sentence=f"{sentence} {turn.sentence}")
    return Why(code=Code.LEFT_QUEUE, sentence=sentence)


def _earlier_try(facts: JobFacts, task: AirflowTask) -> Why:
    job = facts.job
    ended = task.past_state or job.state
    now = f"the task is at try {task.try_number} now, which is {state_told(task.state)}"
    code = OVER.get(ended, Code.OVER)
    log_told = "" if code is Code.SUCCESS else _log_told(facts)
    sentence = f"Try {job.key.try_number} ended as {ended}{_where_and_when(facts)}; {now}.{log_told}"
    return Why(code=code, sentence=sentence)


def _task_is_over(facts: JobFacts, task: AirflowTask) -> Why:
    state = task.state or ""
    code = OVER[state]
    unreported, advice = _unreported(facts)
    sentence = f"The task ended as {state}{_where_and_when(facts)}{unreported}."
    if code is Code.FAILED:
        sentence, advice = f"{sentence}{_log_told(facts)}", advice or _log_advice(facts)
    return Why(code=code, sentence=sentence, advice=advice)


def _goes_on(facts: JobFacts, task: AirflowTask) -> Why:
    """Tell of a process that has ended and a task that has not."""
    turn = of_task(task, facts.job.key.dag_id)
    number = facts.job.key.try_number
    if task.state == "up_for_retry":
        begun = f"Try {number} failed{_where_and_when(facts)}.{_log_told(facts)}"
        return replace(turn, sentence=f"{begun} {turn.sentence}", advice=_log_advice(facts))
    # A round that ended as it should has nothing to say.
    log_told = _log_told(facts) if facts.log.is_error else ""
    what = f"Its last round{_where_and_when(facts)} is over.{log_told}"
    if task.state in {None, "scheduled"}:
        what = f"What ran{_where_and_when(facts)} is over, and the task is to run again.{log_told}"
    advice = _log_advice(facts) if log_told and _is_lacking(facts) else turn.advice
    return replace(turn, sentence=f"{what} {turn.sentence}", advice=advice)


def _not_settled(facts: JobFacts, task: AirflowTask) -> Why:
    unreported, advice = _unreported(facts)
    return Why(
        code=Code.NOT_SETTLED,
        sentence=f"Its process ended{_where_and_when(facts)}, and Airflow has the task as {task.state}"
        f" still{unreported}: the scheduler settles that within seconds.{_log_told(facts)}",
        advice=advice,
    )


# No row


def why_absent(task: AirflowTask | None, dag_id: str, try_number: int | None = None) -> Why:
    """Return why there is no row for a task; None: nobody could ask Airflow, or the last try is meant.

    Raises:
        UsageError: there has been no such try.
    """
    number = try_number
    if task is not None and number is not None and not 1 <= number <= task.try_number:
        last = f"the last is {task.try_number}" if task.try_number else "there has been none yet"
        raise UsageError(f"there has been no try {number} of the task; {last}")
    if task is None:
        return Why(
            code=Code.NO_SUCH_JOB,
            sentence="There is no such job in edge_job: it is another executor's, is not queued yet, or has"
            " ended and was purged.",
        )
    if number is not None and number < task.try_number:
        ended = f" as {task.past_state}" if task.past_state else ""
        return Why(
            code=Code.OVER,
            sentence=f"Try {number} ended{ended}, for the task is at try {task.try_number} in Airflow; its"
            " row here was purged, or it was another executor's.",
        )
    if task.state in {"queued", "running", "restarting"}:
        which = task.executor or "the default executor"
        return Why(
            code=Code.ANOTHER_EXECUTORS,
            sentence=f"The task is {task.state} in Airflow, but with no edge executor: it is {which}'s.",
            advice="To have it run on a worker: give the task executor= the name that edge-ws has in [core]"
            " executor, and a queue that a worker serves.",
        )
    if task.state in AIRFLOWS_TURN:
        return of_task(task, dag_id)
    when = "" if task.ended_s is None else f" {lasted(task.ended_s)} ago"
    return Why(
        code=Code.OVER,
        sentence=f"The task ended as {task.state}{when} in Airflow; its row here was purged, or it never had"
        " one: another executor's, or marked by somebody.",
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")
