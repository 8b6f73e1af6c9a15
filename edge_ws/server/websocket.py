"""Workers' WebSockets: one conversation each, between the pure session, `Workers` and the reports.

The only module of the gateway that knows WebSockets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import NoReturn

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from edge_ws.errors import (
    EdgeWsError,
    LocalProtocolError,
    RefusedError,
    RemoteProtocolError,
    UnreachableError,
)
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Beat, Hello, Refusal, Refused, ServerFrame, WorkerFrame
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.server.answers import FAILED, answer_to
from edge_ws.server.hub import Link
from edge_ws.server.workers import Workers
from edge_ws.store.records import Principal
from edge_ws.texts import words

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 1.0
TICK_S = 0.5
"""How late a timer may be."""
TURN = 32
"""Frames of one connection, after which others have their turn on the event loop."""


class WebSockets:
    """Takes workers' WebSockets, one call of `serve` each."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._conversations: set[_Conversation] = set()
        self._end: Close | None = None
        """How connections end, once all do."""

    async def serve(self, websocket: WebSocket) -> None:
        """Authenticate, accept, and serve until the connection ends."""
        try:
            principal = await self._workers.authenticate(websocket)
        except (RefusedError, UnreachableError) as error:
            code = error.code if isinstance(error, RefusedError) else Refusal.UNAVAILABLE.value
            self._workers.refused(websocket, code, str(error))
            await websocket.send_denial_response(answer_to(error))
            return
        if (busy := self._workers.begin_greeting(websocket, principal)) is not None:
            await websocket.send_denial_response(busy)
            return
        try:
            await websocket.accept()
            conversation = _Conversation(self._workers, websocket, principal)
            self._conversations.add(conversation)
            if self._end is not None:
                conversation.close(self._end)
            try:
                await conversation.run()
            finally:
                self._conversations.discard(conversation)
        finally:
            self._workers.greeted(websocket)

    async def tick_for_ever(self) -> NoReturn:
        """Serve the timers of all connections: one task for all costs a thousand idle ones nothing."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._workers.told.flush(now)
            for conversation in list(self._conversations):
                with self._workers.guard.contained("the timers of a connection"):
                    conversation.tick(now)

    def end(self, close: Close) -> None:
        """Close every connection, and those that are about to be made: nobody serves them any more."""
        self._end = close
        for conversation in list(self._conversations):
            conversation.close(close)


class _Conversation:
    """One open WebSocket: a reader and a writer, which end together; `Workers` serves its timers."""

    def __init__(self, workers: Workers, websocket: WebSocket, principal: Principal) -> None:
        self._workers = workers
        self._websocket = websocket
        self._session = ServerSession(time.monotonic())
        self._link = Link(principal, self._session, "websocket")
        self._link.address = websocket.client.host if websocket.client is not None else None
        self._frames = 0
        self._is_taking = False
        """Whether what was read is not taken yet, so that nothing more is read."""

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

    def close(self, close: Close) -> None:
        """Write what is queued, then close."""
        self._link.close(close)

    def tick(self, now: float) -> None:
        """Do what is due by the clock: a heartbeat, or the end of a silent connection."""
        deadline = self._session.deadline()
        if deadline is None or deadline > now:
            return
        due = self._session.tick(now)
        if due.close is not None and self._is_taking:
            # A worker that is not read is not silent.
            self._session.heard(now)
        elif due.close is not None:
            self._link.close(due.close)
        elif due.beat:
            self._link.send(Beat())

    async def _read(self) -> tuple[Refusal, EdgeWsError, CloseCode] | None:
        """Take frames until the worker leaves; return why it is refused, if it is."""
        try:
            while not self._link.left:
                frames = await self._receive()
                self._is_taking = True
                for frame in frames:
                    if isinstance(frame, Hello):
                        registered = await self._workers.greet(self._link, frame)
                        await self._workers.joined(self._link, registered)
                        self._workers.greeted(self._websocket)
                    else:
                        await self._workers.take(self._link, frame)
                    self._frames += 1
                    if self._frames % TURN == 0:
                        await asyncio.sleep(0)
                self._is_taking = False
        except WebSocketDisconnect:
            return None
        except RemoteProtocolError as error:
            return Refusal.PROTOCOL, error, CloseCode(error.close_code)
        except RefusedError as error:
            return Refusal(error.code), error, CloseCode.REFUSED
        except UnreachableError as error:
            return Refusal.UNAVAILABLE, error, CloseCode.UNAVAILABLE
        except Exception as error:  # noqa: BLE001 - it costs this connection, no more
            self._workers.guard.note(f"a connection of worker {self._link.name}", error)
            return Refusal.UNAVAILABLE, EdgeWsError(FAILED), CloseCode.UNAVAILABLE
        return None

    async def _receive(self) -> tuple[WorkerFrame, ...]:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("text")
        frames = await self._workers.decode(data if data is not None else message["bytes"])
        now = time.monotonic()
        was_prompt = self._session.is_prompt(now)
        for frame in frames:
            self._session.receive(frame, now)
        if not was_prompt:
            self._workers.back_in_time()
        return frames

    def _refuse(self, code: Refusal, error: EdgeWsError, close: CloseCode) -> None:
        """Have the writer say why, then close; the sentence is for the worker's terminal."""
        # It may hold what the worker has sent: the name of a queue.
        name, sentence = self._link.name, words(str(error))
        self._workers.chronicle.refused(code.value, sentence, worker=name, address=None, is_known=True)
        told = "Worker %s is refused (%s): %s"
        self._workers.told.say(logging.WARNING, name, told, name, code.value, sentence)
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
            told = "Worker %s does not read; its connection is closed"
            self._workers.told.say(logging.WARNING, link.name, told, link.name)
            await self._close(Close(CloseCode.TOO_SLOW, "no bytes taken in time"))
        except (WebSocketDisconnect, RuntimeError):
            # The peer left while we wrote; the reader notices as well.
            return
        except Exception as error:  # noqa: BLE001 - it costs this connection, no more
            self._workers.guard.note(f"a message to worker {self._link.name}", error)
            await self._close(Close(CloseCode.UNAVAILABLE, FAILED))

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
