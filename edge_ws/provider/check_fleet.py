"""Judges what is there to do the work: workers, what waits in queues, tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from edge_ws.provider.finding import Finding, ok, warning, wrong
from edge_ws.server.seats import Reason, Seat, is_here, lasted, no_jobs, seats
from edge_ws.store.records import TokenRecord
from edge_ws.store.view_records import Backlog, JobView, WorkerView

SOON_S = 7 * 86_400.0
"""Of a token that expires within so long is told."""
NAMED = 3
"""Workers, queues or tokens that are named; of the rest only the number is told."""
_TAKES = frozenset({Reason.FREE, Reason.POLLS, Reason.FULL})
_AS_WISHED = frozenset(
    one.value for one in (Reason.MAINTENANCE, Reason.PAUSED, Reason.LEAVING, Reason.OFFLINE)
)
"""Reasons to take no jobs that somebody has wanted."""
_LOOK = "look at it on its host: edge-ws status and edge-ws doctor"
_RENEW = "make a new one (airflow edge-ws token create NAME) and put it into the worker's token file"


def workers(known: Sequence[WorkerView]) -> Finding:
    """Judge the fleet; who has said goodbye is no fault, nor who takes nothing because it was told so."""
    if not known:
        do = "make a token (airflow edge-ws token create NAME), and start edge-ws worker with it on its host"
        return warning("workers", "none has connected yet", do)
    faults = [
        f"{one.name} {found.why}"
        for one in known
        if (found := no_jobs(one)) is not None and found.code not in _AS_WISHED
    ]
    here = sum(is_here(one) for one in known)
    says = f"{here} of {len(known)} connected"
    if not faults:
        return ok("workers", says)
    judge = warning if here else wrong
    return judge("workers", f"{says}: {_told(faults)}", _LOOK)


def queues(waiting: Sequence[Backlog], first: Sequence[JobView], known: Sequence[WorkerView]) -> Finding:
    """Judge what waits.

    Args:
        waiting: the queues in which jobs wait.
        first: of each of them the job that is next.
        known: all workers.
    """
    if not waiting:
        return ok("queues", "no job waits")
    backlogs = {one.queue: one for one in waiting}
    unserved = []
    for job in first:
        found = seats(job, known)
        if not found or found[0].reason not in _TAKES:
            unserved.append(f"{_waits(backlogs[job.queue])} and nobody takes them: {_nearest(found)}")
    if unserved:
        do = "airflow edge-ws show-job says of one job what keeps it and what to do"
        return wrong("queues", _told(unserved), do)
    return ok("queues", f"workers are there for all that waits: {_told([_waits(one) for one in waiting])}")


def _waits(one: Backlog) -> str:
    oldest = "" if one.oldest_wait_s is None else f", the oldest for {lasted(one.oldest_wait_s)}"
    return f"queue {one.queue}: {one.queued} job(s) wait{oldest}"


def _nearest(found: Sequence[Seat]) -> str:
    if not found:
        return "no worker has connected yet"
    if not found[0].serves:
        return "no worker serves that queue"
    serving = [f"{one.worker.name} {one.why}" for one in found if one.serves]
    return _told(serving)


def tokens(known: Sequence[TokenRecord], fleet: Sequence[WorkerView], now: float) -> Finding:
    """Judge the tokens by which workers come; `now` is the database's time."""
    good = [one for one in known if one.revoked_at is None]
    limited = [(one, one.expires_at) for one in good if one.expires_at is not None]
    expired = [
        f"{one.name} expired {_day(at)}, and {_told(users)} came by it"
        for one, at in limited
        if at <= now and (users := _users(one, fleet))
    ]
    if expired:
        return wrong("tokens", _told(expired), _RENEW)
    soon = [f"{one.name} expires {_day(at)}" for one, at in limited if now < at <= now + SOON_S]
    if soon:
        return warning("tokens", _told(soon), _RENEW)
    valid = len(good) - sum(at <= now for _, at in limited)
    return ok("tokens", f"{valid} valid, and none expires within {lasted(SOON_S)}")


def _users(one: TokenRecord, fleet: Sequence[WorkerView]) -> list[str]:
    return [
        worker.name
        for worker in fleet
        if worker.token is not None
        and (worker.token.name, worker.token.expires_at) == (one.name, one.expires_at)
    ]


def _told(several: Sequence[str]) -> str:
    more = f"; and {len(several) - NAMED} more" if len(several) > NAMED else ""
    return "; ".join(several[:NAMED]) + more


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()
