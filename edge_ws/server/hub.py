"""The live connections of this gateway, and what each worker can take. A cache: the database is the truth.

Knows no transport (a connection is a `Link` with a queue of frames) and no store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection

from edge_ws.protocol.frames import Inventory, ServerFrame
from edge_ws.protocol.ids import ClaimId, HostId, WorkerName
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.store.records import Capacity, Principal

log = logging.getLogger(__name__)

QUEUE_FRAMES = 2000
"""Frames that may wait for a slow worker; one more closes its connection."""
REFUSED_PAUSE_S = 1.0
"""A worker that refused an offer gets none for so long: what made it refuse needs a moment to pass."""


class Link:
    """One worker's connection: its outgoing frames and what it last said of itself."""

    def __init__(self, principal: Principal, session: ServerSession, transport: str) -> None:
        self.principal = principal
        self.session = session
        self.transport = transport
        self.connection_id = ""
        self.inventory: Inventory | None = None
        self.queues: tuple[str, ...] | None = None
        self.concurrency = 0
        self.wish_revision = 0
        """Of the wish last sent."""
        self.slots: dict[ClaimId, int] = {}
        """Open claims of the worker, as this gateway knows them."""
        self.cancelled: set[ClaimId] = set()
        self.dead_hosts: set[HostId] = set()
        """Hosts of the worker whose death is recorded."""
        self.not_before = 0.0
        self.left = False
        self.closing: Close | None = None
        self.outgoing: deque[ServerFrame] = deque()
        self._ready = asyncio.Event()

    @property
    def name(self) -> WorkerName:
        """The worker's name."""
        return self.principal.worker

    def send(self, frame: ServerFrame) -> None:
        """Queue a frame; the transport writes it. A worker too slow for its queue is cut off."""
        if self.closing is not None:
            return
        if len(self.outgoing) >= QUEUE_FRAMES:
            self.close(Close(CloseCode.TOO_SLOW, f"{QUEUE_FRAMES} frames wait to be taken"))
            return
        self.outgoing.append(frame)
        self._ready.set()

    def close(self, close: Close) -> None:
        """Ask the transport to write what is queued and close."""
        if self.closing is None:
            self.closing = close
            self._ready.set()

    async def wait_outgoing(self) -> None:
        """Return when there is a frame to write or the connection is to close."""
        while not self.outgoing and self.closing is None:
            self._ready.clear()
            await self._ready.wait()

    def free(self) -> int:
        """Return the slots that this gateway may still fill."""
        stale = self.inventory.stale_slots if self.inventory else 0
        return self.concurrency - stale - sum(self.slots.values())


class Hub:
    """The links by worker name."""

    def __init__(self, on_capacity: Callable[[], None]) -> None:
        self._links: dict[WorkerName, Link] = {}
        self._on_capacity = on_capacity

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link) -> None:
        """Take over a worker; an older connection of its is closed."""
        older = self._links.get(link.name)
        if older is not None:
            older.close(Close(CloseCode.REPLACED, "a newer connection of this worker took over"))
        self._links[link.name] = link
        self._on_capacity()

    def remove(self, link: Link) -> None:
        """Forget the link unless a newer one has taken its place."""
        if self._links.get(link.name) is link:
            del self._links[link.name]

    def holding(self) -> list[WorkerName]:
        """Return the workers here that hold a claim."""
        return [name for name, link in self._links.items() if link.slots]

    def links(self) -> list[Link]:
        """Return all links."""
        return list(self._links.values())

    def get(self, name: WorkerName) -> Link | None:
        """Return the worker's link, None if it is not connected here."""
        return self._links.get(name)

    def capacity_changed(self) -> None:
        """Say that somebody may have a free slot."""
        self._on_capacity()

    def release(self, link: Link, claim: ClaimId) -> None:
        """Note that the claim holds its slots no more."""
        link.cancelled.discard(claim)
        if link.slots.pop(claim, None) is not None:
            self._on_capacity()

    def pause(self, link: Link, pause_s: float) -> None:
        """Offer the worker nothing for a while."""
        link.not_before = time.monotonic() + pause_s

    def next_chance(self, now: float) -> float | None:
        """Return when the next pause after a refusal ends, None if there is none."""
        pauses = [link.not_before for link in self._links.values() if link.not_before > now]
        return min(pauses, default=None)

    def capacities(self, now: float, queues: Collection[str] | None = None) -> list[Capacity]:
        """Return what each worker that may be offered jobs now can take.

        Args:
            now: as the event loop counts.
            queues: leave out workers that serve none of these.
        """
        found = []
        for link in self._links.values():
            if queues is not None and link.queues is not None and not any(q in queues for q in link.queues):
                continue
            inventory = link.inventory
            free = link.free()
            heard = link.session.is_prompt(now)
            if inventory is None or inventory.draining or link.closing is not None or free <= 0:
                continue
            if not heard or now < link.not_before:
                continue
            found.append(
                Capacity(
                    principal=link.principal,
                    site=inventory.site,
                    queues=frozenset(link.queues) if link.queues is not None else None,
                    concurrency=link.concurrency,
                    stale_slots=inventory.stale_slots,
                    free=free,
                )
            )
        return found
