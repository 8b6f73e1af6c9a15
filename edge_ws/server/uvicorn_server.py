"""uvicorn as a gateway needs it: it drains, serves below a path of its own, and runs in several processes.

Each process is a fresh interpreter: what one has loaded, and the connections it has made, would not survive
a fork. Knows of what it serves only how to drain it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_ws.server.guarded import GuardedState, Limits


class DrainingServer(uvicorn.Server):
    """Drains before it closes what is open; uvicorn alone closes all WebSockets when it is told to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[], Awaitable[None]],
        *,
        is_child: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Make it.

        Args:
            config: uvicorn's.
            drain: returns when nobody is connected any more, or enough time has passed.
            is_child: of a process that passes SIGTERM on, and that kills what is to end at once.
            limits: for the protocols of `guarded`, if the configuration names them.
        """
        super().__init__(config)
        self._guarded = GuardedState(limits or Limits())
        self.server_state = self._guarded
        self._drain = drain
        self._is_child = is_child

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the sockets; a TLS handshake has as long as a request's head (uvicorn gives it 60 s)."""
        if sockets is None or self.config.ssl is None:
            await super().startup(sockets)
            return
        await super().startup([])
        self.started = False
        loop, within_s = asyncio.get_running_loop(), self._guarded.limits.head_s
        for one in sockets:
            server = await loop.create_server(
                self._connection,
                sock=one,
                ssl=self.config.ssl,
                backlog=self.config.backlog,
                ssl_handshake_timeout=within_s,
            )
            self.servers.append(server)
        self.started = True

    def _connection(self) -> asyncio.Protocol:
        """Return what uvicorn makes for a new connection."""
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, drain, then close."""
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections every second; uvicorn calls it ten times as often."""
        if counter % 10 == 0:
            self._guarded.sweep(time.monotonic())
        return await super().on_tick(counter)

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


log = logging.getLogger(__name__)

LOOK_S = 0.2
"""How late a signal is noticed."""
AGAIN_S = 1.0
"""Between the end of a process that failed and the start of the one in its place."""
EXPECTED_CODES = range(2, 8)
"""Exit codes of our own errors: they would come again and again."""


class Processes:
    """A number of processes, each calling the same function, for as long as the parent is not told to end."""

    def __init__(
        self, count: int, target: Callable[..., None], arguments: tuple[Any, ...], *, end_within_s: float
    ) -> None:
        """Make it.

        Args:
            count: how many.
            target: what each calls; SIGTERM tells it to end, however often it comes.
            arguments: for the target; pickled.
            end_within_s: who has not ended by then is killed.
        """
        self._count = count
        self._target = target
        self._arguments = arguments
        self._end_within_s = end_within_s
        self._context = multiprocessing.get_context("spawn")
        self._living: list[BaseProcess] = []
        self._signals = 0

    def run(self) -> int:
        """Run until told to end, or a process ends with an expected fault; return the exit code."""
        old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = self._keep()
            self._end()
        finally:
            for one in self._living:
                one.kill()
            for number, handler in old.items():
                signal.signal(number, handler)
        return code

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's shape
        self._signals += 1

    def _keep(self) -> int:
        while not self._signals:
            while len(self._living) < self._count:
                one = self._context.Process(target=_child, args=(self._target, self._arguments))
                one.start()
                self._living.append(one)
            connection.wait([one.sentinel for one in self._living], LOOK_S)
            ended = self._forget_ended()
            expected = [code for code in ended if code in EXPECTED_CODES]
            if expected:
                return expected[0]
            if ended and not self._signals:
                log.error("A gateway process ended (%s) and is started again", ", ".join(map(str, ended)))
                time.sleep(AGAIN_S)
        return 0

    def _end(self) -> None:
        """Tell all to end; the next signal, or the end of patience, kills them."""
        told = self._signals
        until = time.monotonic() + self._end_within_s
        for one in self._living:
            one.terminate()
        while self._living and self._signals <= max(told, 1) and time.monotonic() < until:
            connection.wait([one.sentinel for one in self._living], LOOK_S)
            self._forget_ended()

    def _forget_ended(self) -> list[int]:
        """Forget who has ended; return their exit codes."""
        codes = [one.exitcode for one in self._living]
        self._living = [one for one, code in zip(self._living, codes, strict=True) if code is None]
        return [code for code in codes if code is not None]


def _child(target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call the target; without its parent a child leaves as if it were told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, name="edge-ws parent watch", daemon=True).start()
    target(*arguments)


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
