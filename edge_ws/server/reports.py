"""What a worker's frames do: each becomes a verb of the store and an answer on the worker's link.

Serves both transports. Answers go out after the verb is committed, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypedDict, TypeVar, assert_never

import anyio

from edge_ws.errors import EdgeWsError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import (
    Accept,
    Ack,
    Applied,
    Asked,
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
    Renew,
    ServerFrame,
    Stale,
    Started,
    Status,
    Token,
    WorkerFrame,
)
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.protocol.states import Phase
from edge_ws.server.batches import Batches
from edge_ws.server.budget import Budget, Outstanding
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import REFUSED_PAUSE_S, REPEAT_S, Hub, Link, Standing, wish_frame
from edge_ws.server.log_limits import LogLimits
from edge_ws.server.ports import TaskTokens
from edge_ws.server.standing import as_wished, bounded, in_force, standing, steady
from edge_ws.server.telemetry import Telemetry
from edge_ws.server.threads import ThreadLimit
from edge_ws.server.worker_log import WorkerLog
from edge_ws.store.records import Accepted, OpenClaim, Owing, Room, Verdict
from edge_ws.store.reports import MANY, ClaimReport, Outcome, ReportStore
from edge_ws.store.workers import WorkerStore

log = logging.getLogger(__name__)


_Other = HostDead | Asked | Standing
"""What a worker says of itself."""
_Said = TypeVar("_Said")


class Answers(Protocol):
    """Who is told what became of a worker's statements: its link, or the request that brought them."""

    def send(self, frame: ServerFrame) -> None:
        """Take an answer."""
        ...

    def settled(self) -> None:
        """Hear that one more statement is dealt with, answered or not."""
        ...


WRITERS = 2
"""Batches of reports that are written at a time. Their order does not matter: each report is a fact."""
LOGS_AT_ONCE = 64
"""Log chunks in one transaction, at the most: 4 MiB."""
CHUNKS = 4
"""Log chunks of one claim that are taken in before they are acknowledged; a worker sends no more."""
FOREIGN = 32
"""Reports of one worker about claims that are not known here as its own: some are late, others made up."""
_FOREIGN = "foreign"
DEAD_HOSTS = 20
"""Hosts of one inventory that are heard to be dead, the last ones, and so many are remembered."""
FRAME_SIZE = 500
"""Bytes that a statement takes besides its texts, about."""
ID_SIZE = 100
"""Bytes that an id takes in memory, about."""


class _Taken(NamedTuple, Generic[_Said]):
    """A statement in a lane."""

    link: Link
    said: _Said
    to: Answers
    place: Outstanding | None = None
    """The room that it takes; None: it takes the place of the one before."""

    def leave(self) -> None:
        """It is settled, answered or not."""
        if self.place is not None:
            self.place.leave()
        self.to.settled()


class _Alike(TypedDict):
    """What all lanes have in common."""

    sender: Callable[[_Taken[Any]], Hashable]
    left: Callable[[_Taken[Any]], None]
    guard: FaultGuard
    named: Callable[[_Taken[Any]], str]


class Reports:
    """Where workers' statements are taken and written.

    Reports of all workers that arrive together commit together; so do log chunks, in a lane of their own.
    """

    def __init__(
        self,
        store: ReportStore,
        workers: WorkerStore,
        hub: Hub,
        settings: GatewaySettings,
        tokens: TaskTokens,
        *,
        on_ended: Callable[[], None],
        on_unsettled: Callable[[], None],
        on_log: Callable[[ClaimId], None],
        guard: FaultGuard | None = None,
        told: WorkerLog | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Make it.

        Args:
            store: where reports go.
            workers: where what workers say about themselves goes.
            hub: told of slots that come free.
            settings: the gateway's.
            tokens: mints what `go` carries.
            on_ended: called after jobs have ended.
            on_unsettled: called when a claim needs the reaper's judgement.
            on_log: called when the database has more of a claim's log.
            guard: contains what a statement raises.
            told: where what workers say is logged.
            telemetry: hears what becomes of jobs.
        """
        self._store = store
        self._workers = workers
        self._hub = hub
        self._settings = settings
        self._tokens = tokens
        self._on_ended = on_ended
        self._on_unsettled = on_unsettled
        self._on_log = on_log
        self._threads = ThreadLimit(threads=1)
        self._told = told or WorkerLog(log)
        self._telemetry = telemetry
        guard = guard or FaultGuard(log)
        self._budget = Budget()
        self._log_limits = LogLimits(store.log_sizes, settings)
        alike = _Alike(sender=_sender, left=_Taken.leave, guard=guard, named=_named)
        self._reports = Batches(self._write_reports, self._answer_report, MANY, writers=WRITERS, **alike)
        self._logs = Batches(self._write_logs, self._answer_log, LOGS_AT_ONCE, **alike)
        self._others = Batches(self._write_others, self._answer_other, 1, key=_subject, **alike)

    async def run_reports(self) -> None:
        """Write reports for ever."""
        await self._reports.run()

    async def run_others(self) -> None:
        """Write what workers say about themselves for ever."""
        await self._others.run()

    async def run_logs(self) -> None:
        """Write logs for ever."""
        await self._logs.run()

    async def take(self, link: Link, frame: WorkerFrame, answers: Answers | None = None) -> None:
        """Take one statement of a worker whose `hello` was answered.

        A report is answered once it is committed; one whose batch the database did not take is not answered,
        so the worker will say it again. Returns when the worker may say more.

        Args:
            link: the worker's.
            frame: the statement.
            answers: who gets the answer; None: the link.
        """
        to = answers or link
        match frame:
            case Log():
                await self._enter(self._logs, _Taken(link, frame, to), frame.claim, CHUNKS)
            case Accept() | Refuse() | Started() | Finished() | NotStarted() | PhaseIs():
                kind = None if frame.claim in link.slots else _FOREIGN
                await self._enter(self._reports, _Taken(link, frame, to), kind, FOREIGN)
            case HostDead():
                await self._enter(self._others, _Taken[_Other](link, frame, to))
            case Applied():
                self._applied(link, frame, to)
            case Status():
                await self._status(link, frame)
                to.settled()
            case Bye():
                link.left = frame
                to.settled()
            case Hello() | Renew():
                raise AssertionError("the session lets no second hello pass, and `Workers` takes a renewal")
            case _:
                assert_never(frame)

    async def _enter(
        self, lane: Batches[_Taken[_Said], Any], taken: _Taken[_Said], kind: Hashable = None, most: int = 0
    ) -> None:
        """Put a statement into a lane once its worker has room for it; without any it is left out."""
        name = taken.link.name
        place = await self._budget.enter(name, _size(taken.said), kind, most)
        if place is not None:
            lane.put(taken._replace(place=place))
        else:
            log.debug(
                "Left out a %s of worker %s: none of its statements has been settled for a while",
                type(taken.said).__name__,
                name,
            )
            taken.to.settled()

    def _applied(self, link: Link, frame: Applied, to: Answers) -> None:
        said = standing(link, as_wished(link, frame))
        if said == link.noted:
            # As its hello said: thousands who come back at once cost no transaction each.
            self._in_force(link, said.applied)
            to.settled()
        else:
            self._others.put(_Taken(link, said, to))

    # Reports about claims

    def _write_reports(self, batch: list[_Taken[ClaimReport]]) -> list[tuple[Outcome, str]]:
        """Commit a batch; return each outcome with the token to send, "" for none (blocking)."""
        life_s, leeway_s = self._settings.token_life_s, self._settings.token_leeway_s
        outcomes = self._store.take(
            [(link.principal, frame) for link, frame, *_ in batch], start_within_s=life_s + leeway_s
        )
        return [(outcome, self._mint(outcome, life_s)) for outcome in outcomes]

    def _mint(self, outcome: Outcome, life_s: float) -> str:
        if isinstance(outcome, Verdict):
            return ""
        try:
            if isinstance(outcome, Owing):
                return self._tokens.mint_for_outcome(outcome.subject, valid_s=life_s)
            return self._tokens.mint(outcome.subject, is_callback=outcome.is_callback, valid_s=life_s)
        except EdgeWsError as error:
            # The claim goes back when its lease is over, an outcome is asked for again; an operator must mend
            # the signing settings.
            log.error("No token for task %s: %s", outcome.subject, error)  # noqa: TRY400
            return ""

    def _answer_report(self, taken: _Taken[ClaimReport], judged: tuple[Outcome, str]) -> None:
        (link, frame, to, _), (outcome, token) = taken, judged
        if self._telemetry is not None:
            self._telemetry.reported(frame, outcome)
        match outcome:
            case Accepted():
                if token:
                    to.send(Go(claim=frame.claim, token=token))
            case Owing():
                to.send(Ack(claim=frame.claim, phase=Phase.STARTED))
                if token:
                    to.send(Token(claim=frame.claim, token=token))
            case Verdict.STALE:
                to.send(Stale(claim=frame.claim))
                self._hub.release(link, frame.claim)
            case Verdict.REPEATED:
                pass
            case Verdict.DONE:
                self._done(link, frame, to)
        if _may_leave_a_log(frame):
            self._on_ended()

    def _done(self, link: Link, frame: ClaimReport, to: Answers) -> None:
        """Answer a report that took effect."""
        match frame:
            case Started():
                to.send(Ack(claim=frame.claim, phase=Phase.STARTED))
            case Finished():
                to.send(Ack(claim=frame.claim, phase=Phase.ENDED))
                self._hub.release(link, frame.claim)
            case NotStarted():
                told = "Worker %s could not start claim %s: %s"
                self._told.say(logging.WARNING, link.name, told, link.name, frame.claim, frame.reason)
                to.send(Ack(claim=frame.claim, phase=Phase.ENDED))
                self._hub.release(link, frame.claim)
                self._on_unsettled()
            case Refuse():
                self._hub.pause(link, REFUSED_PAUSE_S)
                self._hub.release(link, frame.claim)
            case PhaseIs():
                if frame.phase is Phase.UNKNOWN:
                    self._hub.release(link, frame.claim)
                    self._on_unsettled()
            case Accept():
                raise AssertionError("an accept that won is Accepted")
            case _:
                assert_never(frame)

    # Logs

    def _write_logs(self, batch: list[_Taken[Log]]) -> list[int | Verdict]:
        bounds = self._log_limits.bounds({taken.link.name for taken in batch})
        ends = self._store.append_logs([(link.principal, frame) for link, frame, *_ in batch], bounds)
        for taken, end in zip(batch, ends, strict=True):
            if not isinstance(end, Verdict):
                self._log_limits.grown(taken.link.name, len(taken.said.data))
        return ends

    def _answer_log(self, taken: _Taken[Log], end: int | Verdict) -> None:
        link, frame, to, _ = taken
        if isinstance(end, Verdict):
            to.send(Stale(claim=frame.claim))
            self._hub.release(link, frame.claim)
            return
        to.send(LogAck(claim=frame.claim, log_end=end))
        self._on_log(frame.claim)
        if frame.offset <= self._settings.job_log_limit < end:
            self._told.say(
                logging.WARNING,
                link.name,
                "The log of claim %s, of %s, is too long: its middle is left out",
                frame.claim,
                link.name,
            )

    # Statements about the worker

    def _write_others(self, batch: list[_Taken[_Other]]) -> list[tuple[ClaimId, ...]]:
        """Write what a worker says about itself; return the claims that ended with it (blocking)."""
        ((link, said, *_),) = batch
        match said:
            case HostDead():
                return [self._workers.host_dead(link.principal, said.host, said.ended)]
            case Asked():
                self._workers.take_in(link.principal, said)
                return [()]
            case Standing():
                self._workers.note_applied(link.principal, said.applied, said.room, said.sysinfo)
                return [()]

    def _answer_other(self, taken: _Taken[_Other], ended: tuple[ClaimId, ...]) -> None:
        link, said, to, _ = taken
        match said:
            case HostDead():
                self._buried(link, said.host, ended, to)
            case Asked():
                link.asked = max(link.asked, said.number)
            case Standing():
                link.noted = replace(said, sysinfo=None)
                self._in_force(link, said.applied)

    def _in_force(self, link: Link, said: Applied) -> None:
        """Note what a worker has in force; of an older wish than the last a late request may speak."""
        is_news = (said.concurrency, said.queues) != link.said
        if is_news and said.revision >= link.wish.revision:
            self._hub.applied(link, said.concurrency, said.queues)

    def _buried(self, link: Link, host: HostId, claims: tuple[ClaimId, ...], to: Answers) -> None:
        link.dead_hosts = (*link.dead_hosts, host)[-DEAD_HOSTS:]
        if self._telemetry is not None:
            self._telemetry.ended(claims)
        for claim in claims:
            to.send(Ack(claim=claim, phase=Phase.ENDED))
            self._hub.release(link, claim)
        self._on_ended()
        self._on_unsettled()

    async def _status(self, link: Link, status: Status) -> None:
        """Note the worker as it stands; what it does not name proves nothing."""
        inventory, sysinfo = status.inventory, bounded(link.name, status.sysinfo, self._told)
        for host in inventory.dead_hosts[-DEAD_HOSTS:]:
            if host not in link.dead_hosts:
                await self.take(link, HostDead(host=host, ended=_ended(inventory)))
        before, drained = link.free(), link.inventory is not None and link.inventory.draining
        link.inventory, link.room = inventory, Room.of(inventory, status.sysinfo)
        link.facts = {**link.facts, **sysinfo}
        link.disk_gb = steady(link.disk_gb, status.sysinfo.get("disk_free_gb"))
        if inventory.asked is not None and inventory.asked.number > link.asked:
            self._others.put(_Taken(link, inventory.asked, _Nobody()))
        said = standing(link, as_wished(link, in_force(inventory)))
        if said != link.noted:
            # The database was away when the worker said so, or its last job is gone, or its job host.
            self._others.put(_Taken(link, replace(said, sysinfo=sysinfo), _Nobody()))
        self._in_force(link, said.applied)
        now = anyio.current_time()
        if inventory.revision != link.wish.revision and now >= link.wished_at + REPEAT_S:
            # By long-poll an older one may have come after it.
            link.wished_at = now
            link.send(wish_frame(link.wish))
        if link.free() > before or (drained and not inventory.draining):
            self._hub.capacity_changed()

    async def compare(self, link: Link, open_claims: tuple[OpenClaim, ...]) -> None:
        """After a `hello`: tell which of the worker's claims are stale, and ask for those it did not name."""
        assert link.inventory is not None
        buried: set[ClaimId] = set()
        for host in link.inventory.dead_hosts[-DEAD_HOSTS:]:
            told = _ended(link.inventory)
            ended = await self._threads.run(self._workers.host_dead, link.principal, host, told)
            self._buried(link, host, ended, link)
            buried |= set(ended)
        # Another site's claims are not this machine's to speak of: it took the name over, and the other one
        # may be at them still.
        known = {one.claim: one for one in open_claims if one.site == link.principal.site}
        stated = {held.claim: held for held in link.inventory.claims}
        if self._telemetry is not None:
            self._telemetry.held(known.values())
        for claim_id, held in stated.items():
            if claim_id not in known:
                link.send(Stale(claim=claim_id))
            elif held.phase is Phase.STARTED and known[claim_id].phase is not Phase.STARTED:
                started = PhaseIs(claim=claim_id, phase=Phase.STARTED, host=held.host)
                await self._threads.run(self._store.take, [(link.principal, started)], start_within_s=0.0)
                if self._telemetry is not None:
                    self._telemetry.started(claim_id)
        for claim_id in known.keys() - stated.keys() - buried:
            link.send(Query(claim=claim_id))


def _sender(taken: _Taken[Any]) -> Hashable:
    return taken.link.name


def _subject(taken: _Taken[_Other]) -> Hashable:
    """Return what a statement is about: of one thing the last word counts."""
    return taken.said.host if isinstance(taken.said, HostDead) else type(taken.said).__name__


def _size(frame: object) -> int:
    """Return the bytes that a statement takes, about."""
    match frame:
        case Log():
            return FRAME_SIZE + len(frame.data)
        case Finished():
            return FRAME_SIZE + len(frame.detail)
        case Refuse() | NotStarted():
            return FRAME_SIZE + len(frame.reason)
        case HostDead():
            return FRAME_SIZE + ID_SIZE * len(frame.ended)
        case _:
            return FRAME_SIZE


def _named(taken: _Taken[Any]) -> str:
    return f"a statement of worker {taken.link.name} ({type(taken.said).__name__})"


def _may_leave_a_log(frame: ClaimReport) -> bool:
    """Tell whether a report may have ended a job that has a log; one that no worker could start says why."""
    return (isinstance(frame, Finished) and frame.log_end > 0) or isinstance(frame, NotStarted)


def _ended(inventory: Inventory) -> tuple[ClaimId, ...]:
    """Return the claims whose end the worker knows, and reports itself."""
    return tuple(held.claim for held in inventory.claims if held.phase is Phase.ENDED)


class _Nobody:
    """Waits for no answer."""

    def send(self, frame: ServerFrame) -> None:
        """Leave it out."""

    def settled(self) -> None:
        """Leave it out."""
