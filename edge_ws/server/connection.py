"""One worker's WebSocket: drives the pure session, feeds the reports, writes what the link queues.

The only module of the gateway that knows WebSockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import NoReturn

import anyio
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_ws.errors import (
    EdgeWsError,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)
from edge_ws.protocol import codec
from edge_ws.protocol.frames import (
    Beat,
    Hello,
    Refusal,
    Refused,
    ServerFrame,
    Welcome,
    Wish,
    WorkerFrame,
)
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, GatewayId
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.server import auth
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub, Link
from edge_ws.server.reports import Reports
from edge_ws.server.work import Desk
from edge_ws.store.records import Principal, Registered, Registration
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 1.0
GREETED_AT_ONCE = 50
"""Connections that are being let in; more would wait for so long that their workers give up and try again."""
COME_BACK_PER_S = 100.0
"""Others are told when to come back, so many a second: thousands return at once after a restart."""
TICK_S = 0.5
"""How late a timer may be."""
_STATUS = {Refusal.TOKEN: 401, Refusal.NOT_ADMITTED: 403, Refusal.UNAVAILABLE: 503}


def refusal_response(code: Refusal, sentence: str, retry_after_s: float | None = None) -> JSONResponse:
    """Return the HTTP answer of a refusal, marked as ours."""
    body = {"error": code.value, "sentence": sentence, "retry_after_s": retry_after_s}
    headers = {auth.ERROR_HEADER: code.value}
    if retry_after_s is not None:
        headers["retry-after"] = str(round(retry_after_s))
    return JSONResponse(body, status_code=_STATUS.get(code, 400), headers=headers)


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
        self._greeting: set[WebSocket] = set()
        """Those that are being let in."""
        self._next_turn = 0.0
        """When the next one that is turned away may come back."""

    async def serve(self, websocket: WebSocket) -> None:
        """Authenticate, accept, and serve until the connection ends."""
        if len(self._greeting) >= GREETED_AT_ONCE:
            await self._turn_away(websocket)
            return
        self._greeting.add(websocket)
        try:
            conversation = await self._let_in(websocket)
            if conversation is not None:
                self._conversations.add(conversation)
                try:
                    await conversation.run()
                finally:
                    self._conversations.discard(conversation)
        finally:
            self._greeting.discard(websocket)

    async def _turn_away(self, websocket: WebSocket) -> None:
        """Tell the worker when it is its turn, at next to no cost."""
        now = time.monotonic()
        self._next_turn = max(now + 1.0, self._next_turn + 1.0 / COME_BACK_PER_S)
        sentence = "the gateway is letting many workers in at the moment"
        retry_after_s = round(self._next_turn - now, 2)
        await websocket.send_denial_response(refusal_response(Refusal.UNAVAILABLE, sentence, retry_after_s))

    async def _let_in(self, websocket: WebSocket) -> _Conversation | None:
        """Accept the connection of a worker whose credential is good; else refuse it."""
        try:
            principal = await self._desk.run(
                auth.authenticate,
                self._store,
                websocket.headers.get(auth.TOKEN_HEADER),
                websocket.headers.get(auth.WORKER_HEADER),
            )
        except RefusedError as error:
            await websocket.send_denial_response(refusal_response(Refusal(error.code), str(error)))
            return None
        except UnreachableError as error:
            log.warning("A worker is told to come back: %s", error)
            sentence = "the gateway cannot reach its database"
            await websocket.send_denial_response(refusal_response(Refusal.UNAVAILABLE, sentence, 5.0))
            return None
        await websocket.accept()
        return _Conversation(self, websocket, principal)

    def greeted(self, websocket: WebSocket) -> None:
        """Note that the worker is let in: the next one may come."""
        self._greeting.discard(websocket)

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
            ),
        )
        link.connection_id = registered.connection
        link.inventory = hello.inventory
        link.apply(hello.inventory.concurrency, hello.inventory.queues)
        link.hold((one.claim, one.slots) for one in registered.open)
        link.wish_revision = registered.wish.revision
        wish = Wish(
            revision=registered.wish.revision,
            concurrency=registered.wish.concurrency,
            queues=registered.wish.queues,
        )
        link.send(
            Welcome(
                protocol=min(PROTOCOL, hello.protocol),
                gateway=self._gateway,
                timers=self._settings.timers,
                wish=wish,
                execution_api_url=self._settings.execution_api_url,
                versions=self._settings.versions,
            )
        )
        return registered

    async def joined(self, link: Link, registered: Registered) -> None:
        """Open the worker to dispatch."""
        await self._reports.compare(link, registered.open)
        self._hub.add(link)
        log.info("Worker %s connected by %s", link.name, link.transport)

    async def take(self, link: Link, frame: WorkerFrame) -> None:
        """Hand a statement to the reports."""
        await self._reports.take(link, frame)

    async def gone(self, link: Link) -> None:
        """Close the worker to dispatch and free what it had not accepted."""
        self._hub.remove(link)
        if not link.connection_id:
            return
        log.info("Worker %s %s", link.name, "left" if link.left else "is disconnected")
        try:
            await self._desk.run(self._store.disconnected, link.principal, link.connection_id, left=link.left)
        except UnreachableError as error:
            log.warning("The end of %s's connection is not recorded: %s", link.name, error)
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
