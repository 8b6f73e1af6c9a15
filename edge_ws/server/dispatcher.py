"""Turns queued rows into offers: reads candidates, chooses, claims, offers; again while there is more.

Woken by the store's watch and by capacity that comes free; looks by itself now and then as well.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NoReturn

import anyio

from edge_ws.errors import UnreachableError
from edge_ws.guard import FaultGuard, LeftAlone, apart
from edge_ws.protocol.frames import Offer, Stale
from edge_ws.protocol.ids import GatewayId, WorkerName
from edge_ws.server.backlog import Backlog
from edge_ws.server.choose import choose
from edge_ws.server.chronicle import Chronicle
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import REPEAT_S, Hub, wish_frame
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.dispatch import DispatchStore
from edge_ws.store.records import Assignment, Candidate, Capacity, Claimed, JobKey
from edge_ws.store.watch import Changes

log = logging.getLogger(__name__)

WINDOW = 1000
"""Candidates read at a time, at the most."""
BEYOND_FREE = 50
"""Candidates read beyond what is free, in case the first ones suit nobody."""
AWAY_PAUSE_S = 1.0
"""Between tries while the database is away."""
SHORTEST_LOOK_S = 0.02
LONGEST_LOOK_S = 0.5
"""Where nothing wakes the dispatcher it looks by itself: soon after it found something, then less often."""


class Dispatcher:
    """The loop that hands out jobs and wishes to this gateway's workers."""

    def __init__(
        self,
        store: DispatchStore,
        hub: Hub,
        settings: GatewaySettings,
        gateway: GatewayId,
        *,
        guard: FaultGuard | None = None,
        chronicle: Chronicle | None = None,
    ) -> None:
        self._chronicle = chronicle or Chronicle()
        self._wished_at: dict[WorkerName, float] = {}
        """When it was heard that something is wished of a worker."""
        self._guard = guard or FaultGuard(log)
        self._aside = LeftAlone()
        """Jobs that cannot be claimed, and workers whose wishes cannot be read."""
        self._store = store
        self._hub = hub
        self._settings = settings
        self._gateway = gateway
        self._threads = ThreadLimit(threads=1)
        self._wake = anyio.Event()
        self._backlog = Backlog()
        self._wished: set[WorkerName] = set()
        """Of whom something was wished since; the worker may be about to connect here."""
        self._all_wishes = True
        self._repeat_at = math.inf
        """When a wish that was told a moment ago may be told again."""
        self._lost_all = False
        """Others took all that was chosen in the last look."""
        self._wide = False
        """The next look reads as much as one may."""
        self._widest = 0
        """Slots of the widest worker at the last look: no wider job is read."""
        self._stopped = False
        self._read_at = 0.0
        """When the jobs were read that are in its hands."""
        self.cycles = 0

    # What is told, on the event loop's thread

    def wake(self) -> None:
        """Say that anything may have changed."""
        self._look_at_all()
        self._wake.set()

    def heard(self, changes: Changes) -> None:
        """Say what has changed."""
        if changes.everything:
            self._look_at_all()
        self._backlog.filled(self._hub.served(changes.queues) or ())
        self._wished |= changes.workers
        for name in changes.workers:
            self._wished_at.setdefault(name, self._chronicle.clock())
        if changes.everything or changes.queues or changes.workers:
            self._wake.set()

    def capacity_changed(self) -> None:
        """Say that a worker may have a free slot."""
        self._backlog.look_again()
        self._wake.set()

    def queues_served(self, queues: tuple[str, ...] | None) -> None:
        """Say that a worker serves these queues (None: every queue) from now on."""
        if queues is None:
            self._backlog.forget()
        else:
            self._backlog.filled(queues)
        self._wake.set()

    def stop(self) -> None:
        """Hand out no more jobs; wishes go on."""
        self._stopped = True

    def _look_at_all(self) -> None:
        self._backlog.forget(self._hub.served())
        self._all_wishes = True

    # The loop

    async def run(self, hears: Callable[[], bool]) -> NoReturn:
        """Hand out for ever.

        Args:
            hears: tells whether `heard` is told of every change just now; else this loop looks by itself.
        """
        scanned_at = -math.inf
        look_s = SHORTEST_LOOK_S
        while True:
            # Cleared before the look, never after it: what comes meanwhile is looked at again.
            self._wake = anyio.Event()
            scan_s = self._settings.backup_scan_s if hears() else look_s
            if anyio.current_time() >= scanned_at + scan_s:
                scanned_at = anyio.current_time()
                self._look_at_all()
            try:
                found = await self.cycle()
            except UnreachableError as error:
                log.warning("Cannot dispatch jobs, retrying: %s", error)
                await anyio.sleep(AWAY_PAUSE_S)
                scanned_at = -math.inf
                continue
            look_s = SHORTEST_LOOK_S if found else min(LONGEST_LOOK_S, look_s * 1.5)
            scan_s = self._settings.backup_scan_s if hears() else look_s
            await self._pause(scanned_at + scan_s, look_s)

    async def _pause(self, scan_at: float, look_s: float) -> None:
        """Wait to be woken, until the scan is due, or until somebody who could not take a job can again."""
        now = anyio.current_time()
        until = min(scan_at, self._hub.next_chance(now) or math.inf, self._repeat_at)
        if self._lost_all:
            # Another gateway has them in its hands, and may yet leave them.
            until = min(until, now + look_s)
        with anyio.move_on_after(until - now) as waited:
            await self._wake.wait()
        if waited.cancelled_caught:
            self._backlog.look_again()

    async def cycle(self) -> bool:
        """Hand out all that can be handed out now; return whether there was anything."""
        self.cycles += 1
        with self._guard.contained("telling workers what is wished of them") as wishes:
            await self._send_wishes()
        if wishes.told:
            self._all_wishes = True
        found = False
        while not self._stopped and await self._hand_out():
            found = True
        return found

    async def _send_wishes(self) -> None:
        if self._all_wishes:
            links = {link.name: link for link in self._hub.links()}
            self._wished.clear()
        else:
            links = {name: link for name in self._wished if (link := self._hub.get(name)) is not None}
        self._all_wishes, self._repeat_at = False, math.inf
        heard_at, self._wished_at = self._wished_at, {}
        if not links:
            return
        begun = anyio.current_time()
        sent = {name: link.wish.revision for name, link in links.items() if not self._aside.has(name, begun)}
        for name, new in (await self._threads.run(self._store.new_wishes, sent, self._unread)).items():
            link, now = links[name], anyio.current_time()
            self._chronicle.taken_back(name, new.taken_back)
            self._chronicle.figures.wished(name, new.wish.revision, heard_at.get(name, begun))
            for claim in new.taken_back:
                link.send(Stale(claim=claim))
                self._hub.release(link, claim)
            if new.wish.revision == link.wish.revision and now < link.wished_at + REPEAT_S:
                # Where each commit wakes us, the wish and its answer would chase each other.
                self._repeat_at = min(self._repeat_at, link.wished_at + REPEAT_S)
                self._wished.add(name)
                links.pop(name)
                continue
            link.wished_at = now
            # Whatever the answer is, it is written: a request may stand there for what is so already.
            link.noted = None
            self._hub.wished(link, new.wish)
            link.send(wish_frame(new.wish))
        self._wished -= links.keys()

    def _unread(self, name: WorkerName, error: Exception) -> None:
        self._guard.note(f"reading what is wished of worker {name}", error)
        self._aside.add(name, time.monotonic())

    def _unclaimed(self, one: Assignment, error: Exception) -> None:
        self._guard.note(f"handing the job {one.key} to worker {one.worker}", error)
        self._aside.add(one.key, time.monotonic())

    async def _hand_out(self) -> bool:
        """Claim and offer one window of jobs; return whether another look is worth it."""
        self._lost_all = False
        if self._hub.widest() > self._widest:
            # Jobs too wide for all others were not counted as waiting.
            self._backlog.forget(self._hub.served())
        self._widest = self._hub.widest()
        if not self._backlog.is_due:
            return False
        capacities = self._hub.capacities(anyio.current_time(), self._backlog.named())
        asked = self._backlog.take(_queues(capacities))
        if not capacities or asked == frozenset():
            return False
        # What waits beyond what is free is read only where the first ones suit nobody.
        free = sum(one.free for one in capacities)
        window = WINDOW if self._wide else min(WINDOW, free + BEYOND_FREE)
        jobs, others, chosen, claimed = await self._threads.run(self._claim, capacities, asked, window)
        self._offer(claimed, {job.key: job.waited_s for job in jobs} if claimed else {}, self._read_at)
        gone = {one.key for one in claimed}
        self._backlog.left(job.queue for job in jobs if job.key not in gone)
        self._backlog.left(others)
        if len(jobs) >= window:
            self._left_beyond(asked)
        self._lost_all = bool(chosen) and not claimed
        self._wide = not chosen and len(jobs) == window < WINDOW
        again = self._wide or (bool(claimed) and len(jobs) > len(claimed))
        if again:
            self._backlog.look_again()
        return again

    def _left_beyond(self, asked: frozenset[str] | None) -> None:
        """Note that the window did not hold all: any queue that was asked for may have more."""
        if asked is None:
            self._backlog.forget(self._hub.served())
        else:
            self._backlog.left(asked)

    def _claim(
        self, capacities: list[Capacity], queues: frozenset[str] | None, window: int
    ) -> tuple[list[Candidate], set[str], list[Assignment], list[Claimed]]:
        """Return what waits, in which queues others' jobs do, what was chosen and what claimed (blocking)."""
        teams = _teams(capacities)
        jobs = self._store.candidates(queues, window, teams=teams, widest=self._widest)
        others = self._store.queues_of_others(queues, teams) if teams is not None else set()
        self._read_at = now = time.monotonic()
        jobs = [job for job in jobs if not self._aside.has(job.key, now)]
        chosen = choose(jobs, capacities) if jobs else []
        if not chosen:
            return jobs, others, [], []
        lease_s = self._settings.timers.offer_lease_s
        claim = partial(self._store.claim, self._gateway, lease_s=lease_s)
        return jobs, others, chosen, apart(claim, chosen, self._unclaimed)

    def _offer(self, claimed: Iterable[Claimed], waited_s: Mapping[JobKey, float], read_at: float) -> None:
        now = time.monotonic()
        for one in claimed:
            link = self._hub.get(one.worker)
            # If its connection closed meanwhile, the claim is freed by its lease.
            if link is not None:
                waited = waited_s.get(one.key, 0.0) + now - read_at
                self._chronicle.figures.offered(one.claim, waited, now - link.free_since)
                link.hold([(one.claim, one.slots)])
                link.send(Offer(claim=one.claim, slots=one.slots, payload=one.payload))


def _queues(capacities: list[Capacity]) -> set[str] | None:
    """Return the queues that these workers serve, None if one serves every queue."""
    served: set[str] = set()
    for both in {(one.queues, one.principal.queues) for one in capacities}:
        admitted = [queues for queues in both if queues is not None]
        if not admitted:
            return None
        served |= frozenset.intersection(*admitted)
    return served


def _teams(capacities: list[Capacity]) -> set[str] | None:
    """Return the teams whose jobs these workers take, None if one takes everybody's."""
    teams = {one.principal.team for one in capacities}
    return None if None in teams else {team for team in teams if team is not None}
