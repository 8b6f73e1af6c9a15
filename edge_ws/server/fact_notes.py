"""Brings what workers say of their machines to the database, for all that ask there: in one go, and seldom.

A machine that only ticks over costs nothing; one whose facts have changed is written once in a while.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NoReturn

import anyio
import anyio.lowlevel

from edge_ws.errors import UnreachableError
from edge_ws.server.hub import Hub, Link
from edge_ws.server.standing import are_news
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.liveness import LivenessStore

log = logging.getLogger(__name__)

EVERY_S = 60.0
AT_ONCE = 250
"""Workers whose facts are compared, and written, before others get a turn."""


class FactNotes:
    """The loop."""

    def __init__(self, store: LivenessStore, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._threads = ThreadLimit(threads=1)

    async def run(self) -> NoReturn:
        """Write what is news, for ever."""
        while True:
            await anyio.sleep(EVERY_S)
            try:
                await self.write()
            except UnreachableError as error:
                log.debug("What workers say of their machines is written later: %s", error)

    async def write(self) -> None:
        """Write what is news now.

        Raises:
            UnreachableError: the database is away.
        """
        links = list(self._hub.links())
        for first in range(0, len(links), AT_ONCE):
            some = [one for one in links[first : first + AT_ONCE] if are_news(one.facts_noted, one.facts)]
            if some:
                await self._write(some)
            await anyio.lowlevel.checkpoint()

    async def _write(self, links: Sequence[Link]) -> None:
        facts = {link.connection_id: link.facts for link in links}
        await self._threads.run(self._store.note_facts, facts)
        for link in links:
            link.facts_noted = facts[link.connection_id]
