"""The way in to a gateway on Airflow's database: makes it when it can be made, and says why not until then.

What the gateway needs - settings, tables, database - may be missing: whoever serves the door serves all the
same. Here gateway and Airflow are joined; how either works is not known, nor which server serves it.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn, Protocol

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from edge_ws import __version__
from edge_ws.errors import EdgeWsError, SchemaError, UnreachableError, UsageError
from edge_ws.protocol.frames import Refusal
from edge_ws.provider import compat
from edge_ws.provider.config import edge3_beat_s, gateway_settings, listen_url
from edge_ws.provider.dependencies import unmet
from edge_ws.provider.ports import AirflowFinishedLogs, AirflowTaskStates, AirflowTaskTokens
from edge_ws.provider.task_settings import task_settings
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.provider.users import AirflowUsers
from edge_ws.server.answers import refuse_worker
from edge_ws.server.app import Gateway
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


def make_gateway() -> Gateway:
    """Return a gateway on Airflow's database and log folder.

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
    tasks = AirflowTasks(engine, compat.log_folder, unmet)
    return Gateway(store, settings, states, AirflowTaskTokens(), logs, users=AirflowUsers(), tasks=tasks)


class Door:
    """Lets requests through to the gateway as soon as there is one; says why not until then."""

    def __init__(self, make: Callable[[], Serves], *, retry_s: float = RETRY_S) -> None:
        self._make = make
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
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.run, looked.set)
            if meanwhile is not None:
                await anyio.to_thread.run_sync(meanwhile)
            with anyio.move_on_after(PATIENCE_S):
                await looked.wait()
            yield
            tasks.cancel_scope.cancel()

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
            except Exception:
                # The loops behind the gateway, as a group: their connections are closed, workers come back.
                self._why = "it failed"
                log.exception("edge-ws: the gateway failed and is started again in %g s", self._retry_s)
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
