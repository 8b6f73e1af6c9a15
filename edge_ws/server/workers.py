"""Which workers are let in, by any transport: how many at once, by which credential, with which welcome."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from functools import partial

import anyio
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from edge_ws.errors import RefusedError, TokenRefusedError, UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Bye, Hello, Refusal, Renew, Welcome, WorkerFrame
from edge_ws.protocol.http import CONNECTION_HEADER, TOKEN_HEADER, WORKER_HEADER
from edge_ws.protocol.ids import (
    CONTROL,
    DEADLINE,
    OLDEST_PROTOCOL,
    OUTCOMES,
    PROTOCOL,
    RENEWAL,
    GatewayId,
    WorkerName,
)
from edge_ws.server import auth
from edge_ws.server.answers import answer_to
from edge_ws.server.config import GatewaySettings
from edge_ws.server.credentials import Credentials
from edge_ws.server.entrance import CrowdedError, Entrance, Turns
from edge_ws.server.hub import Hub, Link, wish_frame
from edge_ws.server.reports import Answers, Reports
from edge_ws.server.standing import bounded, in_force, standing, steady
from edge_ws.server.threads import ThreadLimit
from edge_ws.server.worker_log import WorkerLog
from edge_ws.store.records import Principal, Registered, Registration, Room
from edge_ws.store.workers import WorkerStore

log = logging.getLogger(__name__)

REFUSAL_TOLD_S = 600.0
"""Between two lines of the log about one worker and its refused token."""
REFUSALS_KEPT = 1000
"""So many are remembered for that."""
GREETED_AT_ONCE = 50
"""Connections that are being let in; more would wait for so long that their workers give up and try again."""
JUDGED_S = 0.5
"""A credential counts for so long; what takes longer to come is judged again before it is heard."""
GREETED_OF_ONE = 3
"""Of them, those of one name: a connection that says nothing keeps its place for seconds."""


class Workers:
    """Lets workers in, and takes leave of them."""

    def __init__(  # noqa: PLR0917 - each is another kind of thing
        self,
        store: WorkerStore,
        hub: Hub,
        reports: Reports,
        settings: GatewaySettings,
        gateway: GatewayId,
        credentials: Credentials,
        guard: FaultGuard | None = None,
        told: WorkerLog | None = None,
    ) -> None:
        self.told = told or WorkerLog(log)
        """Where what workers do is logged."""
        self.guard = guard or FaultGuard(log)
        """Contains what one connection raises."""
        self._store = store
        self._hub = hub
        self._reports = reports
        self._settings = settings
        self._gateway = gateway
        self._credentials = credentials
        self._threads = ThreadLimit(threads=2)
        self._decoder = ThreadLimit(threads=1)
        self._entrance = Entrance()
        self._greeting: dict[object, WorkerName] = {}
        """Connections that are being let in, and whose they are."""
        self._refused_at: dict[tuple[str, str], float] = {}
        """Worker and token -> when their refusal was last told."""
        self._turns = Turns()

    def begin_greeting(self, newcomer: object, principal: Principal) -> JSONResponse | None:
        """Note that somebody is being let in, until `greeted`; else return the answer that says when to come.

        It costs next to nothing: thousands may come at once. Only who has a good credential may ask for it.
        """
        of_one = sum(name == principal.worker for name in self._greeting.values())
        if len(self._greeting) < GREETED_AT_ONCE and of_one < GREETED_OF_ONE:
            self._greeting[newcomer] = principal.worker
            return None
        return answer_to(self._come_back())

    def _come_back(self) -> RefusedError:
        """Return the refusal that gives somebody a turn of his own to come back."""
        sentence = "the gateway is letting many workers in at the moment"
        after_s = self._turns.come_back_s(time.monotonic())
        return RefusedError(Refusal.UNAVAILABLE.value, sentence, retry_after_s=after_s)

    async def authenticate(self, connection: HTTPConnection) -> Principal:
        """Return whom a request's headers name, by their secret; nothing else of it is looked at.

        Raises:
            RefusedError: no worker of that name may connect with this secret, or too many strangers came.
            UnreachableError: the database is away.
        """
        secret, worker = connection.headers.get(TOKEN_HEADER), connection.headers.get(WORKER_HEADER)
        address = connection.client.host if connection.client is not None else None
        verdict = partial(self._credentials.judge, secret, worker)
        try:
            return await self._entrance.judge(f"{worker} {secret}", address, verdict)
        except CrowdedError:
            raise self._come_back() from None
        except TokenRefusedError as error:
            self._tell_refused(worker or "", error)
            raise

    async def speaker(self, caller: Principal, headers: Headers) -> Principal:
        """Return for whom a request speaks whose connection is not known here.

        Raises:
            RefusedError: its connection is not the one that has the worker's name, nor was it a moment ago.
            UnreachableError: the database is away.
        """
        connection = headers.get(CONNECTION_HEADER, "")
        site = await self._threads.run(self._store.site_of, caller, connection)
        if site is None:
            sentence = "this connection no longer speaks for the worker; its next poll opens a new one"
            raise RefusedError(Refusal.UNAVAILABLE.value, sentence)
        return replace(caller, site=site)

    async def decode(self, data: bytes | str) -> tuple[WorkerFrame, ...]:
        """Return the frames of a worker's message; what takes long to read leaves the event loop free.

        Raises:
            RemoteProtocolError: they are none.
        """
        if codec.is_heavy(data):
            return await self._decoder.run(codec.decode_batch_from_worker, data)
        return codec.decode_batch_from_worker(data)

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
        self._greeting.pop(newcomer, None)

    async def greet(self, link: Link, hello: Hello) -> Registered:
        """Register the worker and queue its welcome."""
        # It may have been revoked since the request, if the hello took its time.
        is_old = time.monotonic() - link.judged_at > JUDGED_S
        if link.principal.token_id is not None and is_old:
            link.principal = await self._threads.run(self._credentials.judge_again, link.principal)
        link.principal = auth.admit(link.principal, hello)
        sysinfo = bounded(link.name, hello.sysinfo, self.told)
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
                capabilities=frozenset({DEADLINE}.intersection(hello.capabilities)),
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
                capabilities=(CONTROL, OUTCOMES, RENEWAL),
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
        self._credentials.changed()
        level = logging.INFO if is_new else logging.DEBUG
        self.told.say(level, link.name, "Worker %s connected by %s", link.name, link.transport)

    async def take(self, link: Link, frame: WorkerFrame, answers: Answers | None = None) -> None:
        """Admit a statement, whichever way it came, and hand it to the reports, see there.

        A new credential is judged here.

        Raises:
            RemoteProtocolError: the connection may not say this.
        """
        auth.admit_statement(link.principal, frame)
        if isinstance(frame, Renew):
            to = answers or link
            to.send(await self._credentials.renew(link, frame.token))
            to.settled()
            return
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
