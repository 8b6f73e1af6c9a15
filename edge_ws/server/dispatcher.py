"""Turns queued rows into offers: reads candidates, chooses, claims, offers; again while there is more.

Woken by the store's watch and by capacity that comes free; looks by itself now and then as well.
"""

from __future__ import annotations

import logging
from typing import NoReturn

import anyio

from edge_ws.errors import UnreachableError
from edge_ws.protocol.frames import Offer, Wish
from edge_ws.protocol.ids import GatewayId
from edge_ws.server.choose import choose
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub
from edge_ws.server.work import Desk
from edge_ws.store.records import Candidate, Capacity, Claimed
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

WINDOW = 1000
"""Candidates read at a time."""
AWAY_PAUSE_S = 1.0
"""Between tries while the database is away."""
SHORTEST_LOOK_S = 0.02
LONGEST_LOOK_S = 0.5
"""Where nothing wakes the dispatcher it looks by itself: soon after it found something, then less often."""


class Dispatcher:
    """The loop that hands out jobs and wishes to this gateway's workers."""

    def __init__(self, store: Store, hub: Hub, settings: GatewaySettings, gateway: GatewayId) -> None:
        self._store = store
        self._hub = hub
        self._settings = settings
        self._gateway = gateway
        self._desk = Desk(threads=1)
        self._wake = anyio.Event()
        self._look_s = SHORTEST_LOOK_S
        self.cycles = 0

    def wake(self) -> None:
        """Say that there may be something to hand out (on the event loop's thread)."""
        self._wake.set()

    async def run(self, *, woken: bool) -> NoReturn:
        """Hand out for ever.

        Args:
            woken: the store's watch tells of every change; else this loop looks by itself.
        """
        while True:
            # Cleared before the look, never after it: what comes meanwhile is looked at again.
            self._wake = anyio.Event()
            try:
                found = await self.cycle()
            except UnreachableError as error:
                log.warning("Dispatch waits: %s", error)
                await anyio.sleep(AWAY_PAUSE_S)
                self._wake.set()
                found = False
            self._look_s = SHORTEST_LOOK_S if found else min(LONGEST_LOOK_S, self._look_s * 1.5)
            with anyio.move_on_after(self._pause_s(self._settings.backup_scan_s if woken else self._look_s)):
                await self._wake.wait()

    def _pause_s(self, longest_s: float) -> float:
        now = anyio.current_time()
        chance = self._hub.next_chance(now)
        return longest_s if chance is None else min(longest_s, chance - now)

    async def cycle(self) -> bool:
        """Hand out all that can be handed out now; return whether there was anything."""
        self.cycles += 1
        links = {link.name: link for link in self._hub.links()}
        if not links:
            return False
        sent = {name: link.wish_revision for name, link in links.items()}
        for name, wish in (await self._desk.run(self._store.new_wishes, sent)).items():
            links[name].wish_revision = wish.revision
            links[name].send(Wish(revision=wish.revision, concurrency=wish.concurrency, queues=wish.queues))
        found = False
        while await self._hand_out():
            found = True
        return found

    async def _hand_out(self) -> bool:
        """Claim and offer one window of jobs; return whether another look is worth it."""
        capacities = self._hub.capacities(anyio.current_time())
        if not capacities:
            return False
        jobs, claimed = await self._desk.run(self._claim, capacities)
        for one in claimed:
            self._offer(one)
        return bool(claimed) and len(jobs) > len(claimed)

    def _claim(self, capacities: list[Capacity]) -> tuple[list[Candidate], list[Claimed]]:
        jobs = self._store.candidates(_queues(capacities), WINDOW)
        chosen = choose(jobs, capacities) if jobs else []
        if not chosen:
            return jobs, []
        lease_s = self._settings.timers.offer_lease_s
        return jobs, self._store.claim(self._gateway, chosen, lease_s)

    def _offer(self, one: Claimed) -> None:
        link = self._hub.get(one.worker)
        if link is None:
            # Its connection closed meanwhile; the claim is freed by its lease.
            return
        link.slots[one.claim] = one.slots
        link.send(Offer(claim=one.claim, slots=one.slots, payload=one.payload))


def _queues(capacities: list[Capacity]) -> set[str] | None:
    """Return the queues that these workers serve, None if one serves every queue."""
    served: set[str] = set()
    for one in capacities:
        admitted = [queues for queues in (one.queues, one.principal.queues) if queues is not None]
        if not admitted:
            return None
        served |= frozenset.intersection(*admitted)
    return served
