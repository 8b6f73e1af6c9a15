"""The listener of its own on which a gateway answers Prometheus: never on the path that workers use.

Several processes of one server share a range of ports: each takes the first that is free, and says which
gateway it is. Knows of the gateway only what it shows.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Protocol, runtime_checkable

import uvicorn
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge_ws.errors import UsageError
from edge_ws.server.guarded import MAX_HEAD, GuardedHttp, Limits
from edge_ws.server.uvicorn_server import DrainingServer

log = logging.getLogger(__name__)

MOST_PORTS = 64
FINISH_S = 1
"""For a scrape that is being answered when the gateway ends."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):([0-9]{1,5})(?:-([0-9]{1,5}))?")
_NO_STORE = {"cache-control": "no-store"}


@runtime_checkable
class Shows(Protocol):
    """What a gateway shows."""

    async def metrics(self) -> bytes:
        """Return all values as Prometheus reads them."""
        ...

    def why_not(self) -> str | None:
        """Return why no job can be handed out now, None if it can."""
        ...


class MetricsListener:
    """Listens at the first free port of a range."""

    def __init__(self, host: str, ports: range) -> None:
        self._host = host
        self._ports = ports
        self._socket: socket.socket | None = None

    @classmethod
    def of(cls, text: str, named: str) -> MetricsListener:
        """Return the listener of an address such as `127.0.0.1:9795`, or `127.0.0.1:9795-9798`.

        Args:
            text: the address.
            named: how the option is called, for the sentence.

        Raises:
            UsageError: it is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        first, last = (int(match[2]), int(match[3] or match[2])) if match else (0, 0)
        if match is None or not 0 < first <= last < 65536 or last - first >= MOST_PORTS:
            raise UsageError(
                f"{named}: {text[:100]!r} is no address such as 127.0.0.1:9795, nor one with a range of up to"
                f" {MOST_PORTS} ports such as 127.0.0.1:9795-9798"
            )
        return cls(match[1].strip("[]"), range(first, last + 1))

    @property
    def most_processes(self) -> int:
        """So many processes can listen."""
        return len(self._ports)

    @property
    def port(self) -> int | None:
        """Where it listens; None: nowhere yet."""
        return None if self._socket is None else self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """What is to be scraped."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/metrics"

    def bind(self) -> None:
        """Listen, unless that is so already.

        Raises:
            UsageError: it cannot be: the host is none of this machine's, or all of the ports are in use.
        """
        if self._socket is not None:
            return
        fault: OSError | None = None
        for port in self._ports:
            try:
                self._socket = _listening(self._host, port)
            except OSError as error:
                fault = error
            else:
                return
        first, last = self._ports[0], self._ports[-1]
        ports = f"port {first}" if first == last else f"none of the ports {first} to {last}"
        why = fault.strerror or str(fault) if fault is not None else ""
        hint = (
            "; several processes of one server need a port each: give a range such as "
            if first == last
            else ""
        )
        more = f"{hint}{self._host}:{first}-{first + 3}" if hint else ""
        raise UsageError(f"metrics cannot be served on {self._host}, {ports}: {why}{more}")

    @asynccontextmanager
    async def serving(self, gateway: Callable[[], object]) -> AsyncIterator[None]:
        """Answer while the block runs; it must be bound. `gateway`: returns who shows something now."""
        assert self._socket is not None
        server = _Quiet(_config(_app(gateway)), _nothing, limits=Limits())
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        log.info("edge-ws: metrics at %s", self.url)
        try:
            yield
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await asyncio.wait({serving}, timeout=2.0 * FINISH_S + 1.0)
            serving.cancel()
            self._socket.close()
            self._socket = None


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Now: two that have bound the same port would both believe that it is theirs.
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class _Quiet(DrainingServer):
    """A server beside another one, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


async def _nothing() -> None:
    """There is nobody to be sent away."""


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        http=GuardedHttp,
        h11_max_incomplete_event_size=MAX_HEAD,
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=FINISH_S,
    )


def _app(gateway: Callable[[], object]) -> Starlette:
    """Return what answers."""

    async def metrics(request: Request) -> Response:  # noqa: ARG001 - a route's shape
        one = gateway()
        if not isinstance(one, Shows):
            return _not_now("the gateway does not serve now; its server's log says why")
        return Response(await one.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=_NO_STORE)

    async def healthz(request: Request) -> Response:  # noqa: ARG001 - a route's shape
        one = gateway()
        why_not = one.why_not() if isinstance(one, Shows) else "the gateway does not serve now"
        return PlainTextResponse("ok\n", headers=_NO_STORE) if why_not is None else _not_now(why_not)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)])


def _not_now(sentence: str) -> Response:
    return PlainTextResponse(f"{sentence}\n", status_code=503, headers=_NO_STORE)
