"""uvicorn as a gateway needs it: leaves in good order when told to, and serves below a path of its own.

Knows of what it serves only how to drain it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


class DrainingServer(uvicorn.Server):
    """Drains before it closes what is open; uvicorn alone closes all WebSockets when it is told to end."""

    def __init__(
        self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], *, is_child: bool = False
    ) -> None:
        """Make it.

        Args:
            config: uvicorn's.
            drain: returns when nobody is connected any more, or enough time has passed.
            is_child: of a process that passes SIGTERM on, and that kills what is to end at once.
        """
        super().__init__(config)
        self._drain = drain
        self._is_child = is_child

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, drain, then close."""
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while the block runs. uvicorn would raise them again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # A terminal sends Ctrl-C to children as well.
        on_interrupt = signal.SIG_IGN if self._is_child else self.handle_exit
        old = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self.handle_exit),
            signal.SIGINT: signal.signal(signal.SIGINT, on_interrupt),
        }
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's shape
        """Begin to leave; told a second time, end at once: nothing here is lost by that."""
        if not self.should_exit:
            self.should_exit = True
        elif not self._is_child:
            # A service manager tells children itself, and their parent does: for them twice means nothing.
            os._exit(128 + sig)


class BelowPath:
    """An ASGI app that finds the same below a path, whether a proxy has taken the path away or not."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        """Make it; `path` has no slash at its end, and is empty for none."""
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if self._path and scope["type"] != "lifespan" and scope["path"].startswith(f"{self._path}/"):
            raw_path: bytes = scope["raw_path"]
            # A path that is written with escapes is not meant: the relay looks at the raw one.
            raw_path = raw_path.removeprefix(self._path.encode())
            scope = {**scope, "path": scope["path"].removeprefix(self._path), "raw_path": raw_path}
        await self._app(scope, receive, send)
