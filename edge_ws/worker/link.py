"""Keeps one connection to a gateway, for ever: opens, greets, speaks, and comes back after every end.

Drives the pure session over a transport; hands frames to whoever serves them. Knows no jobs.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio

from edge_ws.errors import EdgeWsError, RefusedError, RemoteProtocolError, UnreachableError, UsageError
from edge_ws.protocol.frames import Bye, Hello, Log, Refusal, Refused, ServerFrame, Welcome, WorkerFrame
from edge_ws.protocol.ids import WorkerName
from edge_ws.protocol.session import Close, CloseCode, WorkerSession
from edge_ws.protocol.states import Connection
from edge_ws.worker.transports.base import Channel, Transport, refusal

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 1.0
BACKOFF_LONGEST_S = 60.0
READY_RESETS_S = 30.0
"""A connection that was ready for so long makes the next backoff a first one."""
REFUSED_RETRY_S = 300.0
"""A worker whose credential once worked tries a refusing server again after this, with jitter, for ever."""
_COME_BACK = frozenset({Refusal.UNAVAILABLE.value, Refusal.PROTOCOL.value})
"""Refusals that may be over in a moment; all others need a person."""


class Served(Protocol):
    """What the link asks of the daemon."""

    def hello(self) -> Hello:
        """Return the greeting with the inventory as it is now."""
        ...

    def status(self) -> WorkerFrame:
        """Return the heartbeat."""
        ...

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        """A connection is ready."""
        ...

    def take(self, frame: ServerFrame) -> None:
        """Take a frame of a ready connection."""
        ...


@dataclass(slots=True)
class _Backoff:
    """Full jitter, doubling from BACKOFF_FIRST_S to BACKOFF_LONGEST_S."""

    tries: int = 0

    def next_s(self) -> float:
        ceiling = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0**self.tries)
        self.tries = min(self.tries + 1, 16)
        # Jitter against a thundering herd needs no secret randomness.
        return random.uniform(0.05, ceiling)  # noqa: S311


class Link:
    """The worker's side of the connection."""

    def __init__(
        self,
        worker: WorkerName,
        transport: Transport,
        served: Served,
        *,
        read_token: Callable[[], str],
        proven: bool,
        on_proven: Callable[[], None],
    ) -> None:
        """Make it.

        Args:
            worker: the worker's name.
            transport: how to reach a gateway.
            served: the daemon.
            read_token: reads the secret anew at each connect.
            proven: this credential has worked from this state directory before: then nothing ends the link.
            on_proven: called when it works for the first time.
        """
        self._worker = worker
        self._transport = transport
        self._served = served
        self._read_token = read_token
        self._proven = proven
        self._on_proven = on_proven
        self._backoff = _Backoff()
        self._session: WorkerSession | None = None
        self._urgent: deque[WorkerFrame] = deque()
        self._logs: deque[WorkerFrame] = deque()
        self._outgoing = anyio.Event()
        self._leaving: str | None = None
        self._retry_now = anyio.Event()

    @property
    def ready(self) -> bool:
        """Whether frames can be sent now."""
        return self._session is not None and self._session.state is Connection.READY

    def send(self, frame: WorkerFrame) -> bool:
        """Queue a frame for the ready connection, logs behind all others; False if there is none."""
        if not self.ready:
            return False
        (self._logs if isinstance(frame, Log) else self._urgent).append(frame)
        self._outgoing.set()
        return True

    def leave(self, reason: str) -> None:
        """Say goodbye and end: `run` returns."""
        self._leaving = reason
        self._outgoing.set()
        self._retry_now.set()

    def retry_now(self) -> None:
        """Cut a pause between two tries short."""
        self._retry_now.set()

    async def run(self) -> None:
        """Connect and serve until `leave`.

        Raises:
            RefusedError: refused, and this credential has never worked from this state directory.
            UsageError: no token is configured.
        """
        while self._leaving is None:
            pause_s = await self._connect_once()
            if self._leaving is None:
                self._retry_now = anyio.Event()
                with anyio.move_on_after(pause_s):
                    await self._retry_now.wait()

    async def _connect_once(self) -> float:
        """Serve one connection to its end; return the pause before the next, seconds."""
        opened_at = anyio.current_time()
        try:
            await self._serve(opened_at)
        except UsageError:
            raise
        except RefusedError as error:
            return self._refused(error)
        except EdgeWsError as error:
            pause_s = self._after(opened_at)
            log.warning("not connected: %s; next try in %.1f s", error, pause_s)
            return pause_s
        finally:
            self._session = None
            self._urgent.clear()
            self._logs.clear()
        return self._after(opened_at)

    def _after(self, opened_at: float) -> float:
        if anyio.current_time() - opened_at >= READY_RESETS_S:
            self._backoff = _Backoff()
        return self._backoff.next_s()

    def _refused(self, error: RefusedError) -> float:
        terminal = error.code not in _COME_BACK
        if terminal and not self._proven:
            raise error
        if error.retry_after_s is not None:
            pause_s = error.retry_after_s * random.uniform(1.0, 1.5)  # noqa: S311
        elif terminal:
            pause_s = REFUSED_RETRY_S * random.uniform(0.8, 1.2)  # noqa: S311
        else:
            pause_s = self._backoff.next_s()
        log.error("%s; running tasks go on, next try in %.0f s", error, pause_s)
        return pause_s

    async def _serve(self, opened_at: float) -> None:
        token = self._read_token()
        async with self._transport.open(self._worker, token) as channel:
            self._session = WorkerSession(anyio.current_time())
            self._outgoing = anyio.Event()
            hello = self._served.hello()
            self._session.sending(hello, anyio.current_time())
            await channel.send([hello])
            try:
                await self._speak(channel, self._session, opened_at)
            except RemoteProtocolError as error:
                await channel.close(Close(CloseCode(error.close_code), str(error)))
                raise

    async def _speak(self, channel: Channel, session: WorkerSession, opened_at: float) -> None:
        failed: list[EdgeWsError] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, channel, session, opened_at)
                tasks.start_soon(self._watch, channel, session)
                await self._write(channel, session)
                tasks.cancel_scope.cancel()
        except* EdgeWsError as group:
            failed.extend(flat(group))
        if failed and not (self._leaving is not None and session.state is Connection.CLOSED):
            # Each task fails for the same end of the connection; a refusal says the most.
            raise next((error for error in failed if isinstance(error, RefusedError)), failed[0])

    async def _read(self, channel: Channel, session: WorkerSession, opened_at: float) -> None:
        while True:
            for frame in await channel.receive():
                now = anyio.current_time()
                session.receive(frame, now)
                self._take(frame, now - opened_at)

    def _take(self, frame: ServerFrame, since_open_s: float) -> None:
        if isinstance(frame, Welcome):
            if not self._proven:
                self._proven = True
                self._on_proven()
            self._served.welcomed(frame, since_open_s, self._transport.name)
            # What was asked for while the connection was opened.
            self._outgoing.set()
        elif isinstance(frame, Refused):
            raise refusal(self._transport.where, frame.code.value, frame.sentence, frame.retry_after_s)
        else:
            self._served.take(frame)

    async def _write(self, channel: Channel, session: WorkerSession) -> None:
        """Write what is queued; return once goodbye is said."""
        while True:
            await self._outgoing.wait()
            self._outgoing = anyio.Event()
            while self._urgent or self._logs:
                # One log chunk at a time, so that what is urgent never waits behind more than one.
                frames = list(self._urgent) or [self._logs.popleft()]
                self._urgent.clear()
                for frame in frames:
                    session.sending(frame, anyio.current_time())
                await channel.send(frames)
            if self._leaving is not None and self.ready:
                bye = Bye(reason=self._leaving)
                session.sending(bye, anyio.current_time())
                await channel.send([bye])
                await channel.close(Close(CloseCode.LEAVING, self._leaving))
                return

    async def _watch(self, channel: Channel, session: WorkerSession) -> None:
        while True:
            now = anyio.current_time()
            deadline = session.deadline()
            await anyio.sleep(min(1.0, max(0.01, (deadline or now + 1.0) - now)))
            due = session.tick(anyio.current_time())
            if due.close is not None:
                await channel.close(due.close)
                raise UnreachableError(f"the server is silent: {due.close.reason}")
            if due.beat:
                self.send(self._served.status())


def flat(group: BaseExceptionGroup[EdgeWsError]) -> list[EdgeWsError]:
    """Return the errors of a group of groups."""
    found: list[EdgeWsError] = []
    for error in group.exceptions:
        found.extend(flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
