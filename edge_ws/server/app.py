"""The gateway as a value: a Starlette app, the loops behind it, and how it drains."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from edge_ws.errors import UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol import http
from edge_ws.protocol.frames import Drain, Refusal, Stale
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, GatewayId, new_id
from edge_ws.protocol.session import Close, CloseCode
from edge_ws.server.admin_routes import Admin
from edge_ws.server.answers import refusal, refuse_worker
from edge_ws.server.auth import WhoAmI
from edge_ws.server.chronicle import Chronicle
from edge_ws.server.config import GatewaySettings
from edge_ws.server.credentials import Credentials
from edge_ws.server.dispatcher import Dispatcher
from edge_ws.server.ends import Ends
from edge_ws.server.events import Events
from edge_ws.server.fact_notes import FactNotes
from edge_ws.server.figures import Figures
from edge_ws.server.fleet import Fleet
from edge_ws.server.fleet_metrics import fleet_facts
from edge_ws.server.hub import Hub, Link
from edge_ws.server.longpoll import PollLink, Polls
from edge_ws.server.metrics import Copy, FleetFacts, Metrics, copy
from edge_ws.server.ports import (
    Audit,
    CentreMetrics,
    FinishedLogs,
    Identities,
    JobTraces,
    Tasks,
    TaskStates,
    TaskTokens,
    Users,
)
from edge_ws.server.reaper import Reaper
from edge_ws.server.reports import Reports
from edge_ws.server.running_logs import RunningLogs
from edge_ws.server.telemetry import Telemetry
from edge_ws.server.threads import ThreadLimit
from edge_ws.server.token_watch import TokenWatch
from edge_ws.server.websocket import WebSockets
from edge_ws.server.worker_log import WorkerLog
from edge_ws.server.workers import Workers
from edge_ws.store.store import Store
from edge_ws.store.watch import Changes

log = logging.getLogger(__name__)

AWAY_PER_S = 100.0
"""Workers sent away each second; all at once would crowd the gateways that they come to."""
LOOK_S = 0.1
CLOSE_WITHIN_S = 2.0
"""For the last connections, once they are told to close."""
POLLS_AGAIN_S = 1.0
"""A worker that polls is here again within this time, or has left."""


async def send_away(hub: Hub, within_s: float) -> None:
    """Tell each worker when to connect anew; return when all have left, or `within_s` is over."""
    told: set[Link] = set()
    # A worker needs time to open the new connection: the last one's turn comes by half of it.
    per_s = max(AWAY_PER_S, 2.0 * len(hub) / max(within_s, 0.1))
    begun = anyio.current_time()
    log.info("Draining; workers to be sent elsewhere: %d", len(hub))
    with anyio.move_on_after(within_s):
        while True:
            # Anew each time: one may just have been let in.
            for link in [one for one in hub.links() if one not in told]:
                turn_s = len(told) / per_s - (anyio.current_time() - begun)
                link.send(Drain(come_back_s=max(0.0, turn_s)))
                told.add(link)
            if not _connected(hub):
                log.info("Drained in %.1f s", anyio.current_time() - begun)
                return
            await anyio.sleep(LOOK_S)
    left = _connected(hub)
    log.warning("Not drained within %g s; workers whose connections are closed: %d", within_s, len(left))
    for link in left:
        link.close(Close(CloseCode.GOING_AWAY, "the gateway is leaving"))
    with anyio.move_on_after(CLOSE_WITHIN_S):
        while True:
            if not _connected(hub):
                return
            await anyio.sleep(LOOK_S)


def _connected(hub: Hub) -> list[Link]:
    """Return those that have not left yet; a worker that polls just comes no more."""
    now = anyio.current_time()
    return [
        link
        for link in hub.links()
        if not isinstance(link, PollLink) or link.is_waited_on or now - link.heard_at < POLLS_AGAIN_S
    ]


BEATS_MISSED = 2
"""Heartbeats to the database that may fail before `/health` says that no job can be handed out."""
TRIES = 8
"""A loop that ends by a fault so often in a row, within a minute or so, ends the gateway."""
FLEET_AGAIN_S = 2.0
"""Between two looks at the whole fleet for Prometheus."""
RETRY_AFTER_S = 5.0
"""Told to whoever comes to a gateway that cannot serve."""
_DRAINING = "the gateway is draining: it is about to end"
_ANY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""The wrong ones are answered by us, with our marker."""


class Gateway:
    """One gateway: mount `app`, and keep `running()` open while it serves."""

    def __init__(
        self,
        store: Store,
        settings: GatewaySettings,
        task_states: TaskStates,
        task_tokens: TaskTokens,
        finished_logs: FinishedLogs,
        *,
        users: Users | None = None,
        tasks: Tasks | None = None,
        audit: Audit | None = None,
        identities: Identities | None = None,
        has_metrics: bool = False,
        metrics: CentreMetrics | None = None,
        traces: JobTraces | None = None,
    ) -> None:
        """Make it; without `users` there is no `v1/admin/`. It asks the centre by `tasks`.

        `identities`: whose credentials workers may show besides tokens of ours. `has_metrics`: what it counts
        is shown to Prometheus. `metrics` and `traces`: the centre's own, where it wants any.
        """
        self.id = GatewayId(new_id())
        self._guard = guard = FaultGuard(log)
        self.figures = Figures(self._by_transport, has_metrics=has_metrics)
        """What it counts and measures."""
        self.events = Events(
            store.events,
            f"{settings.hostname}/{os.getpid()}",
            partial(self.figures.count, "events_left_out"),
            guard,
        )
        """What happens here to the fleet."""
        chronicle = Chronicle(self.figures, self.events)
        store.observe(self.figures.database)
        told = WorkerLog(log)
        self._store = store
        self._settings = settings
        self._telemetry = (
            Telemetry(store.telemetry, metrics, traces, guard)
            if metrics is not None or traces is not None
            else None
        )
        self._hub = Hub(self._capacity_changed, self._queues_served)
        self._dispatcher = Dispatcher(
            store.dispatch, self._hub, settings, self.id, guard=guard, chronicle=chronicle
        )
        self._reaper = Reaper(
            store,
            self._hub,
            settings,
            self.id,
            task_states=task_states,
            finished_logs=finished_logs,
            guard=guard,
            chronicle=chronicle,
            telemetry=self._telemetry,
        )
        self._ends = Ends(store.ends, guard)
        self._running_logs = RunningLogs(store.logs, finished_logs, guard=guard)
        self._reports = Reports(
            store.reports,
            store.workers,
            self._hub,
            settings,
            task_tokens,
            on_ended=self._reaper.ended,
            on_unsettled=self._reaper.unsettled,
            on_log=self._running_logs.grown,
            guard=guard,
            told=told,
            chronicle=chronicle,
            telemetry=self._telemetry,
        )
        self._token_watch = TokenWatch(
            store.tokens,
            self._hub,
            backup_s=settings.backup_scan_s,
            hears=lambda: self._watch.hears,
            guard=guard,
        )
        self._credentials = Credentials(
            store.tokens, store.workers, identities, on_changed=self._token_watch.changed, guard=guard
        )
        self._workers = Workers(
            store.workers,
            self._hub,
            self._reports,
            settings,
            self.id,
            self._credentials,
            guard,
            told,
            chronicle,
            self._telemetry,
        )
        self._fact_notes = FactNotes(store.liveness, self._hub)
        self._websockets = WebSockets(self._workers)
        self._polls = Polls(self._workers, self._hub, settings)
        self._watched = Fleet(
            store.picture,
            self.id,
            versions=settings.versions,
            hears=lambda: self._watch.hears,
            guard=guard,
        )
        self._admin = (
            [] if users is None else [Admin(store, users, tasks, audit, here=self, fleet=self._watched)]
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch = store.watch(self._changed)
        self._serving = False
        self._draining = False
        self._metrics = Metrics()
        self._rendering = ThreadLimit(threads=1)
        self._counted: FleetFacts | None = None
        self._counted_at = -math.inf
        self.app = Starlette(
            routes=[
                WebSocketRoute(http.WEBSOCKET_PATH, self._serve),
                Route(http.WEBSOCKET_PATH, self._upgrade_required),
                Route(http.POLL_PATH, self._polls.poll, methods=_ANY_METHOD),
                Route(http.SEND_PATH, self._polls.send, methods=_ANY_METHOD),
                Route(http.WHOAMI_PATH, WhoAmI(self._workers.authenticate, settings, self.id).answer),
                *(
                    Route(http.ADMIN_PATH + "/{name:path}", one.answer, methods=_ANY_METHOD)
                    for one in self._admin
                ),
                Route(http.HEALTH_PATH, self._health),
            ]
        )

    def _by_transport(self) -> dict[str, int]:
        return self._hub.by_transport()

    def _capacity_changed(self) -> None:
        self._dispatcher.capacity_changed()

    def _queues_served(self, queues: tuple[str, ...] | None) -> None:
        self._dispatcher.queues_served(queues)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the gateway's loops while the block runs; once only. With the loops every connection ends.

        Raises:
            UnreachableError: the database is away at the start.
            EdgeWsError: a loop cannot go on (in a group).
        """
        await self._reaper.announce()
        self.events.note("gateway_started", words=f"gateway {self.id} on {self._settings.hostname}")
        self._loop = asyncio.get_running_loop()
        self._store.keep_connections()
        self._store.picture.on_news(self._watched.wrote)
        self._watch.start()
        try:
            async with anyio.create_task_group() as tasks:
                for what, loop in self._loops().items():
                    tasks.start_soon(partial(self._guard.keep, what, loop, tries=TRIES))
                self._serving = True
                yield
                self._serving = False
                tasks.cancel_scope.cancel()
        finally:
            self._serving = False
            # Else a worker would hold on to a gateway that hears it, and does nothing.
            self._websockets.end(Close(CloseCode.RESTARTING, "the gateway begins anew"))
            self.end_polls()
            self._store.picture.on_news(None)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._watch.stop)
                kept = None if self.figures.is_empty else self.figures.as_text()
                await anyio.to_thread.run_sync(self._retire, kept)
                self._store.release_connections()

    def _loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what runs for ever, by name."""
        told = {} if self._telemetry is None else {"the telling of metrics and traces": self._telemetry.run}
        return told | {
            "the dispatch of jobs and wishes": partial(self._dispatcher.run, lambda: self._watch.hears),
            "the writing of reports": self._reports.run_reports,
            "the writing of logs": self._reports.run_logs,
            "the writing of what workers say of themselves": self._reports.run_others,
            "the timers of WebSockets": self._websockets.tick_for_ever,
            "the watch over polls": self._polls.watch_for_ever,
            "the settling of jobs": self._reaper.settle_for_ever,
            "the writing of what workers say of their machines": self._fact_notes.run,
            "the gateway's heartbeat": self._reaper.beat_for_ever,
            "the figures by minute": partial(self.figures.keep_for_ever, lambda: self._watch.wakeup.by),
            "the writing of events": self.events.write_for_ever,
            "the ending of maintenance": self._ends.run,
            "the moving of logs": self._reaper.move_logs_for_ever,
            "the showing of running logs": self._running_logs.copy_for_ever,
            "the watch over tokens": self._token_watch.run,
            "the fleet's picture": self._watched.run,
            "the news for other gateways": self._watched.tell_for_ever,
            "the fetching of an identity provider's keys": self._credentials.fetch_keys_for_ever,
        }

    @property
    def draining(self) -> bool:
        """Whether the gateway is leaving: no jobs, no new workers."""
        return self._draining

    async def drain(self, within_s: float) -> None:
        """Hand out no more jobs and send the workers elsewhere; return once they are gone, or cut off.

        Call it while `running()` is open: their reports are taken to the last.
        """
        self._draining = self._polls.draining = True
        self._dispatcher.stop()
        self._end_streams()
        await send_away(self._hub, within_s)
        self._polls.end()

    def end_polls(self) -> None:
        """Let every open poll, and every stream, end at once: else a server that ends would wait for them."""
        self._polls.end()
        self._end_streams()

    def _end_streams(self) -> None:
        for one in self._admin:
            one.end_streams()

    def _changed(self, changes: Changes) -> None:
        """Take what the watch tells, on its thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._heard, changes)

    def _heard(self, changes: Changes) -> None:
        with self._guard.contained("a change that the database told of"):
            self._take_changes(changes)

    def _take_changes(self, changes: Changes) -> None:
        self._dispatcher.heard(changes)
        self._watched.heard(changes)
        if changes.tokens or changes.everything:
            self._token_watch.changed()
        for claim, worker in changes.deleted:
            link = self._hub.get(worker)
            if link is not None and claim in link.slots:
                # As a report of the claim would be answered; what was not started yet is dropped there.
                link.send(Stale(claim=claim))
                self._hub.release(link, claim)

    def _retire(self, figures: str | None) -> None:
        self.events.note("gateway_ended", words=f"gateway {self.id} on {self._settings.hostname}")
        try:
            self._store.liveness.retire(self.id, figures)
            self.events.flush()
        except UnreachableError:
            # Its row shows a gateway that was last seen now; it is purged later.
            return

    async def _serve(self, websocket: WebSocket) -> None:
        if self._draining:
            # Over a connection that was made before: the listening socket is closed first.
            answer = refuse_worker(Refusal.UNAVAILABLE, _DRAINING, RETRY_AFTER_S)
            await websocket.send_denial_response(answer)
            return
        await self._websockets.serve(websocket)

    async def metrics(self) -> bytes:
        """Return what Prometheus is shown; with the fleet's values, if they are this gateway's to show."""
        info = self._settings.hostname, str(os.getpid()), *map(self._version, ("edge_ws", "airflow"))
        copied = copy((self.id, *info), self.figures, self._hub, self._guard.count, time.monotonic())
        return await self._rendering.run(self._render, copied)

    def _version(self, of: str) -> str:
        return self._settings.versions.get(of, "")

    def _render(self, copied: Copy) -> bytes:
        try:
            if time.monotonic() >= self._counted_at + FLEET_AGAIN_S:
                # It reads every worker's row: whoever asks more often is told the same.
                self._counted = fleet_facts(self._store, self.id)
                self._counted_at = time.monotonic()
            copied.fleet = self._counted
        except UnreachableError as error:
            log.warning(
                "The metrics lack the values of the whole fleet, as the database cannot be read: %s", error
            )
        return self._metrics.render(copied)

    def why_not(self) -> str | None:
        """Return why no job can be handed out now, None if it can."""
        if not self._serving:
            return "the gateway is starting or stopping"
        if self._draining:
            return _DRAINING
        silent_s = self._reaper.unbeaten_s(anyio.current_time())
        if silent_s > BEATS_MISSED * self._settings.timers.heartbeat_s:
            return f"the gateway has not reached its database for {silent_s:.0f} s"
        return None

    async def _health(self, request: Request) -> Response:  # noqa: ARG002
        why_not = self.why_not()
        if why_not is not None:
            return refuse_worker(Refusal.UNAVAILABLE, why_not, RETRY_AFTER_S)
        return JSONResponse(
            {
                "edge_ws": "gateway",
                "status": "ok",
                "gateway": self.id,
                "protocol": PROTOCOL,
                "oldest_protocol": OLDEST_PROTOCOL,
                "workers": len(self._hub),
                "wakeup": self._watch.wakeup.by,
                "wakeup_since": datetime.fromtimestamp(self._watch.wakeup.since, UTC).isoformat(),
                "versions": self._settings.versions,
            }
        )

    async def _upgrade_required(self, request: Request) -> Response:  # noqa: ARG002
        """Answer a plain GET where a WebSocket was meant: a proxy has taken the Upgrade header away."""
        headers = {"upgrade": "websocket", "connection": "upgrade"}
        sentence = "this path takes WebSocket connections only"
        return refusal(426, http.UPGRADE_REQUIRED, sentence, headers=headers)
