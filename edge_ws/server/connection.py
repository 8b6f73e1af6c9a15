"""Workers' WebSockets: who is let in, the pure session, statements to the reports, frames to the worker.

The only module of the gateway that knows WebSockets.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable
from typing import NoReturn

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_ws.errors import (
    EdgeWsError,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
    TokenRefusedError,
    UnreachableError,
)
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Beat,
    Bye,
    Hello,
    Refusal,
    Refused,
    ServerFrame,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.http import TOKEN_HEADER, WORKER_HEADER
from edge_ws.protocol.ids import CONTROL, OLDEST_PROTOCOL, OUTCOMES, PROTOCOL, GatewayId
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.server import auth
from edge_ws.server.answers import answer_to, refuse_worker
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub, Link, wish_frame
from edge_ws.server.reports import Answers, Reports, in_force, standing, steady
from edge_ws.server.work import Desk
from edge_ws.store.records import Principal, Registered, Registration, Room
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 1.0
REFUSAL_TOLD_S = 600.0
"""Between two lines of the log about one worker and its refused token."""
REFUSALS_KEPT = 1000
"""So many are remembered for that."""
GREETED_AT_ONCE = 50
"""Connections that are being let in; more would wait for so long that their workers give up and try again."""
COME_BACK_PER_S = 100.0
"""Others are told when to come back, so many a second: thousands return at once after a restart."""
TICK_S = 0.5
"""How late a timer may be."""


class Workers:
    """Takes workers' WebSockets, one call of `serve` each."""

    def __init__(
        self, store: Store, hub: Hub, reports: Reports, settings: GatewaySettings, gateway: GatewayId
    ) -> None:
        self._store = store
        self._hub = hub
        self._reports = reports
        self._settings = settings
        self._gateway = gateway
        self._desk = Desk(threads=2)
        self._conversations: set[_Conversation] = set()
        self._greeting: set[object] = set()
        """Connections that are being let in."""
        self._refused_at: dict[tuple[str, str], float] = {}
        """Worker and token -> when their refusal was last told."""
        self._next_turn = 0.0
        """When the next one that is turned away may come back."""

    async def serve(self, websocket: WebSocket) -> None:
        """Authenticate, accept, and serve until the connection ends."""
        if (busy := self.begin_greeting(websocket)) is not None:
            await websocket.send_denial_response(busy)
            return
        try:
            conversation = await self._let_in(websocket)
            if conversation is not None:
                self._conversations.add(conversation)
                try:
                    await conversation.run()
                finally:
                    self._conversations.discard(conversation)
        finally:
            self.greeted(websocket)

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
            return await self._desk.run(auth.authenticate, self._store, secret, worker)
        except TokenRefusedError as error:
            self._tell_refused(worker or "", error)
            raise

    def _tell_refused(self, worker: str, error: TokenRefusedError) -> None:
        """Say once in a while who comes with a token that is good no more; strangers fill no log."""
        now = time.monotonic()
        if now - self._refused_at.get((worker, error.name), -math.inf) < REFUSAL_TOLD_S:
            return
        if len(self._refused_at) >= REFUSALS_KEPT:
            self._refused_at.clear()
        self._refused_at[worker, error.name] = now
        log.warning("Worker %s is refused: its token %s: %s", worker, error.name, error)

    async def _let_in(self, websocket: WebSocket) -> _Conversation | None:
        """Accept the connection of a worker whose credential is good; else refuse it."""
        try:
            principal = await self.authenticate(websocket.headers)
        except (RefusedError, UnreachableError) as error:
            await websocket.send_denial_response(answer_to(error))
            return None
        await websocket.accept()
        return _Conversation(self, websocket, principal)

    def greeted(self, newcomer: object) -> None:
        """Note that the worker is let in, or is not: the next one may come."""
        self._greeting.discard(newcomer)

    async def tick_for_ever(self) -> NoReturn:
        """Serve the timers of all connections: one task for all costs a thousand idle ones nothing."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for conversation in list(self._conversations):
                conversation.tick(now)

    # What a conversation needs

    async def greet(self, link: Link, hello: Hello) -> Registered:
        """Register the worker and queue its welcome."""
        link.principal = auth.admit(link.principal, hello)
        if hello.oldest_protocol > PROTOCOL or hello.protocol < OLDEST_PROTOCOL:
            raise RefusedError(
                Refusal.VERSION.value,
                f"this server speaks protocol {OLDEST_PROTOCOL} to {PROTOCOL}, the worker "
                f"{hello.oldest_protocol} to {hello.protocol}; upgrade the older of the two",
            )
        queues = hello.queues
        if queues is None and link.principal.queues is not None:
            queues = tuple(sorted(link.principal.queues))
        registered = await self._desk.run(
            self._store.register,
            link.principal,
            Registration(
                gateway=self._gateway,
                transport=link.transport,
                concurrency=hello.concurrency,
                queues=queues,
                inventory=hello.inventory,
                sysinfo=hello.sysinfo,
                life=hello.life,
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
            )
        )
        return registered

    async def joined(self, link: Link, registered: Registered, *, is_new: bool = True) -> None:
        """Open the worker to dispatch; one that is not new was connected to another gateway a moment ago."""
        await self._reports.compare(link, registered.open)
        self._hub.add(link)
        log.log(
            logging.INFO if is_new else logging.DEBUG,
            "Worker %s connected by %s",
            link.name,
            link.transport,
        )

    async def take(self, link: Link, frame: WorkerFrame, answers: Answers | None = None) -> None:
        """Hand a statement to the reports; see there."""
        await self._reports.take(link, frame, answers)

    async def forget_ended(self, link: Link) -> None:
        """Give back the slots of claims that ended without a word to this gateway."""
        noted = list(link.slots)
        alive = await self._desk.run(self._store.open_ids, [link.name])
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
            if await self._desk.run(self._store.disconnected, principal, connection_id, left=left):
                log.info("Worker %s %s", principal.worker, "left" if left else "is disconnected")
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


class _Conversation:
    """One open WebSocket: a reader and a writer, which end together; `Workers` serves its timers."""

    def __init__(self, workers: Workers, websocket: WebSocket, principal: Principal) -> None:
        self._workers = workers
        self._websocket = websocket
        self._session = ServerSession(time.monotonic())
        self._link = Link(principal, self._session, "websocket")

    async def run(self) -> None:
        reader, writer = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done() and (refusal := reader.result()) is not None:
                self._refuse(*refusal)
                await asyncio.wait({writer}, timeout=self._workers.send_deadline_s)
            elif not reader.done():
                # It is closed from here; the peer may confirm that.
                await asyncio.wait({reader}, timeout=CLOSE_WITHIN_S)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            with anyio.CancelScope(shield=True):
                await self._workers.gone(self._link)

    def tick(self, now: float) -> None:
        """Do what is due by the clock: a heartbeat, or the end of a silent connection."""
        deadline = self._session.deadline()
        if deadline is None or deadline > now:
            return
        due = self._session.tick(now)
        if due.close is not None:
            self._link.close(due.close)
        elif due.beat:
            self._link.send(Beat())

    async def _read(self) -> tuple[Refusal, EdgeWsError, CloseCode] | None:
        """Take frames until the worker leaves; return why it is refused, if it is."""
        try:
            while not self._link.left:
                for frame in await self._receive():
                    if isinstance(frame, Hello):
                        registered = await self._workers.greet(self._link, frame)
                        await self._workers.joined(self._link, registered)
                        self._workers.greeted(self._websocket)
                    else:
                        await self._workers.take(self._link, frame)
        except WebSocketDisconnect:
            return None
        except RemoteProtocolError as error:
            return Refusal.PROTOCOL, error, CloseCode(error.close_code)
        except RefusedError as error:
            return Refusal(error.code), error, CloseCode.REFUSED
        except UnreachableError as error:
            return Refusal.UNAVAILABLE, error, CloseCode.UNAVAILABLE
        return None

    async def _receive(self) -> tuple[WorkerFrame, ...]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("text")
        frames = codec.decode_batch_from_worker(data if data is not None else message["bytes"])
        now = time.monotonic()
        was_prompt = self._session.is_prompt(now)
        for frame in frames:
            self._session.receive(frame, now)
        if not was_prompt:
            self._workers.back_in_time()
        return frames

    def _refuse(self, code: Refusal, error: EdgeWsError, close: CloseCode) -> None:
        """Have the writer say why, then close; the sentence is for the worker's terminal."""
        log.warning("Worker %s is refused (%s): %s", self._link.name, code.value, error)
        sentence = str(error)
        self._link.send(Refused(code=code, sentence=sentence, retry_after_s=None))
        self._link.close(Close(close, sentence))

    async def _write(self) -> None:
        """Write what the link queues, each message within the deadline; then close if asked to."""
        link = self._link
        try:
            while True:
                await link.wait_outgoing()
                frames, link.outgoing = link.outgoing, []
                await self._send(frames)
                if link.closing is not None:
                    await self._close(link.closing)
                    return
        except TimeoutError:
            log.warning("Worker %s takes no bytes; its connection is closed", link.name)
            await self._close(Close(CloseCode.TOO_SLOW, "no bytes taken in time"))
        except (WebSocketDisconnect, RuntimeError):
            # The peer left while we wrote; the reader notices as well.
            return

    async def _send(self, frames: Iterable[ServerFrame]) -> None:
        """Write the frames in as few messages as may be."""
        now = time.monotonic()
        allowed = []
        for frame in frames:
            try:
                self._session.sending(frame, now)
            except LocalProtocolError as error:
                # A refusal before the greeting has no place in the protocol: the close code tells.
                log.debug("Not sent to %s: %s", self._link.name, error)
            else:
                allowed.append(frame)
        for message in codec.pack(allowed):
            async with asyncio.timeout(self._workers.send_deadline_s):
                await self._websocket.send_text(message.decode())

    async def _close(self, close: Close) -> None:
        # A close frame's reason holds 123 bytes.
        reason = close.reason.encode()[:120].decode(errors="ignore")
        with anyio.move_on_after(CLOSE_WITHIN_S):
            await self._websocket.close(close.code.value, reason)
