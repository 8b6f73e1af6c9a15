"""The fleet for those who watch it: one picture for all of them, taken anew when something has changed.

While nobody watches by this gateway, none is taken or kept. Gateways tell one another when they have written
something, but only while somebody watches: whoever does says so ever again. Where the database carries no
such word, a statement a second asks it for traces of change. What neither tells of is seen by the next
regular picture.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import anyio

from edge_ws.errors import UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.ids import GatewayId
from edge_ws.server.fleet_picture import Picture
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.picture import FleetRecord, PictureStore
from edge_ws.store.watch import Changes

log = logging.getLogger(__name__)

PACE_S = 0.5
"""Between the begins of two pictures at the least; a change is seen within a second all the same."""
SHARE = 0.2
"""Of a processor, that taking pictures may take."""
REGULAR_S = 15.0
"""Between two pictures at the most: as often as workers are heard of."""
WHOLE_S = 60.0
"""Between two that are taken as a whole, at the most: else only when workers were heard of is looked at."""
TRACES_S = 1.0
"""Between two looks for traces of change, where nothing tells of changes."""
KEPT_S = 30.0
"""After somebody asked for one picture, as without a stream, the next ones are taken for so long."""
SAY_EVERY_S = 10.0
"""Between two times of saying that somebody watches here."""
SAID_FOR_S = 25.0
"""Whoever said so is told of news for so long."""
TELL_PACE_S = 0.2
"""Between two times of telling others of news."""
AWAY_PAUSE_S = 2.0
"""Between tries while the database is away."""
FIRST_WITHIN_S = 10.0
"""A first picture is waited for so long."""


class Fleet:
    """The picture that there is, and who wants the next one; for the event loop, unless it says otherwise."""

    def __init__(
        self,
        store: PictureStore,
        gateway: GatewayId,
        *,
        versions: dict[str, str] | None = None,
        hears: Callable[[], bool],
        guard: FaultGuard | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the database.
            gateway: this one.
            versions: what runs here, to compare workers with.
            hears: tells whether `heard` is called for every change just now.
            guard: contains what a picture raises.
        """
        self._store = store
        self._gateway = gateway
        self._versions = versions or {}
        self._hears = hears
        self._guard = guard or FaultGuard(log)
        self._threads = ThreadLimit(threads=1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._picture: Picture | None = None
        self._number = 0
        self._fault = ""
        """Why the last try to take a picture failed; empty: it did not."""
        self._stirred = anyio.Event()
        """Set when there is a new picture, or none could be taken."""
        self._wake = anyio.Event()
        self._wrote = anyio.Event()
        self._is_dirty = False
        self._began_at = -math.inf
        self._whole_at = -math.inf
        self._took_s = 0.0
        self._traced_at = -math.inf
        self._traces: tuple[object, ...] = ()
        self._said_at = -math.inf
        self._watchers = {False: 0, True: 0}
        """Open streams: of those that want no jobs, and of those that do."""
        self._wanted_until = {False: -math.inf, True: -math.inf}
        """The same of those who ask for one picture after the other."""
        self._told_until = -math.inf
        """For so long others are told of news."""

    # Who watches

    @contextmanager
    def watching(self, *, jobs: bool) -> Iterator[None]:
        """Have pictures taken while the block runs.

        Args:
            jobs: with what `Picture` shows of jobs.
        """
        self._watchers[jobs] += 1
        self._wake.set()
        try:
            yield
        finally:
            self._watchers[jobs] -= 1

    async def picture(self, *, jobs: bool) -> Picture:
        """Return the picture as it is now, and have the next ones taken for a while.

        Raises:
            UnreachableError: there is none, as the database is away.
        """
        self._wanted_until[jobs] = time.monotonic() + KEPT_S
        self._wake.set()
        with anyio.move_on_after(FIRST_WITHIN_S):
            while not self._suits(jobs=jobs):
                if self._fault:
                    raise UnreachableError(self._fault)
                await self._stirred.wait()
        if self._picture is None or not self._suits(jobs=jobs):
            raise UnreachableError(self._fault or "the fleet could not be read in time")
        return self._picture

    async def after(self, number: int, within_s: float) -> Picture | None:
        """Return the picture once it is not the one of that number, or all are stirred, or time is over."""
        if self._picture is None or self._picture.number == number:
            with anyio.move_on_after(within_s):
                await self._stirred.wait()
        return self._picture

    def stir(self) -> None:
        """Let everybody look who waits in `after`."""
        self._stirred.set()
        self._stirred = anyio.Event()

    @property
    def fault(self) -> str:
        """Why the picture is an old one; empty: it is not."""
        return self._fault

    def _suits(self, *, jobs: bool) -> bool:
        return self._picture is not None and (not jobs or self._picture.has_jobs)

    def _wants(self, now: float, *, jobs: bool) -> bool:
        return self._watchers[jobs] > 0 or now < self._wanted_until[jobs]

    def _is_watched(self, now: float) -> bool:
        return self._wants(now, jobs=False) or self._wants(now, jobs=True)

    # What has changed

    def heard(self, changes: Changes) -> None:
        """Take what the database told."""
        if changes.watchers - {self._gateway}:
            self._told_until = time.monotonic() + SAID_FOR_S
        told = changes.queues or changes.workers or changes.tokens or changes.deleted
        if changes.everything or told or changes.news - {self._gateway}:
            self.touch()

    def touch(self) -> None:
        """Say that something may have changed."""
        self._is_dirty = True
        self._wake.set()

    def wrote(self) -> None:
        """Say that this process has written something; in any thread."""
        now = time.monotonic()
        if self._loop is not None and (now < self._told_until or self._is_watched(now)):
            self._loop.call_soon_threadsafe(self._has_written)

    def _has_written(self) -> None:
        self.touch()
        self._wrote.set()

    # The loops

    async def tell_for_ever(self) -> NoReturn:
        """Tell other gateways of news while somebody watches by them."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._wrote.wait()
            # Before it is told: what is written meanwhile is told next.
            self._wrote = anyio.Event()
            if time.monotonic() < self._told_until:
                try:
                    await self._threads.run(self._store.tell_news, self._gateway)
                except UnreachableError as error:
                    log.debug("Other gateways are not told of news: %s", error)
            await anyio.sleep(TELL_PACE_S)

    async def run(self) -> NoReturn:
        """Take pictures while anybody watches."""
        while True:
            self._wake = anyio.Event()
            now = time.monotonic()
            if not self._is_watched(now):
                self._picture, self._fault, self._said_at = None, "", -math.inf
                await self._wake.wait()
                continue
            due_at = self._due_at(now)
            if due_at > now:
                with anyio.move_on_after(due_at - now):
                    await self._wake.wait()
                continue
            with self._guard.contained("taking the fleet's picture") as block:
                await self._look(now)
            if block.told:
                self._failed("a fault of this program; the gateway's log says more")

    def _due_at(self, now: float) -> float:
        """Return when there is something to do next."""
        soonest = self._began_at + (AWAY_PAUSE_S if self._fault else max(PACE_S, self._took_s / SHARE))
        lacks = not self._suits(jobs=self._wants(now, jobs=True))
        if lacks or self._is_dirty:
            # The first one at once: nobody has waited for another before it.
            return now if self._picture is None and not self._fault else soonest
        regular = min(REGULAR_S, max(PACE_S, self._picture.silent_in_s if self._picture else math.inf))
        due = max(soonest, self._began_at + regular)
        return due if self._hears() else min(due, self._traced_at + TRACES_S)

    async def _look(self, now: float) -> None:
        try:
            if now >= self._said_at + SAY_EVERY_S:
                self._said_at = now
                await self._threads.run(self._store.tell_watched, self._gateway)
            if not self._hears() and now >= self._traced_at + TRACES_S:
                self._traced_at = now
                traces = await self._threads.run(self._store.traces)
                self._is_dirty = self._is_dirty or traces != self._traces
                self._traces = traces
            if self._due_at(now) <= now:
                await self._take(now)
        except UnreachableError as error:
            log.warning("Cannot read the fleet for those who watch it, retrying: %s", error)
            self._failed("the gateway cannot reach its database")

    async def _take(self, now: float) -> None:
        # Cleared before the look: what comes meanwhile is looked at again.
        before = None
        if self._picture is not None and not self._is_dirty and now < self._whole_at + WHOLE_S:
            before = self._picture.record
        self._is_dirty, self._began_at = False, now
        self._number += 1
        jobs = self._wants(now, jobs=True)
        self._picture = await self._threads.run(self._developed, self._number, before, jobs=jobs)
        self._fault = ""
        if before is None:
            self._whole_at = now
        self.stir()

    def _developed(self, number: int, before: FleetRecord | None, *, jobs: bool) -> Picture:
        # What this thread works, not what it waits: on a busy machine pictures would else come ever later.
        began = time.thread_time()
        record = self._store.read(with_jobs=jobs, before=before)
        picture = Picture(number, record, gateway=self._gateway, versions=self._versions)
        self._took_s = time.thread_time() - began
        return picture

    def _failed(self, why: str) -> None:
        self._fault, self._is_dirty = why, True
        self._began_at = time.monotonic()
        self.stir()
