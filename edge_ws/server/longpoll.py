"""Workers that poll: each request brings what they say, and is answered with what there is to say to them.

Serves workers that a proxy keeps from WebSockets. The only module of the gateway that knows polls. A link
outlives its polls, so a poll that returns to the same gateway costs no query.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edge_ws.errors import LocalProtocolError, RefusedError, RemoteProtocolError, UnreachableError
from edge_ws.protocol import codec
from edge_ws.protocol.frames import Beat, Bye, Hello, Refusal, ServerFrame, Status, Timers, WorkerFrame
from edge_ws.protocol.http import (
    ANSWER_HEADER,
    CLOSE_HEADER,
    CONNECTION_HEADER,
    ELSEWHERE_HEADER,
    HOLD_BEATS,
    HOLD_HEADER,
    JSON,
    TOKEN_HEADER,
    WORKER_HEADER,
)
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close, CloseCode, ServerSession
from edge_ws.server import auth
from edge_ws.server.answers import FAILED, answer_to, refuse_worker
from edge_ws.server.bodies import CLOSES, BodyError, check_json, read_whole
from edge_ws.server.config import GatewaySettings
from edge_ws.server.hub import Hub, Link
from edge_ws.server.workers import JUDGED_S, Workers
from edge_ws.store.records import Principal

log = logging.getLogger(__name__)

GONE_BEATS = 3
"""Heartbeat intervals without a poll after which the worker is gone: 45 s."""
ANSWER_WITHIN_S = 5.0
"""For the answers to what a request brought; what is not committed by then is said again by the worker."""
LOOK_S = 0.5
REQUESTS = 8
"""Requests of one worker that are taken in at a time; its daemon makes one of each kind."""
TURN = 32
"""Statements of one request, after which others have their turn on the event loop."""
AGAIN_S = 5.0
"""Told to a worker whose request has met a fault of this program."""


_REPLACED = Close(CloseCode.REPLACED, "a newer connection of this worker took over")
_Serve = Callable[[Request, tuple[WorkerFrame, ...], Principal | None], "Awaitable[Response | _Held]"]


class PollLink(Link):
    """A worker that polls here: what is queued for it waits for its next poll."""

    def __init__(self, principal: Principal, secret: str, timers: Timers) -> None:
        now = time.monotonic()
        super().__init__(principal, ServerSession(now, timers), "longpoll")
        self.heard_at = now
        self.reason: object = None
        """Why the worker polls, as it is recorded; a new one is recorded, too."""
        self._secret = _hashed(secret)
        self._held: asyncio.Future[None] | None = None
        self._answered = 0
        self._unconfirmed: list[ServerFrame] = []
        """The last answer, until the next poll says that it arrived."""

    def is_of(self, headers: Headers) -> bool:
        """Tell whether a request belongs to this connection, by its id and its secret."""
        same = headers.get(CONNECTION_HEADER) == self.connection_id
        return same and hmac.compare_digest(_hashed(headers.get(TOKEN_HEADER, "")), self._secret)

    def renew(self, principal: Principal, secret: str) -> None:
        """Go on by another secret, which is that principal's; from now on requests show that one."""
        super().renew(principal, secret)
        self._secret = _hashed(secret)

    def continues(self, headers: Headers) -> bool:
        """Tell whether a poll goes on with this connection."""
        return self.closing is None and self.is_of(headers)

    def is_prompt(self, now: float) -> bool:  # noqa: ARG002 - an open poll is the heartbeat
        """Tell whether a poll waits: an offer that waits for one might wait at the wrong gateway."""
        return self._held is not None and not self._held.done()

    def is_heard(self, now: float) -> bool:
        """Tell whether a poll is open, or was a moment ago."""
        return self._held is not None or now - self.heard_at < self.session.timers.heartbeat_s

    def unheard_s(self, now: float) -> float:
        """Return for how long no poll has been open."""
        return 0.0 if self._held is not None else max(0.0, now - self.heard_at)

    @property
    def is_waited_on(self) -> bool:
        """Whether a poll is open."""
        return self._held is not None

    def open_poll(self) -> asyncio.Future[None]:
        """Begin a poll; the result is set when there is something to say. The newest poll alone gets it."""
        if self._held is not None and not self._held.done():
            self._held.set_result(None)
        self._held = asyncio.get_running_loop().create_future()
        if self.outgoing or self.closing is not None:
            self._held.set_result(None)
        return self._held

    def close_poll(self, held: asyncio.Future[None]) -> bool:
        """End a poll; return whether it was the newest."""
        self.heard_at = time.monotonic()
        if self._held is not held:
            return False
        self._held = None
        return True

    def _wake(self) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(None)

    def confirm(self, answer: str | None) -> None:
        """Hear which answer arrived last; one that was lost on the way is given again.

        What the frames say is true however often it is said.
        """
        self.heard_at = time.monotonic()
        if answer != str(self._answered):
            self.outgoing[:0] = self._unconfirmed
        self._unconfirmed = []

    def answer(self) -> tuple[bytes, int]:
        """Take what fits into an answer; return it with the answer's number."""
        while self.outgoing:
            try:
                body, count = codec.pack_first(self.outgoing)
            except LocalProtocolError as error:
                log.error("Not sent to %s: %s", self.name, error)  # noqa: TRY400 - a bug, with its place in it
                del self.outgoing[0]
                continue
            self._unconfirmed, self.outgoing = self.outgoing[:count], self.outgoing[count:]
            break
        else:
            body, self._unconfirmed = codec.encode(Beat()), []
        self._answered += 1
        return body, self._answered


class _Request:
    """Collects the answers to what one request says; what comes late goes to the worker's link."""

    def __init__(self, link: Link, statements: int) -> None:
        self._link = link
        self._left = statements
        self._frames: list[ServerFrame] = []
        self._settled = asyncio.Event()
        self._over = False

    def send(self, frame: ServerFrame) -> None:
        """Take an answer."""
        if self._over:
            self._link.send(frame)
        else:
            self._frames.append(frame)

    def settled(self) -> None:
        """Hear that one more statement is dealt with."""
        self._left -= 1
        if self._left <= 0:
            self._settled.set()

    async def answers(self) -> list[ServerFrame]:
        """Wait until all is dealt with, but not for long; return the answers."""
        if self._left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await self._settled.wait()
        self._over = True
        return self._frames


class _Held(NamedTuple):
    """A poll whose statements are taken, and that is to wait for an answer."""

    link: PollLink
    hold_s: float


class Polls:
    """Takes `v1/poll` and `v1/send`."""

    def __init__(self, workers: Workers, hub: Hub, settings: GatewaySettings) -> None:
        self._workers = workers
        self._hub = hub
        self._timers = settings.timers
        self.draining = False
        """Nobody new is let in."""
        self._taking: Counter[str] = Counter()
        """Requests that are being taken in, by worker."""

    async def poll(self, request: Request) -> Response:
        """Take a worker's hello and hold the request until there is something to say."""
        return await self._guarded(request, self._poll)

    async def send(self, request: Request) -> Response:
        """Take a worker's statements and answer them."""
        return await self._guarded(request, self._send)

    def end(self) -> None:
        """Let every open poll return, and nobody new in: this process is about to end."""
        self.draining = True
        for link in self._hub.links():
            if isinstance(link, PollLink):
                link.close(Close(CloseCode.GOING_AWAY, "the gateway is shutting down"))

    async def watch_for_ever(self) -> NoReturn:
        """Give up workers whose polls have ceased."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.give_up_silent(time.monotonic())

    async def give_up_silent(self, now: float) -> None:
        """Give up workers whose polls have ceased by `now`, and those whose end no poll came to hear."""
        silent_s = GONE_BEATS * self._timers.heartbeat_s
        for link in self._hub.links():
            if not isinstance(link, PollLink) or link.is_waited_on:
                continue
            if link.closing is not None or now - link.heard_at >= silent_s:
                with self._workers.guard.contained(f"the end of worker {link.name}'s polls"):
                    link.close(Close(CloseCode.SILENT, "no poll has come for a while"))
                    await self._workers.gone(link)

    async def _guarded(self, request: Request, serve: _Serve) -> Response:
        try:
            _check(request)
            served = await self._served(request, serve)
            return served if isinstance(served, Response) else await self._hold(request, served)
        except RemoteProtocolError as error:
            self._workers.refused(request, Refusal.PROTOCOL.value, str(error))
            answer = refuse_worker(Refusal.PROTOCOL, str(error))
        except BodyError as error:
            self._workers.refused(request, Refusal.PROTOCOL.value, str(error))
            answer = refuse_worker(Refusal.PROTOCOL, str(error), status=error.status)
        except (RefusedError, UnreachableError) as error:
            code = error.code if isinstance(error, RefusedError) else Refusal.UNAVAILABLE.value
            self._workers.refused(request, code, str(error))
            answer = answer_to(error)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - it costs this request, no more
            self._workers.guard.note("a worker's request", error)
            answer = refuse_worker(Refusal.UNAVAILABLE, FAILED, AGAIN_S)
        answer.headers.update(CLOSES)
        return answer

    async def _served(self, request: Request, serve: _Serve) -> Response | _Held:
        """Take what a request says; nobody's body is read before he is known."""
        caller, judged_at = await self._caller(request), time.monotonic()
        worker = request.headers[WORKER_HEADER]
        if self._taking[worker] >= REQUESTS:
            sentence = "too many requests of this worker at a time"
            raise RefusedError(Refusal.UNAVAILABLE.value, sentence, retry_after_s=1.0)
        self._taking[worker] += 1
        try:
            frames = await self._workers.decode(await read_whole(request.receive, codec.MAX_FRAME))
            if caller is None or time.monotonic() - judged_at > JUDGED_S:
                caller = await self._caller(request)
            return await serve(request, frames, caller)
        finally:
            self._taking[worker] -= 1
            if not self._taking[worker]:
                del self._taking[worker]

    async def _caller(self, request: Request) -> Principal | None:
        """Return whom the headers name, None where they are of a connection here: it ends with its token."""
        link = self._link(request.headers)
        if isinstance(link, PollLink) and link.is_of(request.headers):
            return None
        return await self._workers.authenticate(request)

    # Polls

    async def _poll(
        self, request: Request, frames: tuple[WorkerFrame, ...], caller: Principal | None
    ) -> Response | _Held:
        if (
            not frames
            or not isinstance(frames[0], Hello)
            or any(isinstance(one, Hello) for one in frames[1:])
        ):
            raise RemoteProtocolError("a poll's first frame, and no other, is hello")
        longest_s = HOLD_BEATS * self._timers.heartbeat_s
        hold_s = _seconds(request.headers.get(HOLD_HEADER), longest_s)
        link, reason = self._link(request.headers), frames[0].sysinfo.get("transport_reason")
        if link is not None and not isinstance(link, PollLink) and CONNECTION_HEADER in request.headers:
            # It was on its way when the worker's WebSocket took over, and must not take that one's place.
            return _answer(codec.encode(Beat()), {CLOSE_HEADER: _told(_REPLACED)})
        if isinstance(link, PollLink) and link.continues(request.headers) and link.reason == reason:
            auth.check_name(link.principal, frames[0])
            link.confirm(request.headers.get(ANSWER_HEADER))
            await self._workers.take(link, Status(inventory=frames[0].inventory, sysinfo=frames[0].sysinfo))
            if not link.slots.keys() <= {held.claim for held in frames[0].inventory.claims}:
                # They ended, perhaps at another gateway, or are not yet known there.
                await self._workers.forget_ended(link)
        else:
            newcomer = await self._let_in(request, frames[0], caller)
            if isinstance(newcomer, Response):
                return newcomer
            link, newcomer.reason = newcomer, reason
        for number, frame in enumerate(frames[1:], 1):
            await self._workers.take(link, frame)
            if number % TURN == 0:
                await asyncio.sleep(0)
        return _Held(link, hold_s)

    async def _let_in(self, request: Request, hello: Hello, caller: Principal | None) -> PollLink | Response:
        if self.draining:
            return refuse_worker(Refusal.UNAVAILABLE, "the gateway is leaving", 1.0)
        principal = caller or await self._workers.authenticate(request)
        if (busy := self._workers.begin_greeting(request, principal)) is not None:
            return busy
        try:
            link = PollLink(principal, request.headers.get(TOKEN_HEADER, ""), self._timers)
            link.address = request.client.host if request.client is not None else None
            registered = await self._workers.greet(link, hello)
            # One whose polls wander between gateways joins with each of them.
            is_new, why = CONNECTION_HEADER not in request.headers, hello.sysinfo.get("transport_reason")
            await self._workers.joined(link, registered, is_new=is_new, reason=why)
        finally:
            self._workers.greeted(request)
        return link

    async def _hold(self, request: Request, poll: _Held) -> Response:
        link, hold_s = poll
        held = link.open_poll()
        if not held.done():
            # It may be offered jobs from now on.
            self._hub.capacity_changed()
        gone = asyncio.create_task(_wait_gone(request))
        try:
            await asyncio.wait({held, gone}, timeout=hold_s, return_when=asyncio.FIRST_COMPLETED)
            # What belongs together is queued in one go; let it be complete.
            await asyncio.sleep(0)
        finally:
            is_newest = link.close_poll(held)
        is_gone = gone.done()
        gone.cancel()
        if is_gone:
            return Response(status_code=499)
        if not is_newest:
            # The newer one may be an old one that came late, and this the worker's own: then it asks again.
            told = request.headers.get(ANSWER_HEADER)
            headers = {CONNECTION_HEADER: link.connection_id} | ({ANSWER_HEADER: told} if told else {})
            return _answer(codec.encode(Beat()), headers)
        body, number = link.answer()
        headers = {CONNECTION_HEADER: link.connection_id, ANSWER_HEADER: str(number)}
        if link.closing is not None and not link.outgoing:
            headers[CLOSE_HEADER] = _told(link.closing)
            await self._workers.gone(link)
        return _answer(body, headers)

    # Statements

    async def _send(
        self, request: Request, frames: tuple[WorkerFrame, ...], caller: Principal | None
    ) -> Response:
        if any(isinstance(frame, Hello | Status) for frame in frames):
            raise RemoteProtocolError("hello and status come by v1/poll")
        link, headers = self._link(request.headers), {}
        if not (isinstance(link, PollLink) and link.continues(request.headers)):
            headers[ELSEWHERE_HEADER] = "1"
            caller = caller or await self._workers.authenticate(request)
            link = self._link_of(await self._workers.speaker(caller, request.headers))
        asked = _Request(link, len(frames))
        for number, frame in enumerate(frames, 1):
            if isinstance(frame, Bye):
                await self._leave(request, link, frame)
                asked.settled()
            else:
                await self._workers.take(link, frame, asked)
            if number % TURN == 0:
                await asyncio.sleep(0)
        answers = await asked.answers()
        return _answer(codec.encode_batch(answers) if answers else codec.encode(Beat()), headers)

    def _link_of(self, speaker: Principal) -> Link:
        """Return the link of a worker whose poll is at another gateway, or came by another connection."""
        link = self._hub.get(speaker.worker)
        if link is not None and link.principal.site == speaker.site:
            return link
        return PollLink(speaker, "", self._timers)

    async def _leave(self, request: Request, link: Link, bye: Bye) -> None:
        """Let the worker go: its poll returns, and it is shown as offline."""
        connection = request.headers.get(CONNECTION_HEADER, "")
        if link.connection_id == connection:
            link.left = bye
            link.close(Close(CloseCode.LEAVING, "the worker left"))
            await self._workers.gone(link)
        elif connection:
            await self._workers.left_elsewhere(link.principal, connection, bye)

    def _link(self, headers: Headers) -> Link | None:
        return self._hub.get(WorkerName(headers.get(WORKER_HEADER, "")))


def _check(request: Request) -> None:
    """Check that a request is a POST of JSON; else raise BodyError."""
    if request.method != "POST":
        raise BodyError(405, "method", f"{request.method} is not allowed here: POST")
    check_json(request.headers)


async def _wait_gone(request: Request) -> None:
    """Return when the other side has given the request up."""
    # Not `request.is_disconnected()`, which behind Airflow's middlewares never becomes true.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(body: bytes, headers: dict[str, str]) -> Response:
    # Complete, with its length: a proxy that stores answers before it forwards them has nothing to wait for.
    return Response(body, media_type=JSON, headers={**headers, "cache-control": "no-store"})


def _seconds(text: str | None, most: float) -> float:
    """Return the seconds that a header names, within reason."""
    try:
        asked = float(text) if text is not None else most
    except ValueError:
        raise RemoteProtocolError(f"{HOLD_HEADER} is no number of seconds") from None
    return min(asked, most) if asked >= 0 else 0.0


def _told(close: Close) -> str:
    """Return a close as a header's value."""
    reason = close.reason.encode("ascii", "replace")[:120].decode()
    return f"{close.code.value} {''.join(one if one.isprintable() else '?' for one in reason)}"


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
