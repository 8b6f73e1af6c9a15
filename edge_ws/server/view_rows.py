"""The views' rows: what was read, as plain JSON-able values. Pure; `views` is who asks.

Nothing absent is left out: it is None. Times are UTC in ISO 8601, ages seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from edge_ws.server.diagnosis import AirflowTask, JobFacts, Why
from edge_ws.server.eligibility import Fit, free_slots, is_here, no_jobs, takes_jobs
from edge_ws.store.records import GatewayRecord, JobKey
from edge_ws.store.view_records import Backlog, ClaimView, JobView, QueuePause, WorkerView

Row = dict[str, object]
SHOWN_SEATS = 100
"""Workers that are shown with their reasons."""


# Jobs


def job_row(job: JobView) -> Row:
    """Return a job as a list shows it."""
    claim = job.held_by
    return {
        "dag_id": job.key.dag_id,
        "run_id": job.key.run_id,
        "task_id": job.key.task_id,
        "map_index": job.key.map_index,
        "try_number": job.key.try_number,
        "state": job.state,
        "phase": claim.phase.value if claim is not None else None,
        "queue": job.queue,
        "worker": job.worker,
        "slots": job.slots,
        "priority": job.priority,
        "team_name": job.team,
        "queued_at": _iso(job.queued_at),
        "waited_s": _tenths(job.waited_s) if job.state == "queued" else None,
    }


def shown_job(facts: JobFacts, verdict: Why) -> Row:
    """Return a job with its verdict and all that it rests on."""
    job, claim = facts.job, facts.job.held_by
    return {
        "code": verdict.code.value,
        "verdict": verdict.sentence,
        "advice": verdict.advice or None,
        **job_row(job),
        "executor": _executor(job),
        "reported": _reported(job),
        "claim": claim.id if claim is not None else None,
        "offered_at": _utc(facts.now - claim.offered_s) if claim is not None else None,
        "lease_until": _utc(facts.now + claim.lease_s)
        if claim is not None and claim.lease_s is not None
        else None,
        **_in_airflow(facts.task),
        "last_log_line": facts.log.line or None,
        "first_queued_s": _tenths(facts.first_s) if job.state == "queued" else None,
        "jobs_before_it": facts.ahead,
        "workers": [_seat_row(one) for one in verdict.seats[:SHOWN_SEATS]],
        "claims": [_claim_row(one, facts.now) for one in facts.history],
        "gateways": [_gateway_row(one) for one in facts.gateways],
    }


def absent_row(key: JobKey, task: AirflowTask | None, verdict: Why) -> Row:
    """Return a task that has no row, as far as Airflow knows it."""
    if task is not None and key.try_number and key.try_number != task.try_number:
        # What it knows is of a later try.
        task = None
    return {
        "code": verdict.code.value,
        "verdict": verdict.sentence,
        "advice": verdict.advice or None,
        "dag_id": key.dag_id,
        "run_id": key.run_id,
        "task_id": key.task_id,
        "map_index": key.map_index,
        "try_number": key.try_number or None,
        "state": task.state if task is not None else None,
        "queue": task.queue if task is not None else None,
        "executor": task.executor if task is not None else None,
        **_in_airflow(task),
        "workers": [],
        "claims": [],
        "gateways": [],
    }


def _in_airflow(task: AirflowTask | None) -> Row:
    """Return what Airflow says of the task itself."""
    if task is None:
        names = ("task_state", "task_try_number", "dag_paused", "dag_stale", "run_state", "pool", "trigger")
        return {**dict.fromkeys(names), "requeues": None, "unmet": []}
    return {
        "task_state": task.state,
        "task_try_number": task.try_number,
        "dag_paused": task.dag_paused,
        "dag_stale": task.dag_stale,
        "run_state": task.run_state,
        "pool": task.pool,
        "trigger": task.trigger,
        "requeues": task.requeues,
        "unmet": [{"code": one.code.value, "reason": one.reason} for one in task.unmet],
    }


def _executor(job: JobView) -> str | None:
    """Return whose row it is, as far as it still says so."""
    if job.owner is not None:
        return "edge-ws"
    return None if job.state not in {"queued", "restarting", "running"} else "another (edge3's)"


def _reported(job: JobView) -> bool | None:
    """Return whether the scheduler has taken note of the end; None: not over, or nobody can tell."""
    if job.state in {"queued", "restarting", "running"} or job.held_by is not None:
        return None
    if job.owner is not None:
        return False
    return True if job.reported else None


def _claim_row(claim: ClaimView, now: float) -> Row:
    return {
        "claim": claim.id,
        "worker": claim.worker,
        "phase": claim.phase.value,
        "result": claim.result,
        "detail": claim.detail or None,
        "offered_at": _utc(now - claim.offered_s),
        "ended_at": _utc(now - claim.ended_s) if claim.ended_s is not None else None,
    }


def _seat_row(seat: Fit) -> Row:
    return {
        "worker": seat.worker.name,
        "kind": _kind(seat.worker),
        "reason": seat.reason.value,
        "why": f"{seat.worker.name} {seat.why}",
    }


def _gateway_row(one: GatewayRecord) -> Row:
    return {
        "id": one.id,
        "hostname": one.hostname,
        "pid": one.pid,
        "alive": one.is_alive,
        "last_seen_s": _tenths(one.seen_s),
    }


# Queues


def served(worker: WorkerView) -> set[str] | None:
    """Return the queues that both the worker and its token name; None: every queue."""
    token = worker.token.queues if worker.token is not None else None
    named = [set(queues) for queues in (worker.queues, token) if queues is not None]
    return set.intersection(*named) if named else None


def _serves(worker: WorkerView, queue: str) -> bool:
    named = served(worker)
    return named is None or queue in named


def queue_row(backlog: Backlog, workers: Sequence[WorkerView], pause: QueuePause | None = None) -> Row:
    """Return a queue with the workers that take its jobs now, or would if it were not paused."""
    serving = [one for one in workers if takes_jobs(one) and _serves(one, backlog.queue)]
    return {
        "queue": backlog.queue,
        "queued": backlog.queued,
        "running": backlog.running,
        "workers": len(serving),
        "free_slots": sum(one.free for one in serving),
        "oldest_wait_s": _tenths(backlog.oldest_wait_s),
        **pause_row(pause),
    }


def pause_row(pause: QueuePause | None) -> Row:
    """Return whether a queue is paused, since when, by whom and why."""
    return {
        "paused": pause is not None,
        "paused_since": _utc(pause.since) if pause is not None else None,
        "paused_by": pause.by if pause is not None else None,
        "pause_note": pause.note if pause is not None else None,
    }


# Workers


def _kind(worker: WorkerView) -> str:
    return "edge-ws" if worker.is_ours else "edge3"


def listed_worker(one: WorkerView) -> Row:
    """Return a worker as a list shows it: the wish beside what is in force, under edge3's names."""
    return {
        "worker_name": one.name,
        "kind": _kind(one),
        "state": one.state,
        **_readiness(one),
        "queues": _list(one.queues),
        "team_name": one.team,
        "jobs_active": one.jobs,
        "concurrency": one.concurrency,
        "free_concurrency": free_slots(one),
        "wished_concurrency": one.wished_concurrency,
        "wished_queues": _list(one.wished_queues),
        **_wished(one),
        **_maintenance(one),
        "last_update": _iso(one.last_update),
        **_line(one),
        "token_expires": _utc(one.token.expires_at) if one.token is not None else None,
        **{name: one.sysinfo.get(name) for name in _MACHINE},
    }


_MACHINE = ("edge_ws_version", "airflow_version", "python_version", "worker_start_time", "disk_free_gb")
"""What a worker says of itself and its machine, as far as a list shows it."""
_LINE = (
    "transport_since",
    "transport_reason",
    "connected_since",
    "connection_losses",
    "connection_lost_at",
    "connection_lost_why",
    "transport_changes",
)
"""What is known of its connection; of one that is away, of the last one."""


def _readiness(one: WorkerView) -> Row:
    """Return whether the worker is there and takes new jobs, and why it does not."""
    why = no_jobs(one)
    return {
        "connected": is_here(one),
        "last_seen_s": _tenths(one.seen_s),
        "takes_jobs": why is None,
        "no_jobs_code": why.code if why is not None else None,
        "why_no_jobs": why.why if why is not None else None,
    }


def _line(one: WorkerView) -> Row:
    return {"transport": one.transport, **{name: one.sysinfo.get(name) for name in _LINE}}


def _maintenance(one: WorkerView) -> Row:
    """Return what is known of its maintenance."""
    return {
        "maintenance_comment": one.comment,
        "maintenance_since": _utc(one.maintenance_since),
        "maintenance_until": _utc(one.maintenance_until),
        "maintenance_by": one.maintenance_by,
    }


def _wished(one: WorkerView) -> Row:
    """Return the rest of the wish; edge3's worker has none but its state, and never says what it applies."""
    return {
        "wished_maintenance": one.wishes_maintenance if one.is_ours else None,
        "wished_shutdown": one.wishes_shutdown if one.is_ours else None,
        "leaves_by": _utc(one.leaves_by),
        "applied": one.applied_revision >= one.wish_revision if one.is_ours else None,
    }


def worker_row(one: WorkerView, gateway: GatewayRecord | None, jobs: Sequence[JobView], now: float) -> Row:
    """Return all that is known of a worker."""
    token = one.token
    held = [job for job in jobs if job.state in {"restarting", "running"}]
    return {
        "worker_name": one.name,
        "kind": _kind(one),
        "state": one.state,
        **_readiness(one),
        **_maintenance(one),
        "first_online": _iso(one.first_online),
        **_line(one),
        "gateway": one.gateway,
        "gateway_hostname": gateway.hostname if gateway is not None else None,
        "concurrency": one.concurrency,
        "wished_concurrency": one.wished_concurrency,
        "local_concurrency": one.local_concurrency,
        "slots_taken": one.taken,
        "stale_slots": one.room.stale_slots,
        "free_slots": free_slots(one),
        "queues": _list(one.queues),
        "wished_queues": _list(one.wished_queues),
        "local_queues": _list(one.local_queues),
        "wish_revision": one.wish_revision if one.is_ours else None,
        "applied_revision": one.applied_revision if one.is_ours else None,
        **_wished(one),
        "applied_at": _utc(now - one.applied_s) if one.applied_s is not None else None,
        "team_name": one.team,
        "token": token.name if token is not None else None,
        "token_queues": _list(token.queues) if token is not None else None,
        "token_team": token.team if token is not None else None,
        "token_valid": token.is_good if token is not None else None,
        "token_expires": _utc(token.expires_at) if token is not None else None,
        "site": one.site,
        "jobs_active": len(held),
        "jobs": [job_row(job) for job in held],
        **{name: one.sysinfo.get(name) for name in _MACHINE},
        "sysinfo": dict(one.sysinfo),
    }


# Values


def _list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 1)
