"""`v1/admin/NAME`: the operations of `admin` by HTTP, for users of the centre with the rights for them.

To see is GET with a query, to change is POST with a JSON object. The user comes from `Authorization: Bearer`,
or from the cookie of Airflow's own pages, which counts for what these ask, and a change must be of type
application/json: no other site's page can have a browser make one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError, UsageError
from edge_ws.protocol import codec
from edge_ws.server import answers
from edge_ws.server.admin import OPERATIONS, Kind, Operation, perform
from edge_ws.server.admin_pages import NAMES, Pages
from edge_ws.server.bodies import BodyError, check_json, read_whole
from edge_ws.server.entrance import CrowdedError, Entrance
from edge_ws.server.fleet import Fleet
from edge_ws.server.ports import Audit, AuditEntry, Tasks, User, Users
from edge_ws.server.quota import Quota
from edge_ws.server.sign_in import CrossOriginError, Shown, check_same_origin, shown
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""The names of thousands of workers fit."""
REFUSED_WITHIN_S = 60.0
REFUSED_OF_ONE = 5
"""Refused attempts of one user, or from one address, that the audit log has of that time: whoever is refused
may be a stranger, and each is a row in Airflow's database."""
REFUSED_OF_ALL = 60
_PAGE = OPERATIONS["list-workers"]
"""Whoever may do this may see pages of the fleet."""
_USER = "edge_ws_user"
"""Under which a request's state has the name of who asks."""
_FORBIDDEN = frozenset({403, 415})
"""Refusals of a known user that the audit log has: rights, and what another site's page might have sent."""


class _RefusalError(Exception):
    """An answer that ends a request; never leaves this module."""

    def __init__(self, status: int, code: str, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.headers = headers

    def response(self) -> JSONResponse:
        """Return it as an answer, marked as ours."""
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        headers["cache-control"] = "no-store"
        return answers.refusal(self.status, self.code, str(self), headers=headers)


class Admin:
    """Answers what lies below `v1/admin/`."""

    def __init__(
        self,
        store: Store,
        users: Users,
        tasks: Tasks | None = None,
        audit: Audit | None = None,
        *,
        fleet: Fleet | None = None,
    ) -> None:
        """Make it; without `fleet` it has no pages of that."""
        self._store = store
        self._pages = None if fleet is None else Pages(fleet, self._ask)
        self._audit = audit
        self._refused = Quota(REFUSED_OF_ONE, REFUSED_WITHIN_S, known=1000, of_all=REFUSED_OF_ALL)
        self._users = users
        self._tasks = tasks
        # Users are the centre's business, which may be slow; workers never wait for either.
        self._entrance = Entrance()
        self._threads = ThreadLimit(threads=2)

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return await self._answer(request)
        except _RefusalError as refusal:
            if refusal.status in _FORBIDDEN:
                await self._note_refused(request, refusal.code)
            return refusal.response()
        except UsageError as error:
            return _RefusalError(400, "usage", str(error)).response()
        except RefusedError as error:
            await self._note_refused(request, "token")
            return _RefusalError(401, "token", str(error), www_authenticate="Bearer").response()
        except UnreachableError as error:
            # Strangers read the answer: where the database is, is for the log only.
            log.warning("Cannot carry out an operator's request now: %s", error)
            return _RefusalError(503, "unavailable", "the gateway cannot reach its database").response()
        except EdgeWsError as error:
            log.warning("An operator's request failed: %s", error)
            return _RefusalError(500, "failed", str(error)).response()

    async def _answer(self, request: Request) -> Response:
        user, by = await self._user(request)
        name = request.path_params["name"]
        if name in NAMES and self._pages is not None:
            return await self._page(self._pages, name, request, user, by)
        operation = OPERATIONS.get(name)
        if operation is None:
            raise _RefusalError(404, "not_found", f"there is no v1/admin/{name[:60]}")
        method = "POST" if operation.changes else "GET"
        if request.method != method:
            sentence = f"v1/admin/{name} takes {method}, not {request.method}"
            raise _RefusalError(405, "method", sentence, allow=method)
        _check_right(user, operation)
        given = await self._body(request) if operation.changes else _query(operation, request.query_params)
        if operation.changes:
            # As JSON: nothing that was sent can look like a line of the log.
            log.info("%s wishes: %s %s", json.dumps(user.name), name, json.dumps(given))
        result = await self._perform(name, given, user)
        return JSONResponse(result, headers={"cache-control": "no-store"})

    async def _perform(self, name: str, given: Mapping[str, object], user: User) -> object:
        return await self._threads.run(
            perform, self._store, name, given, user=user.name, tasks=self._tasks, audit=self._audit
        )

    async def _note_refused(self, request: Request, code: str) -> None:
        """Write an attempt down that nobody had the right to, if that is not too often."""
        name = request.path_params["name"]
        if self._audit is None or (name not in OPERATIONS and name not in NAMES):
            return
        user: str | None = getattr(request.state, _USER, None)
        address = request.client.host if request.client is not None else "nowhere"
        left_out = self._refused.admit(user or address, time.monotonic())
        if left_out is None:
            return
        more = {"left_out_before": left_out} if left_out else {}
        entry = AuditEntry(
            event=name, user=user or "(unknown)", extra={"refused": code, "address": address, **more}
        )
        try:
            await self._threads.run(self._audit.record, [entry])
        except EdgeWsError as error:
            log.warning("A refused request of %s is not in the audit log: %s", json.dumps(entry.user), error)

    async def _page(self, pages: Pages, name: str, request: Request, user: User, by: Shown) -> Response:
        """Answer with a page of the fleet."""
        if request.method != "GET":
            sentence = f"v1/admin/{name} takes GET, not {request.method}"
            raise _RefusalError(405, "method", sentence, allow="GET")
        if name != "me":
            _check_right(user, _PAGE)
        judge = partial(self._judged, by.token, _address(request))
        return await pages.answer(request, user, by.by, judge)

    async def _ask(self, name: str, params: QueryParams, user: User) -> object:
        """Perform an operation that reads."""
        operation = OPERATIONS.get(name)
        if operation is None:
            raise UsageError(f"there is no {name} here")
        _check_right(user, operation)
        return await self._perform(name, _query(operation, params), user)

    def end_streams(self) -> None:
        """End every stream: the gateway leaves."""
        if self._pages is not None:
            self._pages.streams.end()

    async def _user(self, request: Request) -> tuple[User, Shown]:
        """Return who asks, and how they show it."""
        by = shown(request)
        user = await self._judged(by.token, _address(request))
        # Not under a name that a middleware of Airflow's has taken.
        setattr(request.state, _USER, user.name)
        if by.by_cookie:
            try:
                check_same_origin(request.headers)
            except CrossOriginError as error:
                raise _RefusalError(403, "cross_origin", str(error)) from None
        return user, by

    async def _judged(self, token: str, address: str | None) -> User:
        try:
            return await self._entrance.judge(token, address, partial(self._users.user, token))
        except CrowdedError:
            sentence = "too many requests with tokens that are not known here wait already"
            raise _RefusalError(503, "unavailable", sentence, retry_after="1") from None

    async def _body(self, request: Request) -> Mapping[str, object]:
        """Return the JSON object that a request brings."""
        try:
            check_json(request.headers)
            body = await read_whole(request.receive, MAX_BODY)
        except BodyError as error:
            raise _RefusalError(error.status, error.code, str(error), connection="close") from None
        except ClientDisconnect:
            raise _RefusalError(400, "usage", "the body broke off") from None
        return await self._threads.run(_object, body) if codec.is_heavy(body) else _object(body)


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None


def _check_right(user: User, operation: Operation) -> None:
    if not (user.may_manage if operation.changes else user.may_read):
        missing = user.manage_right if operation.changes else user.read_right
        doing = "change workers" if operation.changes else "see workers and jobs"
        raise _RefusalError(403, "not_admitted", f"user {user.name} may not {doing}: it takes {missing}")


def _query(operation: Operation, params: QueryParams) -> dict[str, object]:
    """Return what a query says, in the types that the operation wants where the text is of them."""
    given: dict[str, object] = {}
    for name in params:
        parameter = operation.parameters.get(name)
        if parameter is not None and parameter.kind is Kind.TEXTS:
            given[name] = params.getlist(name)
        elif len(params.getlist(name)) > 1:
            raise UsageError(f"{name[:60]} is there more than once")
        else:
            given[name] = _typed(params[name], None if parameter is None else parameter.kind)
    return given


def _typed(text: str, kind: Kind | None) -> object:
    is_number = kind is Kind.NUMBER and text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20
    return int(text) if is_number else text


def _object(body: bytes) -> Mapping[str, object]:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UsageError('the body is no JSON object such as {"worker": "press-2", "concurrency": 3}')
    return given
