"""The app that the api-server mounts: a FastAPI with a lifespan around the gateway's door.

Airflow gives a lifespan to mounted FastAPI apps only. Knows of the gateway no more than its door.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from edge_ws.errors import UsageError
from edge_ws.protocol.http import PREFIX
from edge_ws.provider import compat
from edge_ws.provider.config import serves_gateway
from edge_ws.provider.door import Door, make_gateway

log = logging.getLogger(__name__)


def mounts() -> list[dict[str, Any]]:
    """Return what Airflow is to mount: one app, or none."""
    try:
        if not serves_gateway(compat.conf):
            return []
    except UsageError as error:
        log.error("edge-ws serves no gateway: %s", error)  # noqa: TRY400 - a sentence, no traceback
        return []
    return [{"app": make_shell(Door(make_gateway)), "url_prefix": PREFIX, "name": "edge-ws"}]


def make_shell(door: Door, warm: Callable[[], None] | None = None) -> FastAPI:
    """Return the app whose lifespan opens and shuts the door."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Before the api-server answers anybody: see warm_execution_api.
        async with door.open(meanwhile=warm or warm_execution_api):
            with _before_the_end(door.end_polls):
                yield

    shell = FastAPI(title="edge-ws", lifespan=lifespan, openapi_url=None)
    shell.mount("/", door)
    return shell


@contextmanager
def _before_the_end(do: Callable[[], None]) -> Iterator[None]:
    """Have it done on the event loop when this process is told to end.

    The api-server's web server waits for requests that are being answered, polls too, before it ends the
    lifespan, and tells nobody before that.
    """
    server_s_own = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(server_s_own):
        yield
        return
    loop = asyncio.get_running_loop()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(do)
        server_s_own(number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is on_sigterm:
            signal.signal(signal.SIGTERM, server_s_own)


def warm_execution_api() -> None:
    """Make this process's Execution API build its routes now; call it in a thread.

    It builds them at its first request, on the event loop, and is busy with that for seconds: no worker
    would be heard meanwhile, and none could start a task. It must not be asked twice at once while it builds.
    """
    app = compat.execution_app()
    if app is None:
        return
    try:
        asyncio.run(_ask(app))
    except Exception:
        # Its first call will be slow then, as it is without us.
        log.warning("edge-ws: the Execution API could not be warmed up", exc_info=True)


async def _ask(app: ASGIApp) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401
        log.debug("The Execution API's answer: %s", message.get("status", ""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/health",
        "raw_path": b"/health",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    await app(scope, receive, send)
