"""Tells a worker whom the gateway takes it for, and registers nothing: what `edge-ws doctor` asks.

Knows no connections: one of the same name is not disturbed.
"""

from __future__ import annotations

import asyncio
import math
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_ws.errors import RefusedError, UnreachableError
from edge_ws.protocol.frames import Refusal
from edge_ws.protocol.http import TOKEN_HEADER, WORKER_HEADER
from edge_ws.protocol.ids import OLDEST_PROTOCOL, PROTOCOL, GatewayId
from edge_ws.server import auth
from edge_ws.server.answers import answer_to, refuse_worker
from edge_ws.server.config import GatewaySettings
from edge_ws.server.work import Desk
from edge_ws.store.store import Store

LONGEST_HOLD_S = 60.0
HELD_AT_ONCE = 100
"""Answers that are held back; further ones are given at once."""


class WhoAmI:
    """Answers `GET v1/whoami`, after `hold_s` seconds if the query says so: does something cut it?"""

    def __init__(self, store: Store, settings: GatewaySettings, gateway: GatewayId) -> None:
        self._store = store
        self._settings = settings
        self._gateway = gateway
        self._desk = Desk(threads=1)
        self._held = 0

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            hold_s = _hold_s(request.query_params.get("hold_s", "0"))
        except ValueError as error:
            return refuse_worker(Refusal.PROTOCOL, str(error))
        try:
            principal = await self._desk.run(
                auth.authenticate,
                self._store,
                request.headers.get(TOKEN_HEADER),
                request.headers.get(WORKER_HEADER),
            )
        except (RefusedError, UnreachableError) as error:
            return answer_to(error)
        held_s = await self._hold(request, hold_s) if hold_s > 0.0 else 0.0
        return JSONResponse(
            {
                "worker": principal.worker,
                "queues": None if principal.queues is None else sorted(principal.queues),
                "team": principal.team,
                "gateway": self._gateway,
                "protocol": PROTOCOL,
                "oldest_protocol": OLDEST_PROTOCOL,
                "versions": self._settings.versions,
                "execution_api_url": self._settings.execution_api_url,
                "held_s": held_s,
                "time": time.time(),
            },
            headers={"cache-control": "no-store"},
        )

    async def _hold(self, request: Request, hold_s: float) -> float:
        """Wait; return for how long, seconds. Shorter when the asker leaves."""
        if self._held >= HELD_AT_ONCE:
            return 0.0
        self._held += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(hold_s):
                while (await request.receive())["type"] != "http.disconnect":
                    continue
        except TimeoutError:
            return hold_s
        finally:
            self._held -= 1
        return time.monotonic() - began


def _hold_s(text: str) -> float:
    try:
        hold_s = float(text)
    except ValueError:
        hold_s = math.nan
    if not 0.0 <= hold_s <= LONGEST_HOLD_S:
        raise ValueError(f"hold_s must be a number of seconds from 0 to {LONGEST_HOLD_S:.0f}")
    return hold_s
