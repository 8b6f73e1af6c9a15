"""uvicorn's protocols within limits: connections, the time and size of a request's head, what nobody takes.

What is unfinished or not taken on the other side ends after a while, and holds little until then. uvicorn has
an option for the size of a head alone. Knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from edge_ws.protocol.frames import MAX_FRAME
from edge_ws.server.entrance import network

log = logging.getLogger(__name__)

MAX_HEAD = 64 * 1024
"""Bytes of a request's head."""
MOST_CONNECTIONS = 20_000
FILES_KEPT = 256
"""Files that connections leave free: for the database, for logs that are moved."""
UNSENT = 2 * MAX_FRAME
"""Bytes that may wait for a worker: a message, and what else its connection answers, such as pings."""
MOST_PIECES = 1024
"""Of one WebSocket message."""
TOLD_S = 60.0
"""Between two lines of the log about connections that were refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server takes."""

    connections: int = MOST_CONNECTIONS
    head_s: float = 10.0
    """For a request's head, since the connection's beginning or its own; and for a body that nobody reads."""
    taken_s: float = 20.0
    """A connection on which so long nothing is taken of what waits for it is cut."""

    @property
    def of_one(self) -> int:
        """Connections of one address; a site's workers may share one, and behind a proxy all do."""
        return max(1, self.connections // 2)


def limits_by_files() -> Limits:
    """Raise this process's limit of open files as far as it may be; return what it can serve with that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return Limits()
    return Limits(connections=max(1, min(MOST_CONNECTIONS, soft - FILES_KEPT, soft * 3 // 4)))


class GuardedState(ServerState):
    """What the connections of one server share."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self._by_network: Counter[str] = Counter()
        self._refused = 0
        self._told_at = 0.0

    def enter(self, address: str) -> bool:
        """Count one more connection; return False, and count none, if that is one too many."""
        at_most = self.limits.connections
        if self._by_network.total() >= at_most or self._by_network[address] >= self.limits.of_one:
            self._refused += 1
            return False
        self._by_network[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        self._by_network[address] -= 1
        if self._by_network[address] <= 0:
            del self._by_network[address]

    def sweep(self, now: float) -> None:
        """Cut the connections whose time is over; call it about every second."""
        for one in list(self.connections):
            if isinstance(one, GuardedHttp | GuardedWebSocket):
                one.deadlines.look(now)
        if self._refused and now - self._told_at >= TOLD_S:
            log.warning("Too many connections; refused since the last such line: %d", self._refused)
            self._refused, self._told_at = 0, now


class Deadlines:
    """One connection's times; they end when it is cut."""

    def __init__(self, limits: Limits, transport: asyncio.Transport) -> None:
        self._limits = limits
        self._transport = transport
        self.awaited_since: float | None = time.monotonic()
        """Since when what was begun is to be finished by the other side."""
        self.stuck_since: float | None = None
        """Since when it takes nothing, or does not let the connection end."""

    def look(self, now: float) -> None:
        """Cut the connection if its time is over."""
        if self.stuck_since is None and self._transport.is_closing():
            self.stuck_since = now
        if (self.awaited_since is not None and now - self.awaited_since > self._limits.head_s) or (
            self.stuck_since is not None and now - self.stuck_since > self._limits.taken_s
        ):
            self._transport.abort()


class GuardedHttp(H11Protocol):
    """An HTTP connection."""

    server_state: GuardedState

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        self.deadlines = Deadlines(self.server_state.limits, transport)
        self._network = network(self.client[0] if self.client else None)
        self._counts = self.server_state.enter(self._network)
        if not self._counts:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self._counts:
            self.server_state.leave(self._network)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and note whether what they belong to is whole."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Note a body that nobody will read."""
        super().on_response_complete()
        self._note(is_new=False)

    def _note(self, *, is_new: bool = True) -> None:
        theirs, ours = self.conn.their_state, self.conn.our_state
        is_unread = theirs is h11.SEND_BODY and ours is h11.DONE
        if not is_unread and (theirs is not h11.IDLE or not is_new):
            self.deadlines.awaited_since = None
        elif self.deadlines.awaited_since is None:
            self.deadlines.awaited_since = time.monotonic()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection on; it counts until the WebSocket ends."""
        super().handle_websocket_upgrade(event)
        self.deadlines.awaited_since = None

    def pause_writing(self) -> None:
        """Note that the other side takes nothing."""
        super().pause_writing()
        self.deadlines.stuck_since = time.monotonic()

    def resume_writing(self) -> None:
        """Note that it takes what there is."""
        super().resume_writing()
        self.deadlines.stuck_since = None


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket; its first message, and how fast messages are taken, are for its application to watch."""

    server_state: GuardedState

    def __init__(
        self,
        config: Config,
        server_state: GuardedState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.server_state = server_state

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the connection has been counted."""
        super().connection_made(transport)
        self.deadlines = Deadlines(self.server_state.limits, transport)
        self.deadlines.awaited_since = None
        self._network = network(self.client[0] if self.client else None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self.server_state.leave(self._network)

    def handle_connect(self, event: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Have it judged; until it is accepted nothing more is read."""
        super().handle_connect(event)
        if not self.handshake_complete:
            self.transport.pause_reading()

    async def send(self, message: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Send a message of the application."""
        await super().send(message)
        if message["type"] == "websocket.accept" and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        """Answer a ping; one who never takes the answers is cut."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > UNSENT:
            self.transport.abort()

    def handle_cont(self, event: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Take a piece of a message; pieces may be empty, so that their sum is no limit."""
        super().handle_cont(event)
        if len(self.frames) > MOST_PIECES:
            self.transport.abort()
