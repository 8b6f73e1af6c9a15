"""Which workers are let in, by any transport: how many at once, by which credential, with which welcome."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from edge_ws.errors import RefusedError, TokenRefusedError, UnreachableError
from edge_ws.guard import Guard
from edge_ws.protocol.frames import Bye, Hello, Refusal, Welcome, WorkerFrame
from edge_ws.protocol.http import CONNECTION_HEADER, TOKEN_HEADER, WORKER_HEADER
from edge_ws.protocol.ids import CONTROL, OLDEST_PROTOCOL, OUTCOMES, PROTOCOL, GatewayId
from edge_ws.server import auth
from edge_ws.server.answers import refuse_worker
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub, Link, wish_frame
from edge_ws.server.reports import Answers, Reports, bounded, in_force, standing, steady
from edge_ws.server.threads import ThreadLimit
from edge_ws.server.worker_log import WorkerLog
from edge_ws.store.records import Principal, Registered, Registration, Room
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

REFUSAL_TOLD_S = 600.0
"""Between two lines of the log about one worker and its refused token."""
REFUSALS_KEPT = 1000
"""So many are remembered for that."""
GREETED_AT_ONCE = 50
"""Connections that are being let in; more would wait for so long that their workers give up and try again."""
COME_BACK_PER_S = 100.0
"""Others are told when to come back, so many a second: thousands return at once after a restart."""


class Workers:
    """Lets workers in, and takes leave of them."""

    def __init__(  # noqa: PLR0917 - each is another kind of thing
        self,
        store: Store,
        hub: Hub,
        reports: Reports,
        settings: GatewaySettings,
        gateway: GatewayId,
        guard: Guard | None = None,
        told: WorkerLog | None = None,
        *,
        on_joined: Callable[[], None] = lambda: None,
    ) -> None:
        """Make it; `on_joined` is called when a worker has come: its token may be over soon, or be over."""
        self.told = told or WorkerLog(log)
        """Where what workers do is logged."""
        self.guard = guard or Guard(log)
        """Contains what one connection raises."""
        self._store = store
        self._on_joined = on_joined
        self._hub = hub
        self._reports = reports
        self._settings = settings
        self._gateway = gateway
        self._threads = ThreadLimit(threads=2)
        self._greeting: set[object] = set()
        """Connections that are being let in."""
        self._refused_at: dict[tuple[str, str], float] = {}
        """Worker and token -> when their refusal was last told."""
        self._next_turn = 0.0
        """When the next one that is turned away may come back."""

    def begin_greeting(self, newcomer: object) -> JSONResponse | None:
        """Note that somebody is being let in, until `greeted`; else return the answer that says when to come.

        It costs next to nothing: thousands may come at once.
        """
        if len(self._greeting) < GREETED_AT_ONCE:
            self._greeting.add(newcomer)
            return None
        now = time.monotonic()
        self._next_turn = max(now + 1.0, self._next_turn + 1.0 / COME_BACK_PER_S)
        sentence = "the gateway is letting many workers in at the moment"
        return refuse_worker(Refusal.UNAVAILABLE, sentence, round(self._next_turn - now, 2))

    async def authenticate(self, headers: Headers) -> Principal:
        """Return whom a request's headers name, by their secret.

        Raises:
            RefusedError: no worker of that name may connect with this secret.
            UnreachableError: the database is away.
        """
        secret, worker = headers.get(TOKEN_HEADER), headers.get(WORKER_HEADER)
        try:
            return await self._threads.run(auth.authenticate, self._store, secret, worker)
        except TokenRefusedError as error:
            self._tell_refused(worker or "", error)
            raise

    async def speaker(self, headers: Headers) -> Principal:
        """Return for whom a request speaks whose connection is not known here.

        Raises:
            RefusedError: as `authenticate`; or its connection is not the one that has the worker's name, nor
                was it a moment ago.
            UnreachableError: the database is away.
        """
        principal = await self.authenticate(headers)
        connection = headers.get(CONNECTION_HEADER, "")
        site = await self._threads.run(self._store.site_of, principal, connection)
        if site is None:
            sentence = "this is no connection of the worker's any more, a poll makes a new one"
            raise RefusedError(Refusal.UNAVAILABLE.value, sentence)
        return replace(principal, site=site)

    def _tell_refused(self, worker: str, error: TokenRefusedError) -> None:
        """Say once in a while who comes with a token that is good no more; strangers fill no log."""
        now = time.monotonic()
        if now - self._refused_at.get((worker, error.name), -math.inf) < REFUSAL_TOLD_S:
            return
        if len(self._refused_at) >= REFUSALS_KEPT:
            self._refused_at.clear()
        self._refused_at[worker, error.name] = now
        log.warning("Worker %s is refused: its token %s: %s", worker, error.name, error)

    def greeted(self, newcomer: object) -> None:
        """Note that the worker is let in, or is not: the next one may come."""
        self._greeting.discard(newcomer)

    async def greet(self, link: Link, hello: Hello) -> Registered:
        """Register the worker and queue its welcome."""
        # Judged again: it may have been revoked since the request.
        if link.principal.token_id is not None:
            link.admit(await self._threads.run(auth.judge_again, self._store, link.principal))
        link.admit(auth.admit(link.principal, hello))
        sysinfo = bounded(link.name, hello.sysinfo)
        if hello.oldest_protocol > PROTOCOL or hello.protocol < OLDEST_PROTOCOL:
            raise RefusedError(
                Refusal.VERSION.value,
                f"this server speaks protocol {OLDEST_PROTOCOL} to {PROTOCOL}, the worker "
                f"{hello.oldest_protocol} to {hello.protocol}; upgrade the older of the two",
            )
        queues = hello.queues
        if queues is None and link.principal.queues is not None:
            queues = tuple(sorted(link.principal.queues))
        registered = await self._threads.run(
            self._store.register,
            link.principal,
            Registration(
                gateway=self._gateway,
                transport=link.transport,
                concurrency=hello.concurrency,
                queues=queues,
                inventory=hello.inventory,
                sysinfo=sysinfo,
                life=hello.life,
                address=link.address,
                heartbeat_s=self._settings.timers.heartbeat_s,
            ),
        )
        link.connection_id = registered.connection
        link.inventory = hello.inventory
        link.apply(hello.inventory.concurrency, hello.inventory.queues)
        link.hold((one.claim, one.slots) for one in registered.open)
        link.local = hello.concurrency, queues
        link.has_control = CONTROL in hello.capabilities
        link.asked = hello.inventory.asked.number if hello.inventory.asked is not None else 0
        link.room = Room.of(hello.inventory, hello.sysinfo)
        link.disk_gb = steady(None, hello.sysinfo.get("disk_free_gb"))
        link.noted = standing(link, in_force(hello.inventory))
        self._hub.wished(link, registered.wish)
        link.wished_at = anyio.current_time()
        link.send(
            Welcome(
                protocol=min(PROTOCOL, hello.protocol),
                gateway=self._gateway,
                timers=self._settings.timers,
                wish=wish_frame(registered.wish),
                execution_api_url=self._settings.execution_api_url,
                versions=self._settings.versions,
                capabilities=(CONTROL, OUTCOMES),
                settings=self._settings.task_settings,
                twin=registered.twin,
                token_expires_in_s=registered.expires_in_s,
            )
        )
        return registered

    async def joined(self, link: Link, registered: Registered, *, is_new: bool = True) -> None:
        """Open the worker to dispatch; one that is not new was connected to another gateway a moment ago."""
        await self._reports.compare(link, registered.open)
        self._hub.add(link)
        self._on_joined()
        level = logging.INFO if is_new else logging.DEBUG
        self.told.say(level, link.name, "Worker %s connected by %s", link.name, link.transport)

    async def take(self, link: Link, frame: WorkerFrame, answers: Answers | None = None) -> None:
        """Admit a statement, whichever way it came, and hand it to the reports; see there.

        Raises:
            RemoteProtocolError: the connection may not say this.
        """
        auth.admit_statement(link.principal, frame)
        await self._reports.take(link, frame, answers)

    async def forget_ended(self, link: Link) -> None:
        """Give back the slots of claims that ended without a word to this gateway."""
        noted = list(link.slots)
        alive = await self._threads.run(self._store.open_ids, [link.name])
        for claim in noted:
            if claim not in alive:
                self._hub.release(link, claim)

    async def gone(self, link: Link) -> None:
        """Close the worker to dispatch and free what it had not accepted."""
        self._hub.remove(link)
        if link.connection_id:
            await self.disconnected(link.principal, link.connection_id, link.left)

    async def disconnected(self, principal: Principal, connection_id: str, left: Bye | None) -> None:
        """Record the end of a connection, here or at another gateway; `left`: the worker's goodbye."""
        try:
            with self.guard.contained(f"the end of a connection of worker {principal.worker}"):
                if await self._threads.run(self._store.disconnected, principal, connection_id, left=left):
                    how, name = "left" if left else "is disconnected", principal.worker
                    self.told.say(logging.INFO, name, "Worker %s %s", name, how)
        except UnreachableError as error:
            log.warning("The end of %s's connection is not recorded: %s", principal.worker, error)
        self._hub.capacity_changed()

    def back_in_time(self) -> None:
        """A worker that had missed a heartbeat is heard again: it may be offered jobs."""
        self._hub.capacity_changed()

    @property
    def send_deadline_s(self) -> float:
        """Seconds within which a worker must take a frame."""
        return self._settings.send_deadline_s
