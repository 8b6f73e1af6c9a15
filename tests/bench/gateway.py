"""A real gateway in a process of its own: uvicorn, uvloop, websockets-sansio, a real store.

`python -m tests.bench.gateway URL PORT (plain|airflow)`: the last word says who mints the tokens.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from edge_ws.server.app import Gateway
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import TaskTokens
from edge_ws.store.store import Store
from tests.bench.control import raise_file_limit
from tests.support.databases import make_engine
from tests.support.gateway import LogFolder, Tasks

BACKLOG = 4096


def gateway_engine(url: str) -> sa.Engine:
    """Return an engine with the pool that Airflow's has by default: each checkout is tested."""
    if url.startswith("sqlite"):
        return make_engine(url)
    return sa.create_engine(url, pool_size=5, max_overflow=10, pool_recycle=1800, pool_pre_ping=True)


def _tokens(kind: str, plain: Tasks) -> TaskTokens:
    if kind == "plain":
        return plain
    from edge_ws.provider.ports import AirflowTaskTokens

    return AirflowTaskTokens()


def main(url: str, port: int, tokens: str) -> None:
    raise_file_limit()
    logging.basicConfig(level=logging.WARNING)
    tasks = Tasks()
    settings = GatewaySettings(hostname="bench")
    gateway = Gateway(Store(gateway_engine(url)), settings, tasks, _tokens(tokens, tasks), LogFolder())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = Starlette(lifespan=lifespan, routes=[Mount("/edge-ws", gateway.app)])
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        log_level="warning",
        loop="uvloop",
        ws="websockets-sansio",
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    # uvicorn raises the signal that ended it again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
