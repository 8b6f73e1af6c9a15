"""Keeps open connections in step with their credentials: revoked, expired, narrowed, each acts at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NoReturn

import anyio

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import Refusal, Refused
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.server import auth
from edge_ws.server.hub import Hub, Link
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.records import TokenRecord
from edge_ws.store.tokens import TokenStore

log = logging.getLogger(__name__)

PAUSE_S = 0.5
"""Between two looks, however often something tells of changes; and where nothing tells."""
SHORTEST_S = 0.02
"""Before the look at a credential that is about to expire."""


class TokenWatch:
    """The loop that judges the credentials of all connections here again."""

    def __init__(
        self,
        store: TokenStore,
        hub: Hub,
        *,
        backup_s: float,
        hears: Callable[[], bool],
        guard: FaultGuard | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the database.
            hub: this gateway's workers.
            backup_s: longest time between two looks, seconds.
            hears: tells whether `changed` is called for every change just now.
            guard: contains what the look at one connection raises.
        """
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._hub = hub
        self._backup_s = backup_s
        self._hears = hears
        self._threads = ThreadLimit(threads=1)
        self._changed = anyio.Event()

    def changed(self) -> None:
        """Say that a credential may have changed, or that a worker has come."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Look whenever something has changed or the next credential expires."""
        while True:
            self._changed = anyio.Event()
            expiry_s = math.inf
            try:
                expiry_s = await self.look()
            except UnreachableError as error:
                log.warning("Cannot look for revoked tokens, retrying: %s", error)
            pause_s = max(SHORTEST_S, min(PAUSE_S, expiry_s))
            await anyio.sleep(pause_s)
            rest_s = min(self._backup_s, expiry_s) - pause_s if self._hears() else 0.0
            with anyio.move_on_after(max(0.0, rest_s)):
                await self._changed.wait()

    async def look(self) -> float:
        """Judge the credentials of all connections; return the seconds until the next one expires."""
        links = self._hub.links()
        ids = {link.principal.token_id for link in links} - {None}
        if not links:
            return math.inf
        known, now = await self._threads.run(
            self._store.tokens_by_id, [one for one in ids if one is not None]
        )
        soonest = math.inf
        for link in links:
            with self._guard.contained(f"the look at the token of worker {link.name}"):
                soonest = min(soonest, self._judge(link, known.get(link.principal.token_id or ""), now))
        return soonest - now

    def _judge(self, link: Link, token: TokenRecord | None, now: float) -> float:
        """Let a connection have what its credential admits now; return when that expires."""
        try:
            principal = auth.admitted_now(link.principal, token, now)
        except RefusedError as error:
            _send_away(link, error)
            return math.inf
        if principal != link.principal:
            log.info("Worker %s: the limits of its token have changed", link.name)
            link.principal = principal
            self._hub.capacity_changed()
        return math.inf if principal.expires_at is None else principal.expires_at


def _send_away(link: Link, error: RefusedError) -> None:
    if link.closing is None:
        log.warning("Worker %s is disconnected, as its token is refused: %s", link.name, error)
        link.send(Refused(code=Refusal(error.code), sentence=str(error)))
        link.close(Close(CloseCode.REFUSED, f"token: {error}"))
