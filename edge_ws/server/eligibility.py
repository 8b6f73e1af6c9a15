"""Why a worker takes a queued job or does not: one reason for each, the nearest to taking it first. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from edge_ws.store.view_records import JobView, WorkerView
from edge_ws.store.worker_states import AWAY, MAINTENANCE, WorkerState, state_of


class Reason(Enum):
    """What is nearest to keeping the job from the worker; in the order of how little there is to be done."""

    FREE = "free"
    """Nothing: it is about to be offered the job."""
    POLLS = "polls"
    """Nothing: edge3's worker asks by itself."""
    FULL = "full"
    PAUSED = "paused"
    MAINTENANCE = "maintenance"
    NOT_READY = "not_ready"
    """Connected, and takes nothing new by itself: something on its host is in the way."""
    LEAVING = "leaving"
    NOT_CONNECTED = "not_connected"
    """It has not said goodbye, and is not heard of."""
    OFFLINE = "offline"
    COULD_NOT_START = "could_not_start"
    """It has tried, and failed through a fault of its own: the job goes to others."""
    TOO_NARROW = "too_narrow"
    """The job needs more slots than it has in all."""
    TOKEN = "token"  # noqa: S105 - a reason
    TEAM = "team"
    OTHER_QUEUES = "other_queues"


_ORDER = {reason: number for number, reason in enumerate(Reason)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One worker as this job finds it."""

    worker: WorkerView
    reason: Reason
    why: str
    """A clause whose subject is the worker."""

    @property
    def serves(self) -> bool:
        """Whether the job's queue is the worker's."""
        return self.reason is not Reason.OTHER_QUEUES


def fits(job: JobView, workers: Iterable[WorkerView]) -> list[Fit]:
    """Return every worker with its reason, the nearest first."""
    found = [fit(job, worker) for worker in workers]
    return sorted(found, key=lambda one: (_ORDER[one.reason], one.worker.name))


def fit(job: JobView, worker: WorkerView) -> Fit:
    """Return the reason of one worker."""
    reason, why = (
        _excluded(job, worker)
        or _tried(job, worker)
        or _away(worker)
        or _unwilling(worker)
        or _full(job, worker)
        or _free(worker)
    )
    return Fit(worker=worker, reason=reason, why=why)


_Found = tuple[Reason, str]


def _excluded(job: JobView, worker: WorkerView) -> _Found | None:
    """Return what only another setting, of the job, the worker or its token, can change."""
    token = worker.token
    for queues in (worker.queues, worker.wished_queues):
        if queues is not None and job.queue not in queues:
            return Reason.OTHER_QUEUES, f"serves {queues_told(queues)}"
    if worker.team is not None and worker.team != job.team:
        whose = f"the job is of team {job.team}" if job.team else "the job is of no team"
        return Reason.TEAM, f"takes jobs of team {worker.team} only, and {whose}"
    if token is not None and token.queues is not None and job.queue not in token.queues:
        return Reason.TOKEN, f"has the token {token.name!r}, which admits {queues_told(token.queues)}"
    if token is not None and not token.is_good:
        return Reason.TOKEN, f"has the token {token.name!r}, which is revoked or expired"
    # One that is paused has its own slots again when it is so no more.
    widest = worker.concurrency or worker.local_concurrency
    if widest is not None and widest < job.slots:
        return Reason.TOO_NARROW, f"has {slots_told(widest)} in all, and the job needs {job.slots}"
    return None


def _tried(job: JobView, worker: WorkerView) -> _Found | None:
    fault = job.faults.get(worker.name)
    return None if fault is None else (Reason.COULD_NOT_START, f"could not start it ({fault})")


def could_serve(job: JobView, worker: WorkerView) -> bool:
    """Tell whether the worker takes the job, sooner or later, once it serves the job's queue."""
    return _excluded(job, replace(worker, queues=None)) is None


def _away(worker: WorkerView) -> _Found | None:
    state = state_of(worker.state)
    seen = "never seen" if worker.seen_s is None else f"last seen {lasted(worker.seen_s)} ago"
    if worker.token is not None and not worker.token.is_good:
        seen = f"{seen}, and its token {worker.token.name!r} {worker.token.fault}"
    if state is WorkerState.OFFLINE:
        return Reason.OFFLINE, f"is offline ({seen})"
    if state is WorkerState.OFFLINE_MAINTENANCE:
        return Reason.OFFLINE, f"is offline and in maintenance{_comment(worker)} ({seen})"
    if not is_here(worker):
        return Reason.NOT_CONNECTED, f"is not connected ({seen})"
    return None


def is_here(worker: WorkerView) -> bool:
    """Tell whether the worker is connected, or, of edge3's, has sent a heartbeat lately."""
    if worker.seen_s is None or state_of(worker.state) in AWAY:
        return False
    return worker.seen_s <= worker.silent_after_s and (worker.gateway is not None or not worker.is_ours)


class NoJobs(NamedTuple):
    """Why a worker takes no new jobs at all."""

    code: str
    """A reason's value or, where something on its host is in the way, the worker's own code for that."""
    why: str
    """A clause whose subject is the worker."""


def no_jobs(worker: WorkerView) -> NoJobs | None:
    """Return why the worker takes no new jobs at all; None: it does, if it has a free slot."""
    found = _away(worker) or _unwilling(worker)
    if found is None:
        return None
    reason, why = found
    code = worker.room.code if reason is Reason.NOT_READY else ""
    return NoJobs(code or reason.value, why)


def takes_jobs(worker: WorkerView) -> bool:
    """Tell whether the worker is here and takes new jobs, if it has a free slot."""
    return no_jobs(worker) is None


def free_slots(worker: WorkerView) -> int:
    """Return how many slots can be given to it now."""
    return worker.free if takes_jobs(worker) else 0


def _unwilling(worker: WorkerView) -> _Found | None:
    state = state_of(worker.state)
    if state in {WorkerState.SHUTDOWN_REQUEST, WorkerState.TERMINATING}:
        return Reason.LEAVING, "is shutting down: it finishes what it runs and takes nothing new"
    if state in MAINTENANCE:
        return Reason.MAINTENANCE, f"is in maintenance{_comment(worker)}"
    if state is WorkerState.MAINTENANCE_EXIT:
        return Reason.MAINTENANCE, "was told to leave maintenance and has not said yet that it did"
    if worker.concurrency == 0:
        return Reason.PAUSED, "is paused (concurrency 0)"
    if not worker.room.ready:
        why = f": {worker.room.why}" if worker.room.why else ""
        return Reason.NOT_READY, f"is connected, but can start no jobs now{why}"
    return None


def _comment(worker: WorkerView) -> str:
    until = worker.maintenance_until
    ends = f" until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC" if until is not None else ""
    return f"{ends} ({worker.comment.strip()})" if worker.comment and worker.comment.strip() else ends


def _full(job: JobView, worker: WorkerView) -> _Found | None:
    if worker.concurrency is None or worker.free >= job.slots:
        return None
    if worker.free:
        return (
            Reason.FULL,
            f"has {worker.free} of {worker.concurrency} slots free, and the job needs {job.slots}",
        )
    stale = worker.room.stale_slots
    over = f", {stale} of them with processes of jobs that are no longer its own" if stale else ""
    return Reason.FULL, f"is full ({worker.busy} of {worker.concurrency} slots busy{over})"


def _free(worker: WorkerView) -> _Found:
    has = (
        "has a free slot"
        if worker.concurrency is None
        else f"has {worker.free} of {worker.concurrency} slots free"
    )
    if worker.is_ours:
        return Reason.FREE, has
    return Reason.POLLS, f"{has} and asks for jobs by itself, as edge3's workers do"


def queues_told(queues: Iterable[str]) -> str:
    """Return the queues' names in words, the first ten of them."""
    names = sorted(queues)
    if not names:
        return "no queue"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"only queue{'s' if len(names) > 1 else ''} {', '.join(names[:10])}{more}"


def slots_told(slots: int) -> str:
    """Return a number of slots in words."""
    return f"{slots} slot{'' if slots == 1 else 's'}"


def lasted(seconds: float) -> str:
    """Return a length of time as people say it."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"
