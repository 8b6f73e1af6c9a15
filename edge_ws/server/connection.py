"""One worker's WebSocket: drives the pure session, feeds the reports, writes what the link queues.

The only module of the gateway that knows WebSockets.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

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
    Accept,
    Beat,
    Bye,
    Finished,
    Hello,
    Log,
    NotStarted,
    PhaseIs,
    Refusal,
    Refuse,
    Refused,
    ServerFrame,
    Started,
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

_AT_ONCE = (Accept, Refuse, Started, Finished, NotStarted, PhaseIs, Log)
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

    async def serve(self, websocket: WebSocket) -> None:
        """Authenticate, accept, and serve until the connection ends."""
        try:
            principal = await self._desk.run(
                auth.authenticate,
                self._store,
                websocket.headers.get(auth.TOKEN_HEADER),
                websocket.headers.get(auth.WORKER_HEADER),
            )
        except RefusedError as error:
            await websocket.send_denial_response(refusal_response(Refusal(error.code), str(error)))
            return
        except UnreachableError as error:
            log.warning("A worker is told to come back: %s", error)
            sentence = "the gateway cannot reach its database"
            await websocket.send_denial_response(refusal_response(Refusal.UNAVAILABLE, sentence, 5.0))
            return
        await websocket.accept()
        await _Conversation(self, websocket, principal).run()

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
        link.concurrency, link.queues = hello.inventory.concurrency, hello.inventory.queues
        link.slots = {one.claim: one.slots for one in registered.open}
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
        """Hand a statement to the reports; a database that is away closes nothing."""
        try:
            await self._reports.take(link, frame)
        except UnreachableError as error:
            # No answer is given, so the worker says it again; see Outbox on its side.
            log.warning("A report of %s waits: %s", link.name, error)

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
    """One open WebSocket: a reader, a writer and a timer, which end together."""

    def __init__(self, workers: Workers, websocket: WebSocket, principal: Principal) -> None:
        self._workers = workers
        self._websocket = websocket
        self._session = ServerSession(anyio.current_time())
        self._link = Link(principal, self._session, "websocket")
        self._written = anyio.Event()

    async def run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                tasks.start_soon(self._watch)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._workers.gone(self._link)

    async def _read(self) -> None:
        refusal: tuple[Refusal, EdgeWsError, CloseCode] | None = None
        try:
            await self._listen()
        except* WebSocketDisconnect:
            pass
        except* RemoteProtocolError as group:
            fault = _first(group)
            assert isinstance(fault, RemoteProtocolError)
            refusal = (Refusal.PROTOCOL, fault, CloseCode(fault.close_code))
        except* RefusedError as group:
            error = _first(group)
            assert isinstance(error, RefusedError)
            refusal = (Refusal(error.code), error, CloseCode.REFUSED)
        except* UnreachableError as group:
            refusal = (Refusal.UNAVAILABLE, _first(group), CloseCode.UNAVAILABLE)
        if refusal is not None:
            await self._refuse(*refusal)

    async def _listen(self) -> None:
        """Take frames until the worker leaves; what it said before is taken to the end."""
        sender, receiver = anyio.create_memory_object_stream[WorkerFrame](64)
        async with anyio.create_task_group() as tasks, sender:
            tasks.start_soon(self._take, receiver)
            left = False
            while not left:
                for frame in await self._receive():
                    if isinstance(frame, Hello):
                        await self._greet(frame)
                    elif isinstance(frame, _AT_ONCE):
                        # They only join a batch: nothing to wait for but a full one.
                        await self._workers.take(self._link, frame)
                    else:
                        # These ask the database one by one; the next frames must not wait for that.
                        await sender.send(frame)
                    left = left or isinstance(frame, Bye)

    async def _receive(self) -> tuple[WorkerFrame, ...]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("text")
        frames = codec.decode_batch_from_worker(data if data is not None else message["bytes"])
        now = anyio.current_time()
        was_prompt = self._session.is_prompt(now)
        for frame in frames:
            self._session.receive(frame, now)
        if not was_prompt:
            self._workers.back_in_time()
        return frames

    async def _take(self, receiver: anyio.abc.ObjectReceiveStream[WorkerFrame]) -> None:
        async with receiver:
            async for frame in receiver:
                await self._workers.take(self._link, frame)

    async def _greet(self, hello: Hello) -> None:
        registered = await self._workers.greet(self._link, hello)
        await self._workers.joined(self._link, registered)

    async def _refuse(self, code: Refusal, error: BaseException, close: CloseCode) -> None:
        """Say why, then close; the sentence is for the worker's terminal."""
        log.warning("Worker %s is refused (%s): %s", self._link.name, code.value, error)
        sentence = str(error)
        self._link.send(Refused(code=code, sentence=sentence, retry_after_s=None))
        self._link.close(Close(close, sentence))
        # The writer has until the send deadline to bring it out.
        with anyio.move_on_after(self._workers.send_deadline_s):
            await self._written.wait()

    async def _write(self) -> None:
        """Write what the link queues, each frame within the deadline; then close if asked to."""
        link = self._link
        try:
            while True:
                await link.wait_outgoing()
                frames, link.outgoing = link.outgoing, deque()
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
        finally:
            self._written.set()

    async def _send(self, frames: Iterable[ServerFrame]) -> None:
        """Write the frames in as few messages as may be."""
        now = anyio.current_time()
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
            with anyio.fail_after(self._workers.send_deadline_s):
                await self._websocket.send_text(message.decode())

    async def _close(self, close: Close) -> None:
        # A close frame's reason holds 123 bytes.
        reason = close.reason.encode()[:120].decode(errors="ignore")
        with anyio.move_on_after(1.0):
            await self._websocket.close(close.code.value, reason)

    async def _watch(self) -> None:
        """Send heartbeats and close a silent connection."""
        while True:
            deadline = self._session.deadline()
            now = anyio.current_time()
            await anyio.sleep(min(1.0, max(0.01, (deadline or now + 1.0) - now)))
            due = self._session.tick(anyio.current_time())
            if due.close is not None:
                self._link.close(due.close)
                return
            if due.beat:
                self._link.send(Beat())


def _first(group: BaseExceptionGroup[EdgeWsError]) -> EdgeWsError:
    """Return the first error of a group."""
    for error in group.exceptions:
        return error if isinstance(error, EdgeWsError) else _first(error)
    raise AssertionError("an empty group")
