"""Keeps copies of running jobs' logs in the centre's log folder, for rows that edge3's executor wrote.

Airflow asks our executor for the log of a running task; edge3's has no answer, so that a file must be there.
Any number of gateways may copy the same log, into one folder or each into its own: what one lacks it reads
from the database, so that a copy has no holes. Knows no connection; the reaper removes a copy with the move.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import NoReturn

import anyio

from edge_ws.errors import EdgeWsError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.ids import ClaimId
from edge_ws.server.ports import FinishedLogs
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.logs import LogStore
from edge_ws.store.records import LogToShow

log = logging.getLogger(__name__)

COPY_S = 0.5
"""Between two looks at what has grown: one statement each, however many chunks have come."""
LOOK_S = 5.0
"""Between two looks at all copies: another gateway may have moved a log that was quiet when its job ended."""


class RunningLogs:
    """The loop that copies what has grown."""

    def __init__(
        self,
        store: LogStore,
        finished_logs: FinishedLogs,
        look_s: float = LOOK_S,
        guard: FaultGuard | None = None,
    ) -> None:
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._finished_logs = finished_logs
        self._look_s = look_s
        # A thread of its own: a folder that hangs delays nothing else.
        self._threads = ThreadLimit(threads=1)
        self._grown: set[ClaimId] = set()
        self._copies: dict[ClaimId, str] = {}
        """Every claim that may have a copy here, with its log's path."""
        self._written: set[ClaimId] = set()
        """Those whose copy the last look wrote."""
        self._failing: set[ClaimId] = set()
        self._wake = anyio.Event()

    def grown(self, claim: ClaimId) -> None:
        """Say that the database has more of a claim's log."""
        self._grown.add(claim)
        self._wake.set()

    async def copy_for_ever(self) -> NoReturn:
        """Copy what has grown, a moment later."""
        looked_at = anyio.current_time()
        while True:
            if not self._grown and not self._written:
                self._wake = anyio.Event()
                # Without a copy there is nothing to look at.
                with anyio.move_on_after(self._look_s if self._copies else None):
                    await self._wake.wait()
            grown, self._grown = self._grown, set()
            if anyio.current_time() >= looked_at + self._look_s:
                looked_at = anyio.current_time()
                grown |= self._copies.keys()
            try:
                await self._threads.run(self.copy, grown)
            except UnreachableError as error:
                log.warning("Cannot show the logs of running jobs, retrying: %s", error)
                self._grown |= grown
            except Exception:
                self._grown |= grown
                raise
            await anyio.sleep(COPY_S)

    def copy(self, claims: Collection[ClaimId]) -> None:
        """Copy what these claims have more; remove the copies of those that are over (blocking)."""
        # One that ended while it was copied: the move may have removed the copy before that was written.
        claims = {*claims, *self._written}
        due = {one.claim: one for one in self._store.logs_to_show(claims)}
        for claim in (claims & self._copies.keys()) - due.keys():
            self._drop(claim, self._copies.pop(claim))
        self._failing -= claims - due.keys()
        self._copies |= {one.claim: one.log_path for one in due.values()}
        self._written = {one.claim for one in due.values() if self._copy(one)}

    def _copy(self, one: LogToShow) -> bool:
        """Bring the copy up to date; return whether anything was written."""
        try:
            begin = have = self._finished_logs.copied(one.log_path, one.claim)
            while have < one.log_end and (part := self._store.log_part(one.claim, have)):
                self._finished_logs.copy(one.log_path, one.claim, have, part)
                have += len(part)
        except UnreachableError:
            raise
        except EdgeWsError as error:
            # Once: the next look tries again.
            if one.claim not in self._failing:
                log.error("The log of a running job is not shown: %s", error)  # noqa: TRY400
                self._failing.add(one.claim)
            return False
        except Exception as error:  # noqa: BLE001 - the others are shown
            self._guard.note(f"showing the log of claim {one.claim}", error)
            return False
        self._failing.discard(one.claim)
        return have > begin

    def _drop(self, claim: ClaimId, log_path: str) -> None:
        try:
            with self._guard.contained("removing the copy of a log"):
                self._finished_logs.drop_copy(log_path, claim)
        except EdgeWsError as error:
            log.error("Cannot remove the copy of a log: %s", error)  # noqa: TRY400
