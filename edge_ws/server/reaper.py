"""Settles what nobody reports: offers nobody answered, claims whose task is over, logs to be moved.

Judges by the tasks' own states (TaskStates), never by the silence of a link.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from enum import Enum
from typing import NoReturn

import anyio

from edge_ws.errors import EdgeWsError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import Cancel, Query
from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.protocol.states import Phase
from edge_ws.server.chronicle import Chronicle
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub
from edge_ws.server.ports import RESTARTING, FinishedLogs, TaskStates
from edge_ws.server.telemetry import Telemetry
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.records import LogToStore, OpenClaim
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the tasks' states."""
WHOLE_LOOK_S = 4.0
"""Between two looks at the claims of all workers: with the lease of 10 s, a dead gateway's offers are free
within 15 s."""
SHORTEST_LOOK_S = 0.1
"""The same, however much is to be judged."""
SETTLE_S = 0.5
"""A task that fails by itself says so when its process has ended; its last words take no longer to get here,
unless a log is being uploaded: then there is nothing left to stop."""
LEFT_S = 120.0
"""A task that is over and whose worker's name is another machine's now is given up after so long: if its
process still ran, Airflow's answer to its heartbeat has ended it."""
DOUBT_S = 30.0
"""A worker whose task has been over for so long is asked whether it has the job at all: another daemon, with
a copy of its state directory, may have had it, and be gone. Of a callback no state is kept: each that lasts
longer is asked for."""
PURGE_EVERY_S = 60.0
DELETED = "deleted"
"""Stands for the state of a task that the centre does not know at all."""
_STOPPED_AT_ONCE = frozenset({DELETED, RESTARTING})
_SAID_BY_OTHERS = frozenset({"failed", "skipped", "removed", "upstream_failed"})
"""A task's supervisor reports these when the task's process has ended, and only the others before
(STATES_SENT_DIRECTLY in airflow/sdk/execution_time/supervisor.py, 3.3.2). A job that goes on in one of these
had it from the scheduler or from a user."""


class Action(Enum):
    """What is to be done about a claim."""

    LEAVE = "leave"
    CANCEL = "cancel"
    REQUEUE = "requeue"
    FAIL = "fail"
    REMOVE = "remove"


def judge(one: OpenClaim, state: str | None, ended_for_s: float) -> Action:
    """Decide about an accepted or started claim.

    Args:
        one: the claim.
        state: the task instance's state; DELETED if Airflow knows no such id. Ignored for callbacks.
        ended_for_s: for how long the task has been neither running nor queued.
    """
    if one.is_callback:
        # Nothing but its own end ends a callback; one that is known not to have run has failed.
        return Action.FAIL if one.result is not None else Action.LEAVE
    if one.phase is Phase.ACCEPTED:
        return _judge_accepted(one, state, ended_for_s)
    return _judge_started(one, state, ended_for_s)


def _judge_accepted(one: OpenClaim, state: str | None, ended_for_s: float) -> Action:
    if one.result is None and not one.overdue:
        return Action.LEAVE
    if state == "queued":
        # A lost host cannot start it any more; else the token that was handed out might still do so.
        return Action.REQUEUE if one.overdue or one.result == "lost" else Action.LEAVE
    if state == "running":
        # lost: it was this claim's process. not_started: somebody else runs it. Else `started` is on its way.
        return {"lost": Action.FAIL, "not_started": Action.REMOVE}.get(one.result or "", Action.LEAVE)
    # Nobody else could start it: it ran under this claim while no gateway heard of it, and its reports and
    # its log are on their way.
    return _judge_over(one, state, ended_for_s)


def _judge_started(one: OpenClaim, state: str | None, ended_for_s: float) -> Action:
    return Action.LEAVE if state == "running" else _judge_over(one, state, ended_for_s)


def _judge_over(one: OpenClaim, state: str | None, ended_for_s: float) -> Action:
    """Decide about a claim whose task has come to its end."""
    if one.worker_lost or one.result is not None:
        return Action.REMOVE
    if one.site_left:
        return Action.REMOVE if ended_for_s >= LEFT_S else Action.LEAVE
    if state in _STOPPED_AT_ONCE:
        return Action.CANCEL
    # Of all else the task's own report is the likely cause: it may run callbacks, listeners and mails for as
    # long as Airflow's supervisor lets it. That one also stops, at its next heartbeat, what somebody else has
    # ended without a trace of it here.
    return Action.CANCEL if state in _SAID_BY_OTHERS and ended_for_s >= SETTLE_S else Action.LEAVE


class Reaper:
    """The loop that settles; any number of gateways may run one on the same database."""

    def __init__(
        self,
        store: Store,
        hub: Hub,
        settings: GatewaySettings,
        gateway: GatewayId,
        *,
        task_states: TaskStates,
        finished_logs: FinishedLogs,
        guard: FaultGuard | None = None,
        chronicle: Chronicle | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Make it.

        Args:
            store: the database.
            hub: this gateway's workers.
            settings: the gateway's.
            gateway: its id.
            task_states: what the centre thinks of tasks.
            finished_logs: where logs of ended jobs go.
            guard: contains what a step, or an item of it, raises.
            chronicle: told of what is settled here.
            telemetry: hears of heartbeats, of who is silent, and what is given up.
        """
        self._chronicle = chronicle or Chronicle()
        self._guard = guard or FaultGuard(log)
        self._store = store
        self._hub = hub
        self._settings = settings
        self._gateway = gateway
        self._task_states = task_states
        self._finished_logs = finished_logs
        self._telemetry = telemetry
        self._threads = ThreadLimit(threads=1)
        self._ended_since: dict[ClaimId, float] = {}
        self._ended = anyio.Event()
        self._unsettled = anyio.Event()
        self._purged_at = 0.0
        self._repaired_at = 0.0
        self._beaten_at = 0.0

    def ended(self) -> None:
        """Say that a job has ended, so that its log is moved at once."""
        self._ended.set()

    def unsettled(self) -> None:
        """Say that a claim needs judgement now."""
        self._unsettled.set()

    async def settle_for_ever(self) -> NoReturn:
        """Look every second at what this gateway's workers hold, and now and then at everything."""
        whole_at = 0.0
        while True:
            self._unsettled = anyio.Event()
            now = anyio.current_time()
            whole = now - whole_at >= WHOLE_LOOK_S
            pause_s = LOOK_S
            try:
                pause_s = await self.look(now, whole=whole)
                whole_at = now if whole else whole_at
            except EdgeWsError as error:
                log.warning("Cannot settle jobs, retrying: %s", error)
            await anyio.sleep(SHORTEST_LOOK_S)
            with anyio.move_on_after(pause_s - SHORTEST_LOOK_S):
                await self._unsettled.wait()

    async def look(self, now: float, *, whole: bool) -> float:
        """Settle what is due at `now`.

        Args:
            now: the event loop's time.
            whole: at the claims of all workers; else only of those here that hold any, so that an idle
                gateway asks nothing.

        Returns:
            Seconds until the next look.
        """
        pause_s = LOOK_S
        holding = self._hub.holding()
        contained = self._guard.contained
        if whole or holding:
            with contained("the end of offers that nobody answers"):
                await self._expire_offers()
            with contained("the look at open claims"):
                pause_s = await self._settle_claims(now, None if whole else holding)
        if now - self._repaired_at >= self._settings.backup_scan_s:
            self._repaired_at = now
            await self._repair(holding)
        if now - self._purged_at >= PURGE_EVERY_S:
            self._purged_at = now
            with contained("the purge of what has ended"):
                await self._threads.run(self._store.retention.purge, self._settings.keep_ended_s)
            with contained("the look for workers to be forgotten"):
                await self._forget_workers()
        return pause_s

    async def _repair(self, holding: list[WorkerName]) -> None:
        """See to what nobody tells of."""
        contained = self._guard.contained
        with contained("the look for stale claims"):
            await self._forget_closed(holding)
        with contained("the repair of jobs' rows"):
            await self._threads.run(self._store.claims.repair)
        with contained("the look for silent workers"):
            silent = await self._threads.run(self._store.liveness.mark_silent, self._unmarked)
            for name, _team in silent:
                self._chronicle.silent(name)
            if self._telemetry is not None:
                self._telemetry.silent(silent)

    async def _expire_offers(self) -> None:
        expired: list[tuple[ClaimId, WorkerName]] = []
        if await self._threads.run(self._store.claims.expire_offers, lambda *one: expired.append(one)):
            self._hub.capacity_changed()
        for claim, name in expired:
            self._chronicle.offer_expired(name, claim)

    def _unmarked(self, name: WorkerName, error: Exception) -> None:
        self._guard.note(f"showing worker {name} as silent", error)

    async def _forget_workers(self) -> None:
        """Forget who has been away for long."""
        away_s = self._settings.keep_offline_workers_s
        if away_s:
            for name in await self._threads.run(self._store.retention.forget_workers, away_s):
                log.info("Worker %s is forgotten: no gateway has seen it for %g days", name, away_s / 86_400)

    async def _forget_closed(self, holding: list[WorkerName]) -> None:
        """Give back the slots of claims that went stale without a word of their workers."""
        # What is noted here was committed before, so the database still has it, or it is over.
        noted = [(link, set(link.slots)) for name in holding if (link := self._hub.get(name)) is not None]
        if not noted:
            return
        alive = await self._threads.run(self._store.workers.open_ids, holding)
        for link, claims in noted:
            for claim in claims - alive:
                self._hub.release(link, claim)

    async def _settle_claims(self, now: float, holding: list[WorkerName] | None) -> float:
        """Judge the claims; return the seconds until they are to be judged again."""
        claims = await self._threads.run(self._store.claims.unsettled, holding)
        asked = {one.subject for one in claims if not one.is_callback}
        states = await self._threads.run(self._task_states.states, asked) if asked else {}
        over = {one.claim for one in claims if states.get(one.subject, DELETED) not in {"running", "queued"}}
        if holding is None:
            self._ended_since = {one: since for one, since in self._ended_since.items() if one in over}
        for ended in over:
            self._ended_since.setdefault(ended, now)
        pause_s = LOOK_S
        for one in claims:
            state = states.get(one.subject, DELETED)
            ended_for_s = now - self._ended_since.get(one.claim, now)
            if state in _SAID_BY_OTHERS and ended_for_s < SETTLE_S:
                pause_s = SETTLE_S
            action = judge(one, state, ended_for_s)
            if action is Action.LEAVE and ended_for_s >= DOUBT_S and not one.site_left:
                self._ask(one)
            with self._guard.contained(f"settling claim {one.claim} of worker {one.worker}"):
                await self._act(one, state, action)
        return pause_s

    async def _act(self, one: OpenClaim, state: str | None, action: Action) -> None:
        detail = f"the task's state is {state}"
        match action:
            case Action.LEAVE:
                return
            case Action.CANCEL:
                self._cancel(one, state)
                return
            case Action.REQUEUE:
                outcome = one.result or "not_started"
                was_it = await self._threads.run(self._store.claims.requeue, one, detail)
            case Action.FAIL:
                outcome, said = one.result or "lost", one.result or detail
                was_it = await self._threads.run(self._store.claims.give_up, one, said, failed=True)
            case Action.REMOVE:
                outcome = "removed"
                was_it = await self._threads.run(self._store.claims.give_up, one, detail, failed=False)
        if was_it:
            self._chronicle.settled(one, outcome, detail)
            if self._telemetry is not None and action is not Action.REQUEUE:
                self._telemetry.ended([one.claim])
        link = self._hub.get(one.worker)
        if link is not None:
            self._hub.release(link, one.claim)

    def _ask(self, one: OpenClaim) -> None:
        """Ask the worker once a connection."""
        link = self._hub.get(one.worker)
        if link is not None and one.claim not in link.doubted:
            link.doubted |= {one.claim}
            link.send(Query(claim=one.claim))

    def _cancel(self, one: OpenClaim, state: str | None) -> None:
        """Tell the worker once a connection; the one that holds the connection does it."""
        link = self._hub.get(one.worker)
        if link is None or one.claim in link.cancelled:
            return
        link.cancelled |= {one.claim}
        why = {RESTARTING: "the task was cleared", DELETED: "the task was deleted"}.get(
            state or "", f"the task's state is {state}"
        )
        link.send(Cancel(claim=one.claim, reason=why))
        self._chronicle.cancelled(one, why)

    # Liveness

    def unbeaten_s(self, now: float) -> float:
        """Return for how long no heartbeat has reached the database."""
        return now - self._beaten_at

    async def beat_for_ever(self) -> NoReturn:
        """Keep this gateway and its workers fresh in the database, once a heartbeat."""
        # It was announced a moment ago.
        self._beaten_at = anyio.current_time()
        while True:
            try:
                await self.beat(anyio.current_time())
                self._beaten_at = anyio.current_time()
            except UnreachableError as error:
                log.warning("Cannot record the heartbeat, retrying: %s", error)
            await anyio.sleep(self._settings.timers.heartbeat_s)

    async def announce(self) -> None:
        """Make this gateway known, or keep it fresh, with the figures of its last hour."""
        figures, begun = self._chronicle.figures, time.monotonic()
        database_time = await self._threads.run(
            self._store.liveness.announce,
            self._gateway,
            self._settings.hostname,
            os.getpid(),
            self._settings.timers.heartbeat_s,
            figures=figures.as_text(),
            has_metrics=figures.has_metrics,
        )
        figures.aligned(database_time, (begun + time.monotonic()) / 2)

    async def beat(self, now: float) -> None:
        """Keep this gateway and its workers fresh; a worker that is known elsewhere by now has to come back.

        Two connections of a worker, opened at one time at two gateways, would leave each in doubt.
        """
        heard = [link for link in self._hub.links() if link.is_heard(now)]
        ids = [link.connection_id for link in heard]
        await self.announce()
        known = await self._threads.run(self._store.liveness.beat, ids)
        if self._telemetry is not None:
            self._telemetry.beat(link for link in heard if link.connection_id in known)
        for link in heard:
            if link.connection_id not in known:
                link.close(Close(CloseCode.REPLACED, "another connection of this worker took over"))

    # Finished logs

    async def move_logs_for_ever(self) -> NoReturn:
        """Move the logs of ended jobs to Airflow's log folder, at once and after a failure again."""
        while True:
            self._ended = anyio.Event()
            try:
                await self._threads.run(self.move_logs)
            except UnreachableError as error:
                log.warning("Cannot move finished logs, retrying: %s", error)
            # Where jobs end one after another, this asks no more often.
            await anyio.sleep(SHORTEST_LOOK_S)
            with anyio.move_on_after(self._settings.backup_scan_s):
                await self._ended.wait()

    def move_logs(self) -> None:
        """Move what waits (blocking)."""
        moved = True
        while moved:
            moved = False
            for one in self._store.logs.logs_to_move():
                try:
                    moved |= self._move(one)
                except UnreachableError:
                    raise
                except Exception as error:  # noqa: BLE001 - the others are moved
                    self._leave_log(one, error)

    def _leave_log(self, one: LogToStore, error: Exception) -> None:
        """Leave a log that cannot be moved where it is, for a while: else it would be in the others' way."""
        if isinstance(error, EdgeWsError):
            log.error("The log of %s stays in the database: %s", one.key, error)
        else:
            self._guard.note(f"moving the log of {one.key}", error)
        with self._guard.contained("leaving a log alone"):
            self._store.logs.keep_move(one.claim, self._settings.move_lease_s)

    def _move(self, one: LogToStore) -> bool:
        size = self._finished_logs.size(one.log_path)
        base = self._store.logs.begin_move(one.claim, size, self._settings.move_lease_s)
        if base is None:
            return False
        self._finished_logs.write(one.log_path, base, self._chunks(one.claim))
        # Not before: a log that is there twice for a moment is better than one that is not there.
        self._finished_logs.drop_copy(one.log_path, one.claim)
        if not one.uploaded:
            self._store.logs.keep_move(one.claim, self._settings.upload_lease_s)
            self._finished_logs.upload(one.log_path, one.command)
        self._store.logs.end_move(one.claim)
        return True

    def _chunks(self, claim: ClaimId) -> Iterator[bytes]:
        """Yield the claim's log, and keep others from it however long the writing takes."""
        kept_at = time.monotonic()
        for chunk in self._store.logs.log_chunks(claim):
            yield chunk
            if time.monotonic() - kept_at >= self._settings.move_lease_s / 4:
                self._store.logs.keep_move(claim, self._settings.move_lease_s)
                kept_at = time.monotonic()
