"""A page of the fleet as server-sent events: whole at first, then again whenever it differs.

A stream ends when its user's right or sign-in does, when the gateway leaves, and when it is not read. Knows
neither what a page holds nor how a user is judged.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError
from edge_ws.server.answers import refusal
from edge_ws.server.fleet import Fleet
from edge_ws.server.ports import User

log = logging.getLogger(__name__)

OF_ONE = 6
"""Streams of one user, by one gateway."""
OF_ALL = 200
ALIVE_S = 15.0
"""Between two signs of life at the most: proxies cut what is silent for a minute."""
JUDGED_EVERY_S = 60.0
"""Between two looks at the user's rights."""
SOONEST_S = 5.0
"""The same where a sign-in is about to end, or was to have ended: Airflow may take it a little longer."""
UNJUDGED_S = 300.0
"""A user whose rights cannot be looked at for so long has none here."""
SLOW_S = 20.0
"""Whoever reads nothing for so long is cut off; no more than one page waits for that."""
REREAD_S = 5.0
"""Between two looks at what no picture tells of, unless a view takes another time."""
_RETRY_MS = 1000, 3000
"""A browser comes back after a time between these: not all of them at once."""

Page = Callable[[User], Awaitable[tuple[bytes, bytes]]]
"""Returns a page as JSON in two parts: what differs all the time, and all the rest."""
Judge = Callable[[], Awaitable[User]]
"""Returns the user as they are now; raises RefusedError if they are no more."""


class Streams:
    """The open streams of a gateway."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._open: Counter[str] = Counter()
        self.ending = False

    def __len__(self) -> int:
        return self._open.total()

    def end(self) -> None:
        """End all, and let none begin any more: the gateway leaves."""
        self.ending = True
        self._fleet.stir()

    def enter(self, user: str) -> bool:
        """Count one more of a user; False: it would be too many."""
        if self._open[user] >= OF_ONE or len(self) >= OF_ALL:
            return False
        self._open[user] += 1
        return True

    def leave(self, user: str) -> None:
        """Count one less."""
        self._open[user] -= 1
        if not self._open[user]:
            del self._open[user]


class EventStream(Response):
    """One stream, as the answer to a request."""

    def __init__(
        self,
        streams: Streams,
        fleet: Fleet,
        *,
        user: User,
        jobs: bool,
        page: Page,
        judge: Judge,
        reread_s: float = REREAD_S,
    ) -> None:
        """Make it.

        Args:
            streams: among which it counts.
            fleet: whose pictures it follows.
            user: who asks.
            jobs: whether it takes pictures with jobs.
            page: makes the page.
            judge: looks at the user again.
            reread_s: the page is made again so often, also where there is no new picture.
        """
        super().__init__(media_type="text/event-stream")
        self._streams = streams
        self._fleet = fleet
        self._user = user
        self._jobs = jobs
        self._page = page
        self._judge = judge
        self._reread_s = reread_s
        self._judged_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        name = self._user.name
        if self._streams.ending or not self._streams.enter(name):
            await _refused(going=self._streams.ending)(scope, receive, send)
            return
        try:
            with self._fleet.watching(jobs=self._jobs):
                await self._serve(scope, receive, send)
        finally:
            self._streams.leave(name)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await self._first()
        except UnreachableError as error:
            log.warning("Cannot show the fleet now: %s", error)
            answer = refusal(503, "unavailable", "the gateway cannot reach its database", 5.0)
            await answer(scope, receive, send)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave, receive, tasks.cancel_scope)
            with suppress(TimeoutError):
                await self._write(send, *first)
            tasks.cancel_scope.cancel()

    async def _first(self) -> tuple[int, tuple[bytes, bytes]]:
        # None is to be missed between the page and the wait for the next one.
        picture = await self._fleet.picture(jobs=self._jobs)
        return picture.number, await self._page(self._user)

    async def _write(self, send: Send, number: int, page: tuple[bytes, bytes]) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            # nginx would else gather what comes.
            (b"x-accel-buffering", b"no"),
        ]
        await _within(send, {"type": "http.response.start", "status": 200, "headers": headers})
        retry = f"retry: {random.randint(*_RETRY_MS)}\n\n"  # noqa: S311 - spreads, hides nothing
        await _within(send, _part(retry.encode()))
        said = b""
        said_at = read_at = time.monotonic()
        while True:
            changing, rest = page
            now = time.monotonic()
            if rest != said:
                said, said_at = rest, now
                await _within(send, _part(b"data: {" + changing + rest + b"}\n\n"))
            elif now >= said_at + ALIVE_S:
                said_at = now
                await _within(send, _part(b": alive\n\n"))
            if (end := await self._why_end()) is not None:
                await _within(send, _part(b"event: end\ndata: " + orjson.dumps(end) + b"\n\n"))
                await _within(send, {"type": "http.response.body", "body": b"", "more_body": False})
                return
            due_at = min(said_at + ALIVE_S, self._judge_at(), read_at + self._reread_s)
            picture = await self._fleet.after(number, max(0.0, due_at - time.monotonic()))
            if picture is not None:
                number = picture.number
            read_at = time.monotonic()
            with suppress(UnreachableError):
                page = await self._page(self._user)

    def _judge_at(self) -> float:
        expires_at = self._user.expires_at
        left_s = JUDGED_EVERY_S if expires_at is None else expires_at - time.time()
        return self._judged_at + min(JUDGED_EVERY_S, max(SOONEST_S, left_s))

    async def _why_end(self) -> dict[str, str] | None:
        """Return why the stream is to end now, None if it is not."""
        if self._streams.ending:
            return {"code": "going", "sentence": "the gateway leaves; another one answers"}
        if time.monotonic() < self._judge_at():
            return None
        try:
            self._user = await self._judge()
        except RefusedError as error:
            return {"code": "token", "sentence": str(error)}
        except EdgeWsError as error:
            return self._unjudged(error)
        self._judged_at = time.monotonic()
        if self._user.may_read:
            return None
        sentence = f"user {self._user.name} may no longer see workers: it takes {self._user.read_right}"
        return {"code": "not_admitted", "sentence": sentence}

    def _unjudged(self, error: EdgeWsError) -> dict[str, str] | None:
        """Return why the stream is to end, as nobody can say any more whether its user has the right."""
        if time.monotonic() < self._judged_at + UNJUDGED_S:
            # Asked again with the next page.
            log.debug("Cannot check the rights of user %s now: %s", self._user.name, error)
            return None
        return {"code": "unavailable", "sentence": "the gateway cannot check your rights now"}


def _refused(*, going: bool) -> Response:
    if going:
        return refusal(503, "unavailable", "the gateway leaves; another one answers", 1.0)
    return refusal(503, "crowded", "too many pages are open here; this one has to ask again and again", 5.0)


async def _leave(receive: Receive, scope: anyio.CancelScope) -> None:
    """End what that scope holds when the browser has gone."""
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


async def _within(send: Send, message: dict[str, object]) -> None:
    with anyio.fail_after(SLOW_S):
        await send(message)


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}
