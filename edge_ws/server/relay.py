"""Passes `/execution/...` on to Airflow's api-server, so that a worker's tasks need no other address.

Bodies stream both ways; nothing of them is looked at, and an answer is changed only in what belongs to one
connection alone. Nothing outside the Execution API can be reached. Knows no Airflow and no gateway.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import unquote

import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from edge_ws.server.answers import refusal

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
_FORWARDED = frozenset(
    {b"forwarded", *(b"x-forwarded-" + one for one in (b"for", b"host", b"port", b"proto"))}
)
"""The api-server may believe these when they come from here; who wrote them is not known."""
_NOT_ASKED = _FORWARDED | {b"host"}
_NOT_TOLD = frozenset({b"date", b"server"})
_TIMEOUT = httpx2.Timeout(connect=10.0, read=300.0, write=60.0, pool=60.0)
"""Longer than Airflow's clients wait: it is for them to give up."""
_LIMITS = httpx2.Limits(max_connections=200, max_keepalive_connections=50, keepalive_expiry=4.0)
"""An idle connection is dropped before the other end does it: uvicorn's default is 5 s."""

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


def _passed_on(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> _Headers:
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for option in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in _HOP_BY_HOP | without | named]


class Relay:
    """An ASGI app for what lies below `/execution`; serve it while `running()` is open."""

    def __init__(self, airflow_url: str) -> None:
        """Make it.

        Args:
            airflow_url: the api-server's own address, http or https, any sub-path, no credentials.
        """
        self._base = airflow_url.rstrip("/")
        self._client: httpx2.AsyncClient | None = None
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
        if target is None:
            await refusal(404, "not_found", "there is no such path below /execution/")(scope, receive, send)
            return
        if self._client is None:
            answer = refusal(503, "unavailable", "the gateway is starting or stopping")
            await answer(scope, receive, send)
            return
        call = _Call(scope, receive, send)
        try:
            await call.run(self._client, self._base + target)
        except httpx2.InvalidURL:
            await refusal(404, "not_found", "this is no address")(scope, receive, send)
        except httpx2.HTTPError as error:
            self._note(f"{type(error).__name__} {error}")
            # An answer that was begun cannot be taken back: it breaks off, as its client will see.
            if not call.begun:
                await _failed(error)(scope, receive, send)
        else:
            self._note(None)

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

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._asked = asyncio.Event()
        """The client has sent all of its request."""
        self.begun = False
        """The answer is on its way to the client."""

    async def run(self, client: httpx2.AsyncClient, url: str) -> None:
        """Pass the request on and the answer back; a client that leaves ends both."""
        relaying = asyncio.create_task(self._relay(client, self._request(url)))
        leaving = asyncio.create_task(self._left())
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (relaying, leaving):
                task.cancel()
            await asyncio.gather(relaying, leaving, return_exceptions=True)
        if not relaying.cancelled():
            relaying.result()

    def _request(self, url: str) -> httpx2.Request:
        names = {name.lower() for name, _ in self._scope["headers"]}
        has_body = not names.isdisjoint({b"content-length", b"transfer-encoding"})
        if not has_body:
            self._asked.set()
        return httpx2.Request(
            self._scope["method"],
            url,
            headers=_passed_on(self._scope["headers"], _NOT_ASKED),
            content=self._body() if has_body else None,
        )

    async def _body(self) -> AsyncIterator[bytes]:
        async for chunk in Request(self._scope, self._receive).stream():
            yield chunk
        self._asked.set()

    async def _left(self) -> None:
        """Return when the client has left; whoever reads its request would notice before that."""
        await self._asked.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _relay(self, client: httpx2.AsyncClient, request: httpx2.Request) -> None:
        try:
            response = await client.send(request, stream=True)
        except ClientDisconnect:
            return
        try:
            self.begun = True
            headers = _passed_on(response.headers.raw, _NOT_TOLD)
            start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
            await self._send(start)
            async for chunk in response.aiter_raw():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()
