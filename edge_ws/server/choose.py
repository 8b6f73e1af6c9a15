"""Which job goes to which worker: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace

from edge_ws.protocol.ids import WorkerName
from edge_ws.store.records import Assignment, Candidate, Capacity

RESERVE_AFTER_S = 60.0
"""A job too wide for any free worker reserves one after waiting so long, else narrow ones starve it."""


def choose(jobs: Iterable[Candidate], capacities: Sequence[Capacity]) -> list[Assignment]:
    """Assign the jobs, in their order, each on the least loaded worker that serves it.

    Args:
        jobs: queued jobs; callbacks are taken first, else the order given is kept (the store's: by
            priority, then age).
        capacities: the workers, each with at least one free slot.

    Returns:
        Assignments that respect queues, teams, credentials and every worker's free slots.
    """
    seats = _Seats(capacities)
    chosen: list[Assignment] = []
    for job in sorted(jobs, key=lambda job: not job.is_callback):
        if not seats.left:
            break
        best = seats.freest(job)
        if best is None:
            continue
        if seats.free[best.principal.worker] >= job.slots:
            seats.take(best, job.slots)
            chosen.append(_assign(job, best))
        elif job.waited_s >= RESERVE_AFTER_S:
            seats.reserve(job)
    return chosen


class _Seats:
    """The free slots while jobs are seated."""

    def __init__(self, capacities: Sequence[Capacity]) -> None:
        self._capacities = capacities
        self.free: dict[WorkerName, int] = {one.principal.worker: one.free for one in capacities}
        self.left = sum(self.free.values())
        self._heaps: dict[tuple[str, str | None, frozenset[str]], list[tuple[int, WorkerName, Capacity]]] = {}
        """For each queue and team (and workers that could not start the job) the others, the freest
        first. Jobs of others take slots too, so an entry
        may be out of date: it is put right when it comes first."""

    def freest(self, job: Candidate) -> Capacity | None:
        """Return the worker with the most free slots of those that serve the job, None if there is none."""
        kind = job.queue, job.team, job.failed_on
        heap = self._heaps.get(kind)
        if heap is None:
            heap = [
                (-self.free[one.principal.worker], one.principal.worker, one)
                for one in self._capacities
                if one.serves(job)
            ]
            heapify(heap)
            self._heaps[kind] = heap
        while heap:
            negative, name, one = heap[0]
            if -negative == self.free[name]:
                return one if negative else None
            heapreplace(heap, (-self.free[name], name, one))
        return None

    def take(self, one: Capacity, slots: int) -> None:
        """Take slots of a worker."""
        self.free[one.principal.worker] -= slots
        self.left -= slots

    def reserve(self, job: Candidate) -> None:
        """Keep narrower jobs from the worker that will soonest have room for this one."""
        wide = [one for one in self._capacities if one.serves(job) and one.concurrency >= job.slots]
        if wide:
            best = max(wide, key=lambda one: self.free[one.principal.worker])
            self.take(best, self.free[best.principal.worker])


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
