"""Why a queued job is not with a worker yet. Pure; `why` is its only caller.

Of several reasons the nearest comes first: what would let the job go on with the least to be done.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from edge_ws.protocol.ids import is_queue_name
from edge_ws.server.diagnosis import NO_GATEWAY_ADVICE, SLOW_S, Code, JobFacts, Why
from edge_ws.server.eligibility import (
    Fit,
    Reason,
    could_serve,
    fits,
    is_here,
    lasted,
    queues_told,
    slots_told,
)
from edge_ws.server.why_task import state_told
from edge_ws.store.view_records import ClaimView, QueuePause

SHOWN = 5
"""Workers that a sentence names at the most."""
_CODES = {
    Reason.FREE: Code.ABOUT_TO_BE_OFFERED,
    Reason.POLLS: Code.WAITS_FOR_POLL,
    Reason.FULL: Code.ALL_FULL,
    Reason.PAUSED: Code.ALL_PAUSED,
    Reason.MAINTENANCE: Code.IN_MAINTENANCE,
    Reason.NOT_READY: Code.NONE_READY,
    Reason.LEAVING: Code.ALL_LEAVING,
    Reason.NOT_CONNECTED: Code.ALL_OFFLINE,
    Reason.OFFLINE: Code.ALL_OFFLINE,
    Reason.COULD_NOT_START: Code.NONE_COULD_START,
    Reason.TOO_NARROW: Code.TOO_WIDE,
    Reason.TOKEN: Code.TOKEN_EXCLUDES,
    Reason.TEAM: Code.TEAM_EXCLUDES,
}
_HEADS = {
    Code.ALL_PAUSED: "no worker takes jobs of queue {queue} now, and the nearest to it is paused",
    Code.IN_MAINTENANCE: "no worker takes jobs of queue {queue} now, and the nearest to it is in maintenance",
    Code.NONE_READY: "no worker takes jobs of queue {queue} now, and the nearest to it can start none",
    Code.ALL_LEAVING: "no worker takes jobs of queue {queue} any more: who serves it is leaving",
    Code.ALL_OFFLINE: "no worker that serves queue {queue} is online",
    Code.NONE_COULD_START: "no other worker of queue {queue} is left to start it",
    Code.TOO_WIDE: "the job needs {slots}, more than any worker has that serves queue {queue}",
    Code.TOKEN_EXCLUDES: "no worker that serves queue {queue} may take it by its token",
    Code.TEAM_EXCLUDES: "no worker that serves queue {queue} is of the job's team",
    Code.WAITS_FOR_POLL: "only edge3 workers can take it now, and they ask for jobs every few seconds",
}
_ADVICE = {
    Code.ALL_FULL: "It is offered as soon as a slot comes free. To run more at once:"
    " edge-ws set-worker-concurrency -H {name} -c N",
    Code.ALL_PAUSED: "edge-ws set-worker-concurrency -H {name} -c N",
    Code.IN_MAINTENANCE: "edge-ws remote-edge-worker-exit-maintenance -H {name}",
    Code.NONE_READY: "See edge-ws status on the host of {name}: it says why. Mostly Airflow is missing"
    " or broken there, or is just being loaded.",
    Code.ALL_LEAVING: "Start the worker again when it has left, or another one that serves queue {queue}.",
    Code.ALL_OFFLINE: "Look at {name} on its host: edge-ws status, and its log; edge-ws doctor says whether"
    " it can reach the gateway.",
    Code.NONE_COULD_START: "Mend what {name} says, or start another worker that serves queue {queue}.",
    Code.TOO_WIDE: "Give {name} more slots (edge-ws set-worker-concurrency -H {name} -c {slots}),"
    " or lower the task's pool_slots or its executor_config.",
    Code.TOKEN_EXCLUDES: "Give {name} a token that admits the queue (edge-ws token create),"
    " or correct the task's queue.",
    Code.TEAM_EXCLUDES: "Start a worker with a token of the job's team, or of none: that one takes all"
    " teams' jobs.",
}


def why_queued(facts: JobFacts) -> Why:
    """Return what keeps the job from running, with every worker's reason."""
    job = facts.job
    if (unwanted := _not_wanted(facts)) is not None:
        return unwanted
    if facts.pause is not None:
        return _paused(facts, facts.pause)
    found = fits(job, facts.workers)
    serving = [one for one in found if one.serves]
    # Workers of other queues matter only where nobody serves the job's own.
    shown = tuple(serving or found)
    since = _since(facts)
    if not facts.has_gateway and not any(_needs_no_gateway(one) for one in serving):
        return _no_gateway(facts, since, shown, is_served=bool(serving))
    if not serving:
        return _unserved(facts, since, shown)
    code = _CODES[serving[0].reason]
    last = _not_taken(facts)
    if code is Code.ABOUT_TO_BE_OFFERED:
        return _not_taken_why(since, last, shown) if last else _about_to_be_offered(facts, since, shown)
    words = {"queue": job.queue, "slots": slots_told(job.slots)}
    head = _full_head(facts, serving) if code is Code.ALL_FULL else _HEADS[code].format(**words)
    advice = _ADVICE.get(code, "")
    return Why(
        code=code,
        sentence=f"{since}: {head}: {_told(serving)}{_ahead(facts)}.",
        advice=advice.format(name=serving[0].worker.name, queue=job.queue, slots=job.slots),
        seats=shown,
    )


def since_told(facts: JobFacts) -> str:
    """Return how the sentence on that job begins: for how long it has waited."""
    return _since(facts)


def _not_wanted(facts: JobFacts) -> Why | None:
    """Return the verdict on a row whose task Airflow does not have as queued any more, None if it has."""
    task, job = facts.task, facts.job
    if task is None or task.try_number < job.key.try_number:
        return None
    if task.try_number > job.key.try_number:
        what = f"at try {task.try_number}, which is {state_told(task.state)}"
    elif task.state == "queued":
        return None
    else:
        what = state_told(task.state)
    return Why(
        code=Code.NOT_WANTED,
        sentence=f"{_since(facts)}, but in Airflow the task is {what}: nobody is offered this job any more.",
        advice="If the row stays, see the log of the scheduler, whose executor ends such rows.",
    )


def _paused(facts: JobFacts, pause: QueuePause) -> Why:
    """Return the verdict on a job of a paused queue; edge3's workers know of no pause."""
    polls = [one for one in fits(facts.job, facts.workers) if one.reason is Reason.POLLS]
    theirs = (
        f"; but edge3's workers know of no pause, and {polls[0].worker.name} may take it" if polls else ""
    )
    return Why(
        code=Code.QUEUE_PAUSED,
        sentence=f"{_since(facts)}: {pause_told(pause)}{theirs}.",
        advice=f"edge-ws resume-queue {shlex.quote(pause.queue)}",
    )


def pause_told(pause: QueuePause) -> str:
    """Return as a clause that the queue is paused, since when, by whom and why."""
    since = f"{datetime.fromtimestamp(pause.since, UTC):%Y-%m-%d %H:%M} UTC ({lasted(pause.paused_s)})"
    by = f" by {pause.by}" if pause.by else ""
    return f"queue {pause.queue} is paused since {since}{by}: {pause.note.strip()}"


def _since(facts: JobFacts) -> str:
    """Return for how long the job has waited: in this round, and since it was first queued."""
    job, task = facts.job, facts.task
    said = "Queued" if job.waited_s is None else f"Queued for {lasted(job.waited_s)}"
    if facts.first_s > (job.waited_s or 0.0) + 1.0:
        said = f"{said} in this round, and first queued more than {lasted(facts.first_s)} ago"
    if task is not None and task.requeues:
        times = "once" if task.requeues == 1 else f"{task.requeues} times"
        said = f"{said} (Airflow has queued it again {times}, as nobody took it in time)"
    if job.owner is None:
        said = f"{said} (by another executor, such as edge3's)"
    return f"{said}, in a paused DAG, which stops no queued task" if task and task.dag_paused else said


def _needs_no_gateway(one: Fit) -> bool:
    return not one.worker.is_ours and one.reason in {Reason.POLLS, Reason.FULL}


def _told(serving: Sequence[Fit]) -> str:
    more = f"; and {len(serving) - SHOWN} more" if len(serving) > SHOWN else ""
    return "; ".join(f"{one.worker.name} {one.why}" for one in serving[:SHOWN]) + more


def _ahead(facts: JobFacts) -> str:
    if not facts.ahead:
        return ""
    jobs = "1 job of the queue goes" if facts.ahead == 1 else f"{facts.ahead} jobs of the queue go"
    return f"; {jobs} before it"


def _full_head(facts: JobFacts, serving: Sequence[Fit]) -> str:
    queue = facts.job.queue
    full = [one.worker for one in serving if one.reason is Reason.FULL]
    busy, slots = sum(one.busy for one in full), sum(one.concurrency or 0 for one in full)
    if len(full) == 1:
        has = "is full" if facts.job.slots == 1 else f"has not {slots_told(facts.job.slots)} free"
        return f"the only worker that takes jobs of queue {queue} now {has}"
    if facts.job.slots == 1:
        return f"all workers that take jobs of queue {queue} now are full ({busy} of {slots} slots busy)"
    return (
        f"no worker that takes jobs of queue {queue} now has {slots_told(facts.job.slots)} free"
        f" ({busy} of {slots} busy)"
    )


def _no_gateway(facts: JobFacts, since: str, shown: tuple[Fit, ...], *, is_served: bool) -> Why:
    last = min(facts.gateways, key=lambda one: one.seen_s, default=None)
    seen = (
        f"the last one, on {last.hostname}, was seen {lasted(last.seen_s)} ago"
        if last is not None
        else "none is known"
    )
    besides = "" if is_served else f"; and no worker is known that serves queue {facts.job.queue}"
    return Why(
        code=Code.NO_GATEWAY,
        sentence=f"{since}: no gateway is alive, so nobody hands jobs out; {seen}{besides}.",
        advice=NO_GATEWAY_ADVICE,
        seats=shown,
    )


def _unserved(facts: JobFacts, since: str, shown: tuple[Fit, ...]) -> Why:
    queue = facts.job.queue
    names = {name for one in shown for name in one.worker.queues or ()}
    if not shown:
        others = "no worker has ever connected"
    elif len(shown) == 1:
        others = f"the only known worker, {shown[0].worker.name}, serves {queues_told(names)}"
    else:
        others = f"the {len(shown)} known workers serve {queues_told(names)}"
    return Why(
        code=Code.NO_WORKER_SERVES_QUEUE,
        sentence=f"{since}: no worker serves queue {queue}; {others}.",
        advice=_who_serves(facts, shown),
        seats=shown,
    )


def _who_serves(facts: JobFacts, shown: tuple[Fit, ...]) -> str:
    """Return what to do about a queue that nobody serves."""
    queue = facts.job.queue
    if not is_queue_name(queue):
        return "Correct the task's queue: no worker can serve one with a comma or spaces around it."
    quoted = shlex.quote(queue)
    return f"Start a worker with -q {quoted}{_who_could(facts, shown)}; or correct the task's queue."


def _who_could(facts: JobFacts, shown: tuple[Fit, ...]) -> str:
    """Return which worker can be given the job's queue, so that it takes the job then."""
    could = [one.worker for one in shown if could_serve(facts.job, one.worker)]
    if not could:
        none = "; no known worker could serve it, by its token, team or slots" if shown else ""
        return f" and a token that admits it (edge-ws token create){none}"
    # Where not every one will do, one that is here is named.
    name = "WORKER" if len(could) == len(shown) else min(could, key=lambda one: not is_here(one)).name
    return f", or: edge-ws add-worker-queues -H {name} -q {shlex.quote(facts.job.queue)}"


def _not_taken(facts: JobFacts) -> ClaimView | None:
    """Return the last offer of this round if it came back."""
    last = next(iter(facts.history), None)
    waited_s = facts.job.waited_s
    if last is None or last.ended_s is None or waited_s is None or last.offered_s > waited_s:
        return None
    return last


def _not_taken_why(since: str, last: ClaimView, shown: tuple[Fit, ...]) -> Why:
    how = "refused it" if last.result == "refused" else "did not take it"
    detail = f" ({last.detail})" if last.detail else ""
    return Why(
        code=Code.NOT_TAKEN,
        sentence=f"{since}: {last.worker} {how} {lasted(last.ended_s or 0.0)} ago{detail};"
        f" it is being offered again: {_told(shown)}.",
        advice=f"If it goes on so, see the log of {last.worker}.",
        seats=shown,
    )


def _about_to_be_offered(facts: JobFacts, since: str, shown: tuple[Fit, ...]) -> Why:
    free = [one for one in shown if one.reason is Reason.FREE]
    is_slow = (facts.job.waited_s or 0.0) > SLOW_S and not facts.ahead
    advice = (
        "It should not take so long. Either a wider job that has waited longer keeps these slots"
        " (edge-ws list-jobs), or a gateway does not work: see its log."
    )
    return Why(
        code=Code.ABOUT_TO_BE_OFFERED,
        sentence=f"{since}: about to be offered: {_told(free)}{_ahead(facts)}.",
        advice=advice if is_slow else "",
        seats=shown,
    )
