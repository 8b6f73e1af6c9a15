"""What operators wish of a queue: to pause and to resume it, each told as a plain row."""

from __future__ import annotations

from edge_ws.server import views
from edge_ws.store.queues import QueueStore
from edge_ws.store.views import ViewStore

Row = dict[str, object]


def pause(queues: QueueStore, known: ViewStore, queue: str, *, note: str, by: str | None) -> Row:
    """Have nothing handed out of the queue; one that is paused already has note and by whom changed."""
    was_paused = queues.pause(queue, note, by)
    told = "was paused already; note and by whom are changed" if was_paused else "paused; what runs goes on"
    if not views.is_known_queue(known, queue):
        told = f"{told}; no job and no worker names it yet"
    return {"queue": queue, "paused": True, "told": told, "error": None}


def resume(
    queues: QueueStore,
    known: ViewStore,  # noqa: ARG001 - as of `pause`
    queue: str,
    *,
    note: str | None,  # noqa: ARG001
    by: str | None,  # noqa: ARG001
) -> Row:
    """Have the queue's jobs handed out again.

    Raises:
        UsageError: it is not paused.
    """
    queues.resume(queue)
    return {"queue": queue, "paused": False, "told": "resumed", "error": None}
