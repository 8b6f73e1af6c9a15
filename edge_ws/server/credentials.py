"""What workers show to be let in: whom it names, and how it is replaced on an open connection.

A credential is a token of edge-ws, or one of somebody else's whom the centre trusts. Knows no transport.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

import anyio

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import Renewed
from edge_ws.server import auth
from edge_ws.server.hub import Link
from edge_ws.server.ports import Identities
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.records import Principal
from edge_ws.store.tokens import TokenStore
from edge_ws.store.workers import WorkerStore

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""Between two looks whether keys are to be fetched."""
FAULT_PAUSE_S = 10.0
"""After an exception that nobody has foreseen, before keys are fetched again."""
RENEW_PAUSE_S = 1.0
"""Between two renewals of one connection: each may cost a signature's check and a query."""


class Credentials:
    """Judges credentials, at the door and on open connections."""

    def __init__(
        self,
        store: TokenStore,
        workers: WorkerStore,
        identities: Identities | None,
        *,
        on_changed: Callable[[], None] = lambda: None,
        guard: FaultGuard | None = None,
    ) -> None:
        """Make it.

        Args:
            store: knows edge-ws's own tokens.
            workers: where it is written by which token a worker goes on.
            identities: whose credentials count besides.
            on_changed: called when a connection has another credential, which may expire soon.
            guard: contains what the fetching of keys raises.
        """
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._workers = workers
        self._identities = identities
        self.changed = on_changed
        self._threads = ThreadLimit(threads=1)
        self._fetching = ThreadLimit(threads=1)

    def judge(self, secret: str | None, worker: str | None) -> Principal:
        """Return whom that secret and name stand for (blocking); raises as `auth.authenticate`."""
        return auth.authenticate(self._store, secret, worker, self._identities)

    def judge_again(self, principal: Principal) -> Principal:
        """Return what the principal's credential admits now (blocking); raises as `auth.judge_again`."""
        return auth.judge_again(self._store, principal)

    async def renew(self, link: Link, secret: str) -> Renewed:
        """Have the connection go on by another secret; one that is not good changes nothing."""
        now = time.monotonic()
        link.renewed_at = max(now, link.renewed_at + RENEW_PAUSE_S)
        await asyncio.sleep(link.renewed_at - now)
        try:
            judged = await self._threads.run(self.judge, secret, link.name)
            principal = auth.renewed(link.principal, judged)
            expires_in_s = await self._threads.run(self._workers.note_token, principal, link.connection_id)
        except RefusedError as error:
            log.warning("Worker %s keeps its old token, as the new one is refused: %s", link.name, error)
            return Renewed(refusal=str(error), expires_in_s=await self._in_force_s(link))
        except UnreachableError as error:
            log.warning(
                "Worker %s keeps its old token, as the new one cannot be checked now: %s", link.name, error
            )
            return Renewed(refusal="the gateway cannot reach its database")
        link.renew(principal, secret)
        self.changed()
        log.info("Worker %s now uses a new token", link.name)
        return Renewed(expires_in_s=expires_in_s)

    async def _in_force_s(self, link: Link) -> float | None:
        """Return when the credential that stays expires, as far as the database can be asked."""
        with suppress(UnreachableError):
            return await self._threads.run(self._workers.note_token, link.principal, link.connection_id)
        return None

    async def fetch_keys_for_ever(self) -> None:
        """Keep the keys of whom the centre trusts up to date; nobody waits for that."""
        while self._identities is not None:
            if self._identities.is_due():
                with self._guard.contained("the fetching of keys") as fetching:
                    await self._fetching.run(self._identities.refresh)
                if fetching.told:
                    await anyio.sleep(FAULT_PAUSE_S)
            await anyio.sleep(LOOK_S)
