"""What a worker's frames do: each becomes a verb of the store and an answer on the worker's link.

Serves both transports. Answers go out after the verb is committed, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import assert_never

import anyio

from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Bye,
    Finished,
    Go,
    Hello,
    HostDead,
    Inventory,
    Log,
    LogAck,
    NotStarted,
    PhaseIs,
    Query,
    Refuse,
    Stale,
    Started,
    Status,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import REFUSED_PAUSE_S, Hub, Link
from edge_ws.server.ports import TaskTokens
from edge_ws.server.work import Desk
from edge_ws.store.records import Accepted, OpenClaim, Verdict
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

ClaimFrame = Accept | Refuse | Started | Finished | NotStarted | PhaseIs | Log


class Reports:
    """The desk at which workers' statements are taken."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        settings: GatewaySettings,
        tokens: TaskTokens,
        *,
        on_ended: Callable[[], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._settings = settings
        self._tokens = tokens
        self._on_ended = on_ended
        self._desk = Desk(threads=2)
        self._log_desk = Desk(threads=1)

    async def take(self, link: Link, frame: WorkerFrame) -> None:
        """Carry out one statement of a worker whose `hello` was answered.

        Raises:
            UnreachableError: the database is away; nothing was answered, so the worker will say it again.
        """
        match frame:
            case Accept() | Refuse() | Started() | Finished() | NotStarted() | PhaseIs() | Log():
                await self._take_about_claim(link, frame)
            case HostDead():
                await self._host_dead(link, frame.host)
            case Status():
                await self._status(link, frame.inventory)
            case Applied():
                await self._applied(link, frame)
            case Bye():
                link.left = True
            case Hello():
                raise AssertionError("the session lets no second hello pass")
            case _:
                assert_never(frame)

    async def _take_about_claim(self, link: Link, frame: ClaimFrame) -> None:
        match frame:
            case Accept():
                await self._accept(link, frame)
            case Refuse():
                await self._refuse(link, frame)
            case Started():
                verdict = await self._desk.run(self._store.started, link.principal, frame.claim, frame.host)
                self._answer(link, frame.claim, verdict, Phase.STARTED)
            case Finished():
                await self._finished(link, frame)
            case NotStarted():
                await self._not_started(link, frame)
            case PhaseIs():
                await self._phase_is(link, frame)
            case Log():
                await self._log(link, frame)
            case _:
                assert_never(frame)

    def _answer(self, link: Link, claim: ClaimId, verdict: Verdict, phase: Phase) -> None:
        match verdict:
            case Verdict.DONE:
                link.send(Ack(claim=claim, phase=phase))
            case Verdict.STALE:
                link.send(Stale(claim=claim))
            case Verdict.REPEATED:
                return
        if verdict is Verdict.STALE or phase is Phase.ENDED:
            self._hub.release(link, claim)

    async def _applied(self, link: Link, frame: Applied) -> None:
        await self._desk.run(
            self._store.note_applied, link.principal, frame.revision, frame.concurrency, frame.queues
        )
        link.concurrency, link.queues = frame.concurrency, frame.queues
        self._hub.capacity_changed()

    async def _refuse(self, link: Link, frame: Refuse) -> None:
        await self._desk.run(self._store.refuse, link.principal, frame.claim, frame.reason)
        link.not_before = anyio.current_time() + REFUSED_PAUSE_S
        self._hub.release(link, frame.claim)

    async def _accept(self, link: Link, frame: Accept) -> None:
        life_s, leeway_s = self._settings.token_life_s, self._settings.token_leeway_s
        outcome = await self._desk.run(
            self._store.accept, link.principal, frame.claim, frame.host, start_within_s=life_s + leeway_s
        )
        match outcome:
            case Accepted():
                token = await self._desk.run(
                    self._tokens.mint, outcome.subject, is_callback=outcome.is_callback, valid_s=life_s
                )
                link.send(Go(claim=frame.claim, token=token))
            case Verdict.STALE:
                self._answer(link, frame.claim, outcome, Phase.ACCEPTED)
            case Verdict.DONE | Verdict.REPEATED:
                return

    async def _finished(self, link: Link, frame: Finished) -> None:
        verdict = await self._desk.run(
            self._store.finished,
            link.principal,
            frame.claim,
            frame.exit_code,
            frame.detail,
            log_uploaded=frame.log_uploaded,
        )
        self._answer(link, frame.claim, verdict, Phase.ENDED)
        self._on_ended()

    async def _not_started(self, link: Link, frame: NotStarted) -> None:
        verdict = await self._desk.run(self._store.not_started, link.principal, frame.claim, frame.reason)
        log.warning("Worker %s could not start claim %s: %s", link.name, frame.claim, frame.reason)
        self._answer(link, frame.claim, verdict, Phase.ENDED)

    async def _phase_is(self, link: Link, frame: PhaseIs) -> None:
        if frame.phase is Phase.UNKNOWN:
            await self._desk.run(self._store.unknown, link.principal, frame.claim)
            self._hub.release(link, frame.claim)
        elif frame.phase is Phase.STARTED:
            await self._desk.run(self._store.started, link.principal, frame.claim, frame.host)

    async def _log(self, link: Link, frame: Log) -> None:
        end = await self._log_desk.run(
            self._store.append_log, link.principal, frame.claim, frame.offset, frame.data
        )
        if isinstance(end, Verdict):
            link.send(Stale(claim=frame.claim))
            self._hub.release(link, frame.claim)
        else:
            link.send(LogAck(claim=frame.claim, log_end=end))

    async def _host_dead(self, link: Link, host: HostId) -> None:
        for claim in await self._desk.run(self._store.host_dead, link.principal, host):
            self._answer(link, claim, Verdict.DONE, Phase.ENDED)
        link.dead_hosts.add(host)
        self._on_ended()

    async def _status(self, link: Link, inventory: Inventory) -> None:
        """Note the worker as it stands; what it does not name proves nothing."""
        await self._bury(link, inventory)
        before, drained = link.free(), link.inventory is not None and link.inventory.draining
        link.inventory = inventory
        if link.free() > before or (drained and not inventory.draining):
            self._hub.capacity_changed()

    async def _bury(self, link: Link, inventory: Inventory) -> None:
        """Record the deaths that an inventory tells and that no report of their own has brought."""
        for host in inventory.dead_hosts:
            if host not in link.dead_hosts:
                await self._host_dead(link, host)

    async def compare(self, link: Link, open_claims: tuple[OpenClaim, ...]) -> None:
        """After a `hello`: tell which of the worker's claims are stale, and ask for those it did not name."""
        assert link.inventory is not None
        await self._bury(link, link.inventory)
        known = {one.claim: one for one in open_claims}
        stated = {held.claim: held for held in link.inventory.claims}
        for claim_id, held in stated.items():
            if claim_id not in known:
                link.send(Stale(claim=claim_id))
            elif held.phase is Phase.STARTED and known[claim_id].phase is not Phase.STARTED:
                await self._desk.run(self._store.started, link.principal, claim_id, held.host)
        for claim_id in known.keys() - stated.keys():
            link.send(Query(claim=claim_id))
