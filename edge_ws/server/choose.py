"""Which job goes to which worker: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.records import Assignment, Candidate, Capacity

RESERVE_AFTER_S = 60.0
"""A job too wide for any free worker reserves one after waiting so long, else narrow ones starve it."""


def choose(jobs: Iterable[Candidate], capacities: Sequence[Capacity]) -> list[Assignment]:
    """Seat the jobs, in their order, each on the least loaded worker that serves it.

    Args:
        jobs: queued jobs; callbacks are taken first, else the order given is kept (the store's: by
            priority, then age).
        capacities: the workers, each with at least one free slot.

    Returns:
        Assignments that respect queues, teams, credentials and every worker's free slots.
    """
    free: dict[WorkerName, int] = {one.principal.worker: one.free for one in capacities}
    chosen: list[Assignment] = []
    for job in sorted(jobs, key=lambda job: not job.is_callback):
        serving = [one for one in capacities if one.serves(job) and free[one.principal.worker] > 0]
        fitting = [one for one in serving if free[one.principal.worker] >= job.slots]
        if fitting:
            best = max(fitting, key=lambda one: (free[one.principal.worker], one.principal.worker))
            free[best.principal.worker] -= job.slots
            chosen.append(_assign(job, best))
        elif job.waited_s >= RESERVE_AFTER_S:
            wide = [one for one in serving if one.concurrency >= job.slots]
            if wide:
                # Nothing narrower goes there until the wide job fits.
                free[max(wide, key=lambda one: free[one.principal.worker]).principal.worker] = 0
    return chosen


def _assign(job: Candidate, to: Capacity) -> Assignment:
    return Assignment(
        key=job.key,
        slots=job.slots,
        worker=to.principal.worker,
        site=to.site,
        concurrency=to.concurrency,
        stale_slots=to.stale_slots,
        place=job.place,
    )
