"""`v1/admin/view`, `stream` and `me`: pages of the fleet for a person, and who that person is here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from edge_ws.errors import UsageError
from edge_ws.recent import Recent
from edge_ws.server.fleet import Fleet
from edge_ws.server.fleet_pages import VIEWS, Query, read_query, render
from edge_ws.server.fleet_stream import REREAD_S, EventStream, Judge, Streams
from edge_ws.server.ports import User

NAMES = frozenset({"view", "stream", "me"})
"""Below `v1/admin/`, beside the operations."""
PASSED_ON = {"figures": "figures", "events": "events", "verdict": "show-job"}
"""Views that an operation answers, by its name."""
FRESH_S = {"verdict": 3.0}
"""An operation's answer is good for everybody for so long, or for `FRESH_ELSE_S`."""
FRESH_ELSE_S = 1.0
ANSWERS_KEPT = 100

Ask = Callable[[str, QueryParams, User], Awaitable[object]]
"""Performs an operation that reads, with these parameters."""
_Read = Callable[[User], Awaitable[tuple[bytes, bytes]]]


class Pages:
    """Answers them."""

    def __init__(self, fleet: Fleet, ask: Ask) -> None:
        """Make it.

        Args:
            fleet: what is shown.
            ask: performs an operation; raises UsageError if there is none of that name.
        """
        self.streams = Streams(fleet)
        self._fleet = fleet
        self._ask = ask
        self._passed: Recent[str, tuple[float, bytes]] = Recent(ANSWERS_KEPT)

    async def answer(self, request: Request, user: User, by: str, judge: Judge) -> Response:
        """Answer a GET of a user who may see the fleet (of `me`: of anybody).

        Args:
            request: to one of `NAMES`.
            user: who asks.
            by: what they showed, `cookie` or `token`.
            judge: looks at the user again.

        Raises:
            UsageError: there is no such view.
            UnreachableError: the database is away.
        """
        name = request.path_params["name"]
        if name == "me":
            return _json(orjson.dumps(_me(user, by)))
        jobs, read = self._reader(request.query_params, by)
        if name == "stream":
            return EventStream(
                self.streams,
                self._fleet,
                user=user,
                jobs=jobs,
                page=read,
                judge=judge,
                reread_s=FRESH_ELSE_S if request.query_params.get("of") == "events" else REREAD_S,
            )
        await self._fleet.picture(jobs=jobs)
        changing, rest = await read(user)
        tag = f'"{hashlib.sha256(rest).hexdigest()[:20]}"'
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": tag, "cache-control": "no-store"})
        return _json(b"{" + changing + rest + b"}", etag=tag)

    def _reader(self, params: QueryParams, by: str) -> tuple[bool, _Read]:
        """Return whether the view takes pictures with jobs, and what makes its page."""
        of = params.get("of", "")
        if of in PASSED_ON:
            return False, partial(self._passed_on, of, params, by)
        if of not in VIEWS:
            known = ", ".join((*VIEWS, *PASSED_ON))
            raise UsageError(f"of: there is no view {of[:60]!r}; there are {known}")
        query = read_query(params)
        return query.jobs, partial(self._page, query, by)

    async def _page(self, query: Query, by: str, user: User) -> tuple[bytes, bytes]:
        picture = await self._fleet.picture(jobs=query.jobs)
        return _at(picture.at), self._head(user, by) + render(picture, query)[1:-1]

    async def _passed_on(self, of: str, params: QueryParams, by: str, user: User) -> tuple[bytes, bytes]:
        """Return what an operation says, the same for all who ask within a few seconds."""
        picture = await self._fleet.picture(jobs=False)
        key, now = str(params), time.monotonic()
        known = self._passed.get(key)
        if known is None or now >= known[0] + FRESH_S.get(of, FRESH_ELSE_S):
            rest = QueryParams([(name, value) for name, value in params.multi_items() if name != "of"])
            found = await self._ask(PASSED_ON[of], rest, user)
            shaped = {"of": of, **_shaped(of, found), "summary": picture.summary}
            known = now, orjson.dumps(shaped)
            self._passed.put(key, known)
        return _at(picture.at), self._head(user, by) + known[1][1:-1]

    def _head(self, user: User, by: str) -> bytes:
        """Return the begin of a page that is for one user."""
        return orjson.dumps({"fault": self._fleet.fault or None, "me": _me(user, by)})[1:-1] + b","


def _shaped(of: str, found: object) -> dict[str, object]:
    if of == "figures":
        return {"figures": found}
    if of == "verdict":
        return {"row": found}
    return {"rows": found}


def _me(user: User, by: str) -> dict[str, object]:
    return {
        "user": user.name,
        "may_see": user.may_read,
        "may_manage": user.may_manage,
        "see_right": user.read_right,
        "manage_right": user.manage_right,
        "signed_in_by": by,
        "expires_at": None
        if user.expires_at is None
        else datetime.fromtimestamp(user.expires_at, UTC).isoformat(timespec="seconds"),
    }


def _at(moment: str) -> bytes:
    return b'"at":' + orjson.dumps(moment) + b","


def _json(body: bytes, **headers: str) -> Response:
    return Response(body, media_type="application/json", headers={**headers, "cache-control": "no-store"})
