"""The live connections of this gateway, and what each worker can take. A cache: the database is the truth.

Knows no transport (a connection is a `Link` with a queue of frames) and no store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from edge_ws.protocol.frames import Applied, Bye, Inventory, ServerFrame, Wish
from edge_ws.protocol.ids import MAX_CONCURRENCY, ClaimId, HostId, WorkerName
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.store.records import Capacity, Principal, Room, WishRecord

log = logging.getLogger(__name__)

QUEUE_FRAMES = 2000
"""Frames that may wait for a slow worker; one more closes its connection."""
REPEAT_S = 1.0
"""Between two times that a worker is told the same wish: its answer may be on its way."""
REFUSED_PAUSE_S = 1.0
"""A worker that refused an offer gets none for so long: what made it refuse needs a moment to pass."""


def wish_frame(wish: WishRecord) -> Wish:
    """Return the wish as it travels."""
    return Wish(
        revision=wish.revision,
        concurrency=wish.concurrency,
        queues=wish.queues,
        maintenance=wish.maintenance,
        comment=wish.comment,
        shutdown=wish.shutdown,
        asked=wish.asked,
        deadline_s=None if wish.leave_at is None else max(0.0, wish.leave_at - time.monotonic()),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What a worker says of itself, as far as the database has it."""

    applied: Applied
    is_busy: bool
    """Whether it holds jobs, where that shows."""
    room: Room | None
    """None: not known."""
    disk_gb: float | None = None
    """What is free there, about."""
    sysinfo: Mapping[str, str | int | float] | None = field(default=None, compare=False)
    """What else it says of its machine: written along, but no news by itself."""


class Link:
    """One worker's connection: its outgoing frames and what it last said of itself."""

    def __init__(self, principal: Principal, session: ServerSession, transport: str) -> None:
        self._principal = principal
        self.session = session
        self.transport = transport
        self.connection_id = ""
        self.address: str | None = None
        """Where the worker came from."""
        self.wish = WishRecord(revision=0, concurrency=None, queues=None)
        """The one last sent."""
        self.wished_at = 0.0
        self.judged_at = time.monotonic()
        """When its credential was judged, as it came."""
        self.renewed_at = 0.0
        """When its credential was last judged anew, or will be."""
        self.local: tuple[int, tuple[str, ...] | None] = (MAX_CONCURRENCY, None)
        """Concurrency and queues (None: every queue) of the worker's own settings."""
        self.said: tuple[int, tuple[str, ...] | None] = (0, None)
        """What the worker says is in force."""
        self.has_control = True
        """It carries out wishes for maintenance and shutdown by itself."""
        self.asked = 0
        """Number of its host's last request that was taken in."""
        self.room: Room | None = None
        """As the worker last said."""
        self.disk_gb: float | None = None
        """Free on the worker's disk; small changes are left out."""
        self.noted: Standing | None = None
        """As the database knows it."""
        self.cancelled: frozenset[ClaimId] = frozenset()
        self.doubted: frozenset[ClaimId] = frozenset()
        """Claims whose tasks are over for long, and that the worker was asked for."""
        self.dead_hosts: tuple[HostId, ...] = ()
        """The last hosts of the worker whose death is recorded."""
        self.not_before = 0.0
        self.left: Bye | None = None
        self.closing: Close | None = None
        # A list and a future: an idle link's deque and Event would take 2 KiB.
        self.outgoing: list[ServerFrame] = []
        self._waiter: asyncio.Future[None] | None = None
        self._inventory: Inventory | None = None
        self._queues: tuple[str, ...] | None = None
        self._concurrency = 0
        self._slots: dict[ClaimId, int] = {}
        self._taken = 0
        self._capacity: Capacity | None = None
        """What `capacity` last gave, while it holds."""

    @property
    def principal(self) -> Principal:
        """On whose behalf the worker speaks."""
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal, self._capacity = principal, None

    def renew(self, principal: Principal, secret: str) -> None:  # noqa: ARG002 - a poll shows it again
        """Go on by another secret, which is that principal's."""
        self.principal = principal

    @property
    def name(self) -> WorkerName:
        """The worker's name."""
        return self._principal.worker

    def is_prompt(self, now: float) -> bool:
        """Tell whether the worker may be offered jobs: it has not missed a heartbeat."""
        return self.session.is_prompt(now)

    def is_heard(self, now: float) -> bool:
        """Tell whether the worker has been heard of lately."""
        return self.session.is_prompt(now)

    # Frames to the worker

    def send(self, frame: ServerFrame) -> None:
        """Queue a frame; the transport writes it. A worker too slow for its queue is cut off."""
        if self.closing is not None:
            return
        if len(self.outgoing) >= QUEUE_FRAMES:
            self.close(Close(CloseCode.TOO_SLOW, f"{QUEUE_FRAMES} frames wait to be taken"))
            return
        self.outgoing.append(frame)
        self._wake()

    def settled(self) -> None:
        """Note that a statement has been processed and its answer queued."""

    def close(self, close: Close) -> None:
        """Ask the transport to write what is queued and close."""
        if self.closing is None:
            self.closing = close
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait_outgoing(self) -> None:
        """Return when there is a frame to write or the connection is to close; for one task only."""
        while not self.outgoing and self.closing is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    # What the worker has said, and what it holds

    @property
    def inventory(self) -> Inventory | None:
        """What the worker last said of itself; None before its hello."""
        return self._inventory

    @inventory.setter
    def inventory(self, inventory: Inventory) -> None:
        self._inventory, self._capacity = inventory, None

    @property
    def concurrency(self) -> int:
        """Slots that may be filled, taken or not."""
        return self._concurrency

    @property
    def queues(self) -> tuple[str, ...] | None:
        """Queues of which jobs may be offered; None: every queue."""
        return self._queues

    def apply(self, concurrency: int, queues: tuple[str, ...] | None) -> None:
        """Note what the worker has in force; for a link of the hub by `Hub.applied` alone."""
        self.said = concurrency, queues
        self.narrow()

    def admitted(self) -> tuple[int, tuple[str, ...] | None]:
        """Return the slots and queues that both the worker's word and what is wished admit.

        Neither is trusted alone: the word may be a lie, and the wish may not be in force yet.
        """
        (said_slots, said), (most, among) = self.said, self.local
        most = most if self.wish.concurrency is None else self.wish.concurrency
        among = among if self.wish.queues is None else self.wish.queues
        if said is None or among is None:
            queues = among if said is None else said
        else:
            queues = tuple(queue for queue in said if queue in among)
        return min(said_slots, most, MAX_CONCURRENCY), queues

    def narrow(self) -> None:
        """Offer what is admitted from now on; for a link of the hub by the hub alone."""
        (self._concurrency, self._queues), self._capacity = self.admitted(), None

    @property
    def slots(self) -> Mapping[ClaimId, int]:
        """Open claims of the worker, as this gateway knows them, with the slots that each holds."""
        return self._slots

    def hold(self, claims: Iterable[tuple[ClaimId, int]]) -> None:
        """Note open claims with their slots."""
        for claim, slots in claims:
            self._taken += slots - self._slots.get(claim, 0)
            self._slots[claim] = slots
        self._capacity = None

    def drop(self, claim: ClaimId) -> bool:
        """Note that the claim is over; return whether it held slots."""
        self.cancelled -= {claim}
        self.doubted -= {claim}
        slots = self._slots.pop(claim, None)
        if slots is None:
            return False
        self._taken, self._capacity = self._taken - slots, None
        return True

    def free(self) -> int:
        """Return the slots that this gateway may still fill."""
        stale = self._inventory.stale_slots if self._inventory else 0
        return self._concurrency - stale - self._taken

    def capacity(self, now: float) -> Capacity | None:
        """Return what the worker can take now, None if it may be offered nothing."""
        inventory = self._inventory
        if inventory is None or inventory.draining or self.closing is not None or self.free() <= 0:
            return None
        if self.wish.takes_nothing:
            return None
        if now < self.not_before or not self.is_prompt(now):
            return None
        if self._capacity is None:
            self._capacity = Capacity(
                principal=self.principal,
                site=inventory.site,
                queues=frozenset(self._queues) if self._queues is not None else None,
                concurrency=self._concurrency,
                stale_slots=inventory.stale_slots,
                free=self.free(),
            )
        return self._capacity


class Hub:
    """The links by worker name, and by the queues they serve."""

    def __init__(
        self,
        on_capacity: Callable[[], None],
        on_queues: Callable[[tuple[str, ...] | None], None],
    ) -> None:
        """Make it.

        Args:
            on_capacity: called when somebody may have a free slot.
            on_queues: called with the queues that a worker serves from now on; None: every queue.
        """
        self._links: dict[WorkerName, Link] = {}
        self._by_queue: dict[str | None, dict[WorkerName, Link]] = {}
        """Under None those that serve every queue."""
        self._paused: set[Link] = set()
        self._widest: int | None = None
        self._on_capacity = on_capacity
        self._on_queues = on_queues

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link) -> None:
        """Take over a worker; an older connection of its is closed."""
        older = self._links.get(link.name)
        if older is not None:
            older.close(Close(CloseCode.REPLACED, "a newer connection of this worker took over"))
            self.remove(older)
        self._links[link.name] = link
        self._enter(link)

    def remove(self, link: Link) -> None:
        """Forget the link unless a newer one has taken its place."""
        if self._links.get(link.name) is link:
            del self._links[link.name]
            self._leave(link)
            self._paused.discard(link)

    def _enter(self, link: Link) -> None:
        self._widest = None
        for queue in (None,) if link.queues is None else link.queues:
            self._by_queue.setdefault(queue, {})[link.name] = link
        self._on_queues(link.queues)
        self._on_capacity()

    def _leave(self, link: Link) -> None:
        self._widest = None
        for queue in (None,) if link.queues is None else set(link.queues):
            serving = self._by_queue[queue]
            del serving[link.name]
            if not serving:
                del self._by_queue[queue]

    def served(self, queues: Collection[str] | None = None) -> Collection[str] | None:
        """Return which of the queues anybody here serves.

        Args:
            queues: of these; None: of all that there are, which gives None if somebody serves every queue.
        """
        if queues is None:
            return None if None in self._by_queue else [one for one in self._by_queue if one is not None]
        return queues if None in self._by_queue else [one for one in queues if one in self._by_queue]

    def widest(self) -> int:
        """Return the most slots that any worker here has in all; a wider job suits nobody."""
        if self._widest is None:
            self._widest = max((link.concurrency for link in self._links.values()), default=0)
        return self._widest

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

    def applied(self, link: Link, concurrency: int, queues: tuple[str, ...] | None) -> None:
        """Note what the worker has in force now."""
        link.said = concurrency, queues
        self._narrow(link)

    def wished(self, link: Link, wish: WishRecord) -> None:
        """Note what the worker is sent: it is offered what that and what it has in force admit."""
        link.wish = wish
        self._narrow(link)
        self._on_capacity()

    def _narrow(self, link: Link) -> None:
        if link.admitted() == (link.concurrency, link.queues):
            return
        is_here = self._links.get(link.name) is link
        if is_here:
            self._leave(link)
        link.narrow()
        if is_here:
            self._enter(link)

    def release(self, link: Link, claim: ClaimId) -> None:
        """Note that the claim holds its slots no more."""
        if link.drop(claim):
            self._on_capacity()

    def pause(self, link: Link, pause_s: float) -> None:
        """Offer the worker nothing for a while."""
        link.not_before = time.monotonic() + pause_s
        self._paused.add(link)

    def next_chance(self, now: float) -> float | None:
        """Return when the next pause after a refusal ends, None if there is none."""
        self._paused = {link for link in self._paused if link.not_before > now}
        return min((link.not_before for link in self._paused), default=None)

    def capacities(self, now: float, queues: Collection[str] | None = None) -> list[Capacity]:
        """Return what each worker that may be offered jobs now can take.

        Args:
            now: as the event loop counts.
            queues: leave out workers that serve none of these.
        """
        if queues is None:
            links: Iterable[Link] = self._links.values()
        else:
            serving: dict[WorkerName, Link] = {}
            for queue in (*queues, None):
                serving.update(self._by_queue.get(queue, {}))
            links = serving.values()
        found = (link.capacity(now) for link in links)
        return [one for one in found if one is not None]
