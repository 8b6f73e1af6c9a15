"""Passes `/execution/...` on to Airflow's api-server, so that a worker's tasks need no other address.

Bodies stream both ways; nothing of them is looked at, and an answer is changed only in what belongs to one
connection alone. Nothing outside the Execution API can be reached. Whatever is unfinished on the client's
side, a request or the taking of an answer, ends soon and holds nothing that others need. Knows no Airflow and
no gateway.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote

import httpx2
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from edge_ws.server.answers import refusal
from edge_ws.server.bodies import CLOSES, Body, BodyError
from edge_ws.server.places import PLACES, NoPlaceError, Places

log = logging.getLogger(__name__)

PREFIX = "/execution"
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Of one connection alone (RFC 9110, 7.6.1), as is all that `connection` names."""
_ASKED = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"baggage",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"correlation-id",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)
"""What tasks send, besides Airflow's own `airflow-...`. Who writes other headers is not known here, and the
api-server, or what is in front of it, may believe them: who the user is, by which address he came."""
_NOT_TOLD = frozenset({b"date", b"server"})
_TIMEOUT = httpx2.Timeout(connect=10.0, read=300.0, write=60.0, pool=60.0)
"""Longer than Airflow's clients wait: it is for them to give up."""
_LIMITS = httpx2.Limits(max_connections=PLACES, max_keepalive_connections=50, keepalive_expiry=4.0)
"""An idle connection is dropped before the other end does it: uvicorn's default is 5 s."""
PATIENCE_S = 10.0
"""For each step of a request's body, for a place, and for each piece of an answer (64 KiB) to be taken."""
_OPEN = frozenset({f"{PREFIX}/health", f"{PREFIX}/health/ping"})
"""What the Execution API answers without a token, and tasks and operators ask for."""
_FOR_PEOPLE = frozenset({"changelog", "docs", "openapi.json", "redoc"})
"""Airflow answers these without a token, at length. No task asks for them."""
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""Of a JWT's form; only the api-server can tell whether it is good."""

_Headers = list[tuple[bytes, bytes]]


def _target(scope: Scope) -> str | None:
    """Return the path and query to ask for, None if that is not below the Execution API."""
    path: str = scope["raw_path"].decode("latin-1")
    if not path.startswith(f"{PREFIX}/"):
        return None
    plain, once_more = path, unquote(path)
    # However often somebody on the way decodes it, it must not lead out.
    while once_more != plain:
        plain, once_more = once_more, unquote(once_more)
    if not {".", ".."}.isdisjoint(re.split(r"[/\\]", plain)):
        return None
    query: str = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> _Headers:
    """Return what does not belong to one connection alone, names in lower case."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for option in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in _HOP_BY_HOP | named]


def _is_for_people(target: str) -> bool:
    return target.removeprefix(f"{PREFIX}/").partition("?")[0].partition("/")[0] in _FOR_PEOPLE


def _token(scope: Scope) -> str | None:
    """Return the token of a request; None: it needs none.

    Raises:
        _NoTokenError: there is none, or what there is cannot be one.
    """
    sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode(
        "latin-1"
    )
    scheme, _, token = sent.partition(" ")
    if scheme.lower() == "bearer" and _TOKEN.fullmatch(token):
        return token
    if scope["method"] in {"GET", "HEAD"} and scope["raw_path"].decode("latin-1") in _OPEN:
        return None
    if scheme.lower() == "bearer" and token:
        raise _NoTokenError(403, "Invalid auth token")
    raise _NoTokenError(401, "Missing auth token")


class _NoTokenError(Exception):
    """Airflow's own answer to a request without a good token, which it need not be asked for."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.answer = JSONResponse({"detail": detail}, status, CLOSES)


class Relay:
    """An ASGI app for what lies below `/execution`; serve it while `running()` is open."""

    def __init__(self, airflow_url: str, *, patience_s: float = PATIENCE_S) -> None:
        """Make it.

        Args:
            airflow_url: the api-server's own address, http or https, any sub-path, no credentials.
            patience_s: see `PATIENCE_S`.
        """
        self._base = airflow_url.rstrip("/")
        self._client: httpx2.AsyncClient | None = None
        self._places = Places(patience_s)
        self._patience_s = patience_s
        self._away = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep connections to the api-server while the block runs."""
        # No proxy by accident: the address is the operator's own.
        context = ssl.create_default_context()
        async with httpx2.AsyncClient(
            verify=context, trust_env=False, timeout=_TIMEOUT, limits=_LIMITS, follow_redirects=False
        ) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request."""
        target = _target(scope)
        if target is None or _is_for_people(target):
            sentence = "there is no such path below /execution/ of a gateway"
            await refusal(404, "not_found", sentence, headers=CLOSES)(scope, receive, send)
            return
        if self._client is None:
            answer = refusal(503, "unavailable", "the gateway is starting or stopping", headers=CLOSES)
            await answer(scope, receive, send)
            return
        try:
            call = _Call(scope, receive, send, _token(scope), self._patience_s)
        except _NoTokenError as error:
            await error.answer(scope, receive, send)
            return
        failed = await self._run(call, self._client, self._base + target)
        # An answer that was begun cannot be taken back: it breaks off, as its client will see.
        if failed is not None and not call.begun:
            await failed(scope, receive, send)

    async def _run(self, call: _Call, client: httpx2.AsyncClient, url: str) -> JSONResponse | None:
        """Relay a request; return what is to be answered if that failed."""
        try:
            await call.run(client, url, self._places)
        except httpx2.InvalidURL:
            return refusal(404, "not_found", "this is no address", headers=CLOSES)
        except BodyError as error:
            return refusal(error.status, error.code, str(error), headers=CLOSES)
        except NoPlaceError:
            sentence = "the gateway relays as many requests as it can; try again"
            return refusal(503, "unavailable", sentence, 1.0, headers=CLOSES)
        except httpx2.HTTPError as error:
            self._note(f"{type(error).__name__} {error}")
            return _failed(error)
        self._note(None)
        return None

    def _note(self, fault: str | None) -> None:
        """Say that the api-server went away or came back, not for each of thousands of requests."""
        if fault and not self._away:
            log.warning("The api-server at %s cannot be asked: %s", self._base, fault)
        elif self._away and not fault:
            log.info("The api-server at %s answers again", self._base)
        self._away = bool(fault)


def _failed(error: httpx2.HTTPError) -> JSONResponse:
    # Strangers read it: where the api-server is, is for the log only.
    if isinstance(error, httpx2.TimeoutException):
        return refusal(504, "no_answer", "Airflow's api-server does not answer the gateway in time")
    return refusal(502, "no_answer", "Airflow's api-server does not answer the gateway")


class _Call:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, token: str | None, patience_s: float
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._token = token
        self._patience_s = patience_s
        self._body = Body(receive, patience_s)
        self._asked = asyncio.Event()
        """The client has sent all of its request."""
        self.begun = False
        """The answer is on its way to the client."""

    async def run(self, client: httpx2.AsyncClient, url: str, places: Places) -> None:
        """Pass the request on and the answer back; a client that leaves ends both."""
        relaying = asyncio.create_task(self._relay(client, url, places))
        leaving = asyncio.create_task(self._left())
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (relaying, leaving):
                task.cancel()
            await asyncio.gather(relaying, leaving, return_exceptions=True)
        if not relaying.cancelled():
            relaying.result()

    async def _left(self) -> None:
        """Return when the client has left; whoever reads its request would notice before that."""
        await self._asked.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _relay(self, client: httpx2.AsyncClient, url: str, places: Places) -> None:
        with suppress(ClientDisconnect):
            # Before it holds a place: what others need waits for nobody's body.
            begin = await self._step()
            async with places.one(self._token, is_whole=self._body.is_whole):
                response = await client.send(self._request(url, begin), stream=True)
                self._learn(response, places)
                try:
                    await self._answer(response)
                finally:
                    await response.aclose()

    async def _step(self) -> bytes | None:
        """Return the next piece of the body, None if there is no body."""
        names = {name.lower() for name, _ in self._scope["headers"]}
        if names.isdisjoint({b"content-length", b"transfer-encoding"}):
            self._body.is_whole, piece = True, None
        else:
            piece = await self._body.step()
        if self._body.is_whole:
            self._asked.set()
        return piece

    async def _rest(self, begin: bytes) -> AsyncIterator[bytes]:
        yield begin
        while not self._body.is_whole:
            yield await self._step() or b""

    def _request(self, url: str, begin: bytes | None) -> httpx2.Request:
        asked = _passed_on(self._scope["headers"])
        headers = [one for one in asked if one[0] in _ASKED or one[0].startswith(b"airflow-")]
        whole = begin is None or self._body.is_whole
        content = begin if whole else self._rest(begin or b"")
        return httpx2.Request(self._scope["method"], url, headers=headers, content=content)

    def _learn(self, response: httpx2.Response, places: Places) -> None:
        """Note a token that Airflow accepts: it has changed something of a task by it."""
        is_tasks = self._scope["raw_path"].startswith(f"{PREFIX}/task-instances/".encode())
        if self._token and is_tasks and self._scope["method"] in {"PATCH", "PUT"} and response.is_success:
            for token in (self._token, response.headers.get("refreshed-api-token")):
                if token:
                    places.accepted(token)

    async def _answer(self, response: httpx2.Response) -> None:
        """Pass the answer back, for as long as the client takes it."""
        self.begun = True
        headers = [one for one in _passed_on(response.headers.raw) if one[0] not in _NOT_TOLD]
        with suppress(TimeoutError):
            start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
            await self._give(start)
            async for chunk in response.aiter_raw():
                await self._give({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._give({"type": "http.response.body", "body": b"", "more_body": False})

    async def _give(self, message: Message) -> None:
        async with asyncio.timeout(self._patience_s):
            await self._send(message)
