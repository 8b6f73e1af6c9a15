"""What one gateway shows of the whole fleet, and which one that is. Reads the store, in a thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edge_ws.protocol.ids import GatewayId
from edge_ws.server.eligibility import takes_jobs
from edge_ws.server.metrics import FleetFacts, QueueFacts
from edge_ws.server.view_rows import served
from edge_ws.store.figures import GatewayFigures
from edge_ws.store.store import Store
from edge_ws.store.view_records import WorkerView
from edge_ws.store.worker_states import AWAY, WorkerState, state_of


def speaker(gateways: Sequence[GatewayFigures]) -> GatewayId | None:
    """Return the gateway that shows the fleet's values: of those alive with a listener the oldest.

    All gateways agree on it, by the database's clock; each of them is scraped.
    """
    return next((one.id for one in gateways if one.is_alive and one.has_metrics), None)


def fleet_facts(store: Store, own: GatewayId) -> FleetFacts | None:
    """Return the fleet's values, None if another gateway shows them (blocking).

    Args:
        store: the database.
        own: this gateway.

    Raises:
        UnreachableError: the database is away.
    """
    gateways = store.figures.gateways()
    if speaker(gateways) != own:
        return None
    workers, tokens = store.views.workers(), store.figures.tokens()
    queues = {
        one.queue: QueueFacts(
            queued=one.queued, running=one.running, oldest_wait_s=max(0.0, one.oldest_wait_s or 0.0)
        )
        for one in store.views.backlogs()
    }
    for worker in workers:
        for queue in served(worker) or ():
            queues.setdefault(queue, QueueFacts())
    for queue in store.views.pauses():
        queues[queue] = replace(queues.get(queue, QueueFacts()), is_paused=True)
    willing = [one for one in workers if takes_jobs(one)]
    return FleetFacts(
        gateways=Counter(
            {
                "alive": sum(one.is_alive for one in gateways),
                "silent": sum(not (one.is_alive or one.has_ended) for one in gateways),
            }
        ),
        workers=Counter(map(_state, workers)),
        queues=_with_workers(queues, willing),
        tokens_expiring=tokens.expiring,
        tokens_expired_in_use=tokens.expired_in_use,
    )


def _with_workers(queues: dict[str, QueueFacts], workers: Sequence[WorkerView]) -> dict[str, QueueFacts]:
    """Add to each queue the workers that take its jobs."""
    by_queue: dict[str | None, QueueFacts] = {}
    for worker in workers:
        one = QueueFacts(workers=1, slots=worker.concurrency or 0, free=worker.free)
        named = served(worker)
        for queue in [None] if named is None else named:
            by_queue[queue] = by_queue.get(queue, QueueFacts()).plus(one)
    of_all = by_queue.get(None, QueueFacts())
    return {name: facts.plus(by_queue.get(name, QueueFacts())).plus(of_all) for name, facts in queues.items()}


def _state(worker: WorkerView) -> str:
    """Return the state; of one that is silent `unknown`, before its row says so."""
    state = state_of(worker.state)
    if worker.seen_s is not None and worker.seen_s > worker.silent_after_s and state not in AWAY:
        return WorkerState.UNKNOWN.value
    return worker.state if state is not None else WorkerState.UNKNOWN.value
