"""Events as operators are shown them, and what operators do as events. Knows no SQL and no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from edge_ws.errors import UsageError
from edge_ws.store.events import KEPT, EventRecord, EventStore, NewEvent

Row = dict[str, object]
USUAL = 100
"""Events that are shown where nobody says how many."""
KINDS = {
    "connected": "a worker has connected, and by which transport",
    "disconnected": "a worker's connection has ended, and why",
    "refused": "somebody was not let in as that worker, or no further, and why",
    "silent": "a worker was cut off: no gateway has heard of it for some heartbeats",
    "offer_refused": "a worker has not taken a job, and why",
    "offer_expired": "a worker has not answered an offer in time",
    "taken_back": "an offered job was taken back, as a wish does not admit it any more",
    "cancelled": "a worker is told to stop a job, and why",
    "not_started": "a worker could not start a job, in its words",
    "lost": "a job's process died with its host, or is not there any more",
    "removed": "a job of which nobody reports was given up, and why",
    "wished": "an operator has asked for slots or queues",
    "applied": "a worker has applied what was wished",
    "maintenance": "an operator has put a worker into maintenance, or changed its comment",
    "maintenance_ended": "an operator has ended it",
    "shutdown": "an operator has asked a worker to leave",
    "forgotten": "an operator has removed a worker that was away",
    "queue_paused": "an operator has paused a queue",
    "queue_resumed": "an operator has resumed it",
    "token_created": "an operator has made a token",
    "token_rotated": "an operator has given a token another secret",
    "token_narrowed": "an operator lets a token admit less",
    "token_revoked": "an operator has revoked a token",
    "gateway_started": "a gateway serves",
    "gateway_ended": "a gateway has ended in good order",
    "left_out": "so many events about a worker, or of strangers, were left out",
}
"""Kind -> what it means."""
_OF_OPERATIONS = {
    "set-worker-concurrency": "wished",
    "add-worker-queues": "wished",
    "remove-worker-queues": "wished",
    "remote-edge-worker-request-maintenance": "maintenance",
    "remote-edge-worker-update-maintenance-comment": "maintenance",
    "remote-edge-worker-exit-maintenance": "maintenance_ended",
    "shutdown-remote-edge-worker": "shutdown",
    "shutdown-all-workers": "shutdown",
    "remove-remote-edge-worker": "forgotten",
    "pause-queue": "queue_paused",
    "resume-queue": "queue_resumed",
    "token-create": "token_created",
    "token-rotate": "token_rotated",
    "token-narrow": "token_narrowed",
    "token-revoke": "token_revoked",
}
_APART = 20
"""Workers of one change that have an event each; of more there is one for all."""


def list_events(
    store: EventStore,
    *,
    since: int | None = None,
    limit: int = USUAL,
    worker: str | None = None,
    kind: str | None = None,
    within_s: int | None = None,
) -> list[Row]:
    """Return events as rows, the oldest first: those after the id `since`; without it the last ones.

    Raises:
        UsageError: a number is out of range, or there is no such kind.
    """
    if not 1 <= limit <= KEPT:
        raise UsageError(f"the limit {limit} is not between 1 and {KEPT}")
    if since is not None and since < 0:
        raise UsageError(f"since: {since} is less than 0")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind: there is no {kind[:60]!r}; there are {', '.join(KINDS)}")
    return [event_row(one) for one in store.since(since, limit, worker=worker, kind=kind, within_s=within_s)]


def event_row(one: EventRecord) -> Row:
    """Return an event as it is shown."""
    return {
        "id": one.id,
        "at": datetime.fromtimestamp(one.at, UTC).isoformat(timespec="milliseconds"),
        "kind": one.kind,
        "worker": one.worker,
        "queue": one.queue,
        "who": one.who,
        "words": one.words,
        "gateway": one.gateway,
        "claim": one.claim,
        "job": None if one.job is None else dict(one.job),
    }


def doings(operation: str, given: Mapping[str, object], result: object, who: str | None) -> list[NewEvent]:
    """Return what an operator's change has done, as events.

    Args:
        operation: its name; one that changes nothing, or of which nobody is told, gives none.
        given: its parameters.
        result: its result, which may hold a secret: of it only names and `told` are taken.
        who: asked for it; None: whoever runs a command.
    """
    kind = _OF_OPERATIONS.get(operation)
    rows = [one for one in (result if isinstance(result, list) else [result]) if isinstance(one, dict)]
    done = [one for one in rows if not one.get("error")]
    if kind is None or not done:
        return []
    if len(done) > _APART:
        names = [str(one.get("worker_name") or one.get("queue")) for one in done]
        told = f"{len(names)} at once: {_told(done[0], given)} ({', '.join(names[:3])}, ...)"
        return [NewEvent(kind=kind, who=who, words=told)]
    return [
        NewEvent(
            kind=kind,
            worker=_text(one.get("worker_name")) if not operation.startswith("token-") else None,
            queue=_text(one.get("queue")),
            who=who,
            words=_told(one, given),
        )
        for one in done
    ]


def _told(row: Mapping[str, object], given: Mapping[str, object]) -> str:
    token = given.get("token") or row.get("name")
    parts = [f"token {token}"] if token and "worker_name" not in row else []
    parts += [str(row["told"])] if row.get("told") else []
    parts += [str(given[one]) for one in ("comment", "note") if given.get(one)]
    return ": ".join(parts)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
