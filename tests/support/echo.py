"""A server that tells what reached it, by HTTP and by WebSocket: to prove what a proxy lets pass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.support.waiting import wait_until


async def _http(request: Request) -> JSONResponse:
    version, body = request.scope["http_version"], (await request.body()).decode()
    told = {"version": version, "body": body, "headers": dict(request.headers)}
    return JSONResponse({**told, "port": request.scope["server"][1]})


async def _websocket(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@contextmanager
def echoing() -> Iterator[int]:
    """Serve on a free port for the length of the block; give the port."""
    routes = [Route("/{path:path}", _http, methods=["GET", "POST"]), WebSocketRoute("/ws", _websocket)]
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Starlette(routes=routes), log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
