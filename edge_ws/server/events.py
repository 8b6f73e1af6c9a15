"""What happens to the fleet, noted by a gateway: collected in memory, written together, never a flood.

Nothing waits for it, and nothing fails by it: while the database is away the newest are kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import anyio

from edge_ws.errors import ConflictError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.server.quota import Quota
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.events import KEPT, EventStore, NewEvent

log = logging.getLogger(__name__)

TOGETHER_S = 1.0
"""Events are written no more often than that."""
AWAY_PAUSE_S = 5.0
"""Between tries while the database is away."""
OF_ONE = 20
"""Events about one worker, or from one stranger's address, in `WHILE_S`; the rest is counted."""
OF_ALL = 2 * KEPT
WHILE_S = 60.0
KNOWN = 10_000
"""Workers that are counted apart."""
STRANGER = "\0"
"""Begins the name under which a stranger is counted: no worker's name does."""


class Events:
    """The events that this gateway notes; any thread may note one."""

    def __init__(
        self,
        store: EventStore,
        gateway: str,
        on_left_out: Callable[[], None] = lambda: None,
        guard: FaultGuard | None = None,
    ) -> None:
        """Make it.

        Args:
            store: where they are written.
            gateway: how this gateway is called there.
            on_left_out: called for each that is left out.
            guard: contains what the writing raises; what was to be written then is lost.
        """
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._gateway = gateway
        self._on_left_out = on_left_out
        self._threads = ThreadLimit(threads=1)
        self._quota = Quota(OF_ONE, WHILE_S, known=KNOWN, of_all=OF_ALL)
        self._flushed_at = time.monotonic()
        self._waiting: deque[tuple[NewEvent, float]] = deque(maxlen=KEPT)
        """With the time at which they were noted."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def note(
        self,
        kind: str,
        *,
        worker: str | None = None,
        queue: str | None = None,
        who: str | None = None,
        words: str = "",
        claim: str | None = None,
        stranger: str | None = None,
    ) -> None:
        """Note that something has happened, unless too much has of that worker.

        Args:
            kind: what has happened; see METRICS.md.
            worker: to whom.
            queue: to which queue.
            who: who asked for it.
            words: the rest, as a clause; may hold what a worker has sent.
            claim: about which claim it is.
            stranger: the address of somebody who is not known to be that worker.
        """
        new = NewEvent(kind=kind, worker=worker, queue=queue, who=who, words=words, claim=claim)
        counted = worker if stranger is None else STRANGER + stranger
        with self._lock:
            now = time.monotonic()
            if counted is not None:
                left_out = self._quota.admit(counted, now)
                if left_out is None:
                    self._on_left_out()
                    return
                if left_out:
                    self._put(_left_out(counted, left_out), now)
            self._put(new, now)
        self._wake_up()

    def add(self, events: list[NewEvent]) -> None:
        """Note what operators have asked for; nothing of it is left out."""
        with self._lock:
            now = time.monotonic()
            for one in events:
                self._put(one, now)
        self._wake_up()

    def _put(self, new: NewEvent, now: float) -> None:
        if len(self._waiting) == KEPT:
            self._on_left_out()
        self._waiting.append((new, now))

    def _wake_up(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not wake.is_set():
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                # The gateway has ended; `flush` has the last word.
                return

    async def write_for_ever(self) -> NoReturn:
        """Write what is noted, within a second or so."""
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        while True:
            if not self._waiting:
                with anyio.move_on_after(WHILE_S):
                    await self._wake.wait()
            self._wake.clear()
            self._tell_left_out(time.monotonic())
            try:
                with self._guard.contained("the writing of events"):
                    await self._threads.run(self.flush)
            except (UnreachableError, ConflictError) as error:
                log.debug("Events are not written, retrying: %s", error)
                await anyio.sleep(AWAY_PAUSE_S)
            await anyio.sleep(TOGETHER_S)

    def _tell_left_out(self, now: float) -> None:
        with self._lock:
            if now < self._flushed_at + WHILE_S:
                return
            self._flushed_at = now
            for counted, left_out in self._quota.over(now).items():
                self._put(_left_out(counted, left_out), now)

    def flush(self) -> None:
        """Write what waits (blocking); what cannot be written waits on.

        Raises:
            UnreachableError: the database is away.
        """
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        now = time.monotonic()
        try:
            self._store.add([replace(one, age_s=now - at) for one, at in waiting], self._gateway)
        except UnreachableError:
            with self._lock:
                # The newest count.
                self._waiting.extendleft(
                    reversed(waiting[max(0, len(waiting) + len(self._waiting) - KEPT) :])
                )
            raise


def _left_out(counted: str, left_out: int) -> NewEvent:
    worker = None if counted.startswith(STRANGER) else counted
    about = f"worker {counted}" if worker else f"refused connections from {counted.removeprefix(STRANGER)}"
    return NewEvent(kind="left_out", worker=worker, words=f"{left_out} more events about {about}")
