"""The gateway on Airflow's database, made when it can be made, and mounted in the api-server.

What the gateway needs - settings, tables, database - may be missing: whoever serves the door serves all the
same. Here gateway and Airflow are joined; how either works is not known, nor which server serves it. Airflow
gives a lifespan to mounted FastAPI apps only.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol

import anyio
import anyio.to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from edge_ws import __version__
from edge_ws.errors import EdgeWsError, SchemaError, UnreachableError, UsageError
from edge_ws.guard import expected, leaf
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.http import PREFIX
from edge_ws.provider import compat
from edge_ws.provider.airflow_stats import AirflowStats
from edge_ws.provider.airflow_traces import AirflowTraces
from edge_ws.provider.audit import AirflowAudit
from edge_ws.provider.config import (
    edge3_beat_s,
    gateway_settings,
    identity_settings,
    jwt_verifier,
    listen_url,
    metrics_listen,
    serves_gateway,
)
from edge_ws.provider.dependencies import unmet
from edge_ws.provider.identities import JwtIdentities
from edge_ws.provider.ports import (
    AirflowFinishedLogs,
    AirflowTaskStates,
    AirflowTaskTokens,
    AirflowUsers,
)
from edge_ws.provider.task_settings import task_settings
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server import page_files
from edge_ws.server.answers import refuse_worker
from edge_ws.server.app import Gateway
from edge_ws.server.metrics_listener import MetricsListener
from edge_ws.server.refused_bodies import RefusedBodies
from edge_ws.server.uvicorn_log import quieten
from edge_ws.store import schema
from edge_ws.store.database import Database
from edge_ws.store.store import Store

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Between looks whether the gateway can serve now."""
PATIENCE_S = 10.0
"""How long a server's start waits for the first look: a database may take minutes to refuse."""
_WHY = {
    SchemaError: "its tables are missing or another release's",
    UnreachableError: "it cannot reach its database",
    UsageError: "its configuration is wrong",
}


class Serves(Protocol):
    """What of a gateway is used here."""

    @property
    def app(self) -> ASGIApp:
        """What answers."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run it while the block runs."""
        ...

    async def drain(self, within_s: float) -> None:
        """Send its workers elsewhere."""
        ...

    def end_polls(self) -> None:
        """Let every open poll return."""
        ...


def make_gateway(*, has_metrics: bool = False) -> Gateway:
    """Return a gateway on Airflow's database and log folder, with or without a listener for Prometheus.

    Raises:
        UsageError: the configuration is wrong.
        SchemaError: our tables are missing.
        UnreachableError: the database is away.
    """
    python = platform.python_version()
    versions = {"airflow": compat.AIRFLOW_VERSION, "edge_ws": __version__, "python": python}
    engine = compat.engine()
    settings = gateway_settings(
        compat.conf,
        versions=versions,
        task_settings=task_settings(compat.conf),
        airflows_grace_s=compat.supervisors_grace_s(),
    )
    schema.check(engine)
    states = AirflowTaskStates(Database(engine))
    store = Store(engine, listen_url=listen_url(compat.conf), edge3_beat_s=edge3_beat_s(compat.conf))
    logs = AirflowFinishedLogs()
    trusted = identity_settings(compat.conf)
    identities = None if trusted is None else JwtIdentities(trusted, jwt_verifier(compat.conf))
    tasks = AirflowTasks(engine, compat.log_folder, unmet)
    return Gateway(
        store,
        settings,
        states,
        AirflowTaskTokens(),
        logs,
        users=AirflowUsers(),
        tasks=tasks,
        audit=AirflowAudit(engine),
        identities=identities,
        has_metrics=has_metrics,
        metrics=AirflowStats.wanted(),
        traces=AirflowTraces.wanted(),
    )


class Door:
    """Lets requests through to the gateway as soon as there is one; says why not until then."""

    def __init__(
        self,
        make: Callable[[], Serves],
        *,
        retry_s: float = RETRY_S,
        listener: MetricsListener | None = None,
    ) -> None:
        """Make it; `listener`: where the gateway's metrics are shown, bound before the gateway is made."""
        self._make = make
        self._listener = listener
        self._retry_s = retry_s
        self._gateway: Serves | None = None
        self._why = "it is starting"
        self._logged = ""

    @asynccontextmanager
    async def open(self, meanwhile: Callable[[], None] | None = None) -> AsyncIterator[None]:
        """Keep a gateway running while the block runs, which begins once it is known whether one can.

        Args:
            meanwhile: called in a thread before the block begins.
        """
        looked = anyio.Event()
        async with self._showing(), anyio.create_task_group() as tasks:
            tasks.start_soon(self.run, looked.set)
            if meanwhile is not None:
                await anyio.to_thread.run_sync(meanwhile)
            with anyio.move_on_after(PATIENCE_S):
                await looked.wait()
            yield
            tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _showing(self) -> AsyncIterator[None]:
        """Answer Prometheus while the block runs; where that cannot be, the gateway serves all the same."""
        if self._listener is None:
            yield
            return
        try:
            await anyio.to_thread.run_sync(self._listener.bind)
        except UsageError as error:
            log.error("edge-ws: %s", error)  # noqa: TRY400 - a sentence, no traceback
            yield
            return
        async with self._listener.serving(lambda: self._gateway):
            yield

    async def run(self, looked: Callable[[], object]) -> NoReturn:
        """Keep a gateway running, for ever; call `looked` once it is known whether one can."""
        while True:
            try:
                gateway = await anyio.to_thread.run_sync(self._make)
                async with gateway.running():
                    self._gateway, self._logged = gateway, ""
                    log.info("edge-ws: the gateway serves workers")
                    looked()
                    await anyio.sleep_forever()
            except EdgeWsError as error:
                self._close(error)
            except Exception as error:
                # The loops behind the gateway, as a group: their connections are closed, workers come back.
                self._why = "it failed"
                again = "edge-ws: the gateway failed and is started again in %g s: %s"
                log.log(
                    logging.ERROR,
                    again,
                    self._retry_s,
                    leaf(error),
                    exc_info=None if expected(error) else error,
                )
            finally:
                self._gateway = None
            looked()
            await anyio.sleep(self._retry_s)

    def _close(self, error: EdgeWsError) -> None:
        # Strangers read the answer: where the database is, is for the log only.
        self._why = next((why for kind, why in _WHY.items() if isinstance(error, kind)), "it failed")
        if isinstance(error, SchemaError) and error.remedy:
            self._why += f" ({error.remedy})"
        if str(error) != self._logged:
            self._logged = str(error)
            log.error("edge-ws: the gateway does not serve workers: %s", error)

    async def drain(self, within_s: float) -> None:
        """Send the gateway's workers elsewhere, if there is a gateway."""
        if self._gateway is not None:
            await self._gateway.drain(within_s)

    def end_polls(self) -> None:
        """Let every open poll return, if there is a gateway."""
        if self._gateway is not None:
            self._gateway.end_polls()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if self._gateway is not None:
            await self._gateway.app(scope, receive, send)
            return
        sentence = f"the gateway does not serve now: {self._why}; its server's log says more"
        answer = refuse_worker(Refusal.UNAVAILABLE, sentence, self._retry_s)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)


def mounts() -> list[dict[str, Any]]:
    """Return what Airflow is to mount: one app, or none."""
    try:
        if not serves_gateway(compat.conf):
            return []
    except UsageError as error:
        log.error("edge-ws serves no gateway: %s", error)  # noqa: TRY400 - a sentence, no traceback
        return []
    return [{"app": make_shell(make_door(_listener())), "url_prefix": PREFIX, "name": "edge-ws"}]


def _listener() -> MetricsListener | None:
    try:
        text = metrics_listen(compat.conf)
        return None if text is None else MetricsListener.of(text, "[edge_ws] metrics_listen")
    except UsageError as error:
        log.error("edge-ws serves no metrics: %s", error)  # noqa: TRY400 - a sentence, no traceback
        return None


def make_door(listener: MetricsListener | None = None) -> Door:
    """Return the door to a gateway on Airflow's database, with its metrics at that listener."""

    def make() -> Gateway:
        return make_gateway(has_metrics=listener is not None and listener.port is not None)

    return Door(make, listener=listener)


def make_shell(door: Door, warm: Callable[[], None] | None = None) -> FastAPI:
    """Return the app whose lifespan opens and shuts the door."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        quieten()
        # Before the api-server answers anybody: see warm_execution_api.
        async with door.open(meanwhile=warm or warm_execution_api):
            with _before_the_end(door.end_polls):
                yield

    shell = FastAPI(title="edge-ws", lifespan=lifespan, openapi_url=None)
    shell.mount(page_files.PATH, page_files.page_files)
    shell.mount("/", RefusedBodies(door))
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
