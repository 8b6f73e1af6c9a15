"""The gateway as a value: a Starlette app and the loops behind it, joined from a store and three ports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from edge_ws.errors import UnreachableError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, GatewayId, new_id
from edge_ws.server.config import GatewaySettings
from edge_ws.server.connection import Workers, refusal_response
from edge_ws.server.dispatcher import Dispatcher
from edge_ws.server.hub import Hub
from edge_ws.server.ports import FinishedLogs, TaskStates, TaskTokens
from edge_ws.server.reaper import Reaper
from edge_ws.server.reports import Reports
from edge_ws.store.store import Store


class Gateway:
    """One gateway: mount `app`, and keep `running()` open while it serves."""

    def __init__(
        self,
        store: Store,
        settings: GatewaySettings,
        task_states: TaskStates,
        task_tokens: TaskTokens,
        finished_logs: FinishedLogs,
    ) -> None:
        self.id = GatewayId(new_id())
        self._store = store
        self._settings = settings
        self._hub = Hub(on_capacity=self._wake)
        self._dispatcher = Dispatcher(store, self._hub, settings, self.id)
        self._reaper = Reaper(
            store,
            self._hub,
            settings,
            self.id,
            task_states=task_states,
            finished_logs=finished_logs,
            asks_for_tokens=lambda: True,
        )
        self._reports = Reports(
            store,
            self._hub,
            settings,
            task_tokens,
            on_ended=self._reaper.ended,
            on_unsettled=self._reaper.unsettled,
        )
        self._workers = Workers(store, self._hub, self._reports, settings, self.id)
        self._serving = False
        self.app = Starlette(
            routes=[
                WebSocketRoute("/v1/ws", self._workers.serve),
                Route("/v1/ws", self._upgrade_required),
                Route("/health", self._health),
            ]
        )

    def _wake(self) -> None:
        self._dispatcher.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the gateway's loops while the block runs.

        Raises:
            UnreachableError: the database is away at the start.
        """
        await anyio.to_thread.run_sync(self._store.announce, self.id, self._settings.hostname, os.getpid())
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(self._wake)

        watch = self._store.watch(changed)
        try:
            async with anyio.create_task_group() as tasks:
                if watch.can_watch:
                    watch.start()
                tasks.start_soon(self._run_dispatcher, watch.can_watch)
                tasks.start_soon(self._reports.run_reports)
                tasks.start_soon(self._reports.run_logs)
                tasks.start_soon(self._reaper.settle_for_ever)
                tasks.start_soon(self._reaper.beat_for_ever)
                tasks.start_soon(self._reaper.move_logs_for_ever)
                self._serving = True
                yield
                self._serving = False
                tasks.cancel_scope.cancel()
        finally:
            self._serving = False
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(watch.stop)
                await anyio.to_thread.run_sync(self._retire)

    async def _run_dispatcher(self, woken: bool) -> None:
        await self._dispatcher.run(woken=woken)

    def _retire(self) -> None:
        try:
            self._store.retire(self.id)
        except UnreachableError:
            # Its row shows a gateway that was last seen now; it is purged later.
            return

    async def _health(self, request: Request) -> Response:  # noqa: ARG002
        if not self._serving:
            return refusal_response(Refusal.UNAVAILABLE, "the gateway is starting or stopping", 5.0)
        return JSONResponse(
            {
                "edge_ws": "gateway",
                "status": "ok",
                "gateway": self.id,
                "protocol": PROTOCOL,
                "oldest_protocol": OLDEST_PROTOCOL,
                "workers": len(self._hub),
                "versions": self._settings.versions,
            }
        )

    async def _upgrade_required(self, request: Request) -> Response:  # noqa: ARG002
        """Answer a plain GET where a WebSocket was meant: a proxy has taken the Upgrade header away."""
        body = {"error": "upgrade_required", "sentence": "this path takes WebSocket connections only"}
        headers = {"edge-ws-error": "upgrade_required", "upgrade": "websocket", "connection": "upgrade"}
        return JSONResponse(body, status_code=426, headers=headers)
