"""Ends workers' maintenance when its time has come, by the database's clock; any gateway may be the first."""

from __future__ import annotations

import logging
from typing import NoReturn

import anyio

from edge_ws.errors import UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.ids import WorkerName
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.ends import EndsStore

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks: an end may have been given, or changed, meanwhile."""
SHORTEST_S = 0.02


class Ends:
    """The loop that looks for what is due."""

    def __init__(self, store: EndsStore, guard: FaultGuard | None = None) -> None:
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._threads = ThreadLimit(threads=1)

    async def run(self) -> NoReturn:
        """Look for ever; at once at the start, for what was due while no gateway was alive."""
        while True:
            next_s = LOOK_S
            try:
                next_s = await self.look()
            except UnreachableError as error:
                log.warning("Cannot read from the database which maintenance is to end, retrying: %s", error)
            await anyio.sleep(max(SHORTEST_S, min(LOOK_S, next_s)))

    async def look(self) -> float:
        """End what is due; return the seconds until the next end."""
        done = await self._threads.run(self._store.end_due, self._failed)
        for name in done.workers:
            log.info("Worker %s: its maintenance has ended at the time that was set", name)
        return done.next_s

    def _failed(self, name: WorkerName, error: Exception) -> None:
        self._guard.note(f"ending the maintenance of worker {name}", error)
