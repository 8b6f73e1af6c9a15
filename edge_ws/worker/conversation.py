"""One connection to a gateway, from its opening to its end, whatever the transport.

Drives the pure session over a channel. Knows neither jobs nor other connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, TypeVar

import anyio

from edge_ws.errors import RefusedError, RemoteProtocolError, Unreachable, UnreachableError
from edge_ws.guard import expected
from edge_ws.protocol.frames import (
    Bye,
    Hello,
    Inventory,
    Log,
    Refused,
    Renew,
    Renewed,
    ServerFrame,
    Status,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.ids import RENEWAL, WorkerName
from edge_ws.protocol.session import Close, CloseCode, WorkerSession
from edge_ws.protocol.states import Connection
from edge_ws.worker.transports.base import Channel, Transport, refused_by

_E = TypeVar("_E", bound=BaseException)

RETIRED_FOR_S = 2.0
"""For so long a connection that another one replaces still hears what is on its way."""


SHOW_AGAIN_S = 2.0
LONGEST_SHOW_AGAIN_S = 60.0
"""After a token that the gateway has refused while the one before it was good; doubling."""


class End(Enum):
    """What a conversation is asked to do."""

    RETIRE = "retire"
    """Another one has taken over."""
    LEAVE = "leave"
    """The worker goes: say goodbye."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a conversation calls; all on the event loop."""

    hello: Callable[[], Hello]
    status: Callable[[], Status]
    welcomed: Callable[[Conversation, Welcome], None]
    heard: Callable[[Conversation, ServerFrame], None]
    another_token: Callable[[str], Awaitable[str]]
    """Waits until there is another token than that one."""


class Conversation:
    """The worker's side of one connection."""

    def __init__(self, transport: Transport, spoken: Callbacks) -> None:
        self.transport = transport
        self.opened_at = anyio.current_time()
        self.ready_at: float | None = None
        self._spoken = spoken
        self._session = WorkerSession(self.opened_at)
        self._greeted: Inventory | None = None
        self._urgent: deque[WorkerFrame] = deque()
        self._logs: deque[WorkerFrame] = deque()
        self._outgoing = anyio.Event()
        self._more_logs = anyio.Event()
        self._end: End | None = None
        self._bye: Bye | None = None
        self._token = ""
        """The one that the gateway has taken."""
        self._renewed: Renewed | None = None
        self._answered = anyio.Event()
        self._renews = False
        """The gateway takes another one over the open connection."""

    @property
    def ready(self) -> bool:
        """Whether frames can be sent now."""
        return self._session.state is Connection.READY and self._end is not End.RETIRE

    def send(self, frame: WorkerFrame) -> None:
        """Queue a frame, logs behind all others."""
        if isinstance(frame, Log):
            self._logs.append(frame)
            self._more_logs.set()
        else:
            self._urgent.append(frame)
            self._outgoing.set()

    def leave(self, bye: Bye) -> None:
        """Say goodbye and end: `run` returns."""
        self._end, self._bye = End.LEAVE, bye
        self._outgoing.set()

    def retire(self) -> None:
        """Say nothing more; hear what is on its way, then end: `run` returns."""
        self._end = End.RETIRE
        self._outgoing.set()

    async def run(self, worker: WorkerName, token: str) -> None:
        """Open, greet and speak, until asked to end.

        Raises:
            EdgeWsError: refused, not opened, or broken off.
            Exception: a fault of our own, or of a library.
        """
        self._token = token
        async with self.transport.open(worker, token) as channel:
            hello = self._spoken.hello()
            # The time to open is the transport's; from here the session's rules count.
            self._session = WorkerSession(anyio.current_time())
            self._greeted = hello.inventory
            self._session.sending(hello, anyio.current_time())
            await channel.send([hello])
            try:
                await self._speak(channel)
            except RemoteProtocolError as error:
                await channel.close(Close(CloseCode(error.close_code), str(error)))
                raise

    async def _speak(self, channel: Channel) -> None:
        failed: list[BaseException] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, channel)
                tasks.start_soon(self._watch, channel)
                tasks.start_soon(self._write_logs, channel)
                tasks.start_soon(self._keep_token)
                await self._write(channel)
                if self._end is End.RETIRE:
                    channel.retire()
                    await anyio.sleep(RETIRED_FOR_S)
                tasks.cancel_scope.cancel()
        except* Exception as group:  # noqa: BLE001 - the first that counts is raised below
            failed.extend(flat(group))
        if failed and self._end is None:
            # Each task fails for the same end; a refusal says the most, a fault of our own next.
            refused = next((error for error in failed if isinstance(error, RefusedError)), None)
            raise refused or next((error for error in failed if not expected(error)), failed[0])

    async def _read(self, channel: Channel) -> None:
        while True:
            for frame in await channel.receive():
                self._session.receive(frame, anyio.current_time())
                self._take(frame)

    def _take(self, frame: ServerFrame) -> None:
        if isinstance(frame, Welcome) and self._end is End.RETIRE:
            return
        if isinstance(frame, Welcome):
            self.ready_at = anyio.current_time()
            self._renews = RENEWAL in frame.capabilities
            self._spoken.welcomed(self, frame)
            status = self._spoken.status()
            if status.inventory != self._greeted:
                # Nothing could be sent between hello and welcome; the next heartbeat may be far away.
                self.send(status)
            # What was asked for while the connection was opened.
            self._outgoing.set()
        elif isinstance(frame, Refused):
            raise refused_by(self.transport.where, frame.code.value, frame.sentence, frame.retry_after_s)
        elif isinstance(frame, Renewed):
            self._renewed = frame
            self._answered.set()
            self._spoken.heard(self, frame)
        else:
            self._spoken.heard(self, frame)

    async def _keep_token(self) -> NoReturn:
        """Show the gateway each new token; one that it refuses is shown again, for that may be over."""
        again_s = SHOW_AGAIN_S
        while True:
            token = await self._spoken.another_token(self._token)
            if not (self._renews and self.ready):
                await anyio.sleep(again_s)
                continue
            if await self._show(token):
                self._token, again_s = token, SHOW_AGAIN_S
            else:
                await anyio.sleep(again_s)
                again_s = min(2.0 * again_s, LONGEST_SHOW_AGAIN_S)

    async def _show(self, token: str) -> bool:
        """Show the gateway another token; return whether it takes it."""
        self._renewed, self._answered = None, anyio.Event()
        self.send(Renew(token=token))
        with anyio.move_on_after(LONGEST_SHOW_AGAIN_S):
            await self._answered.wait()
        answer: Renewed | None = self._renewed
        return answer is not None and answer.refusal is None

    async def _write(self, channel: Channel) -> None:
        """Write what is queued; return once goodbye is said, or another one has taken over."""
        while True:
            await self._outgoing.wait()
            self._outgoing = anyio.Event()
            while self._urgent and self._end is not End.RETIRE:
                frames = list(self._urgent)
                self._urgent.clear()
                await self._say(channel, frames)
            if self._end is End.RETIRE:
                return
            if self._bye is not None and self.ready:
                self._session.sending(self._bye, anyio.current_time())
                await channel.send([self._bye])
                await channel.close(Close(CloseCode.LEAVING, self._bye.reason))
                return

    async def _write_logs(self, channel: Channel) -> NoReturn:
        """Write logs, a chunk at a time: what is urgent never waits behind more, nor for one that hangs."""
        while True:
            await self._more_logs.wait()
            self._more_logs = anyio.Event()
            while self._logs and self._end is not End.RETIRE:
                await self._say(channel, [self._logs.popleft()])

    async def _say(self, channel: Channel, frames: list[WorkerFrame]) -> None:
        for frame in frames:
            self._session.sending(frame, anyio.current_time())
        await channel.send(frames)

    async def _watch(self, channel: Channel) -> None:
        while True:
            now = anyio.current_time()
            deadline = self._session.deadline()
            await anyio.sleep(min(1.0, max(0.01, (deadline or now + 1.0) - now)))
            await self._tick(channel)

    async def _tick(self, channel: Channel) -> None:
        """Do what is due by the clock."""
        now = anyio.current_time()
        if self.ready_at is not None and not channel.beats:
            # Its requests are answered in time or fail.
            self._session.heard(now)
            self._session.spoke(now)
        due = self._session.tick(now)
        if due.close is not None:
            await channel.close(due.close)
            sentence = f"the server is silent: {due.close.reason}"
            raise UnreachableError(sentence, kind=Unreachable.BROKE_OFF)
        if due.beat:
            self.send(self._spoken.status())


def flat(group: BaseExceptionGroup[_E]) -> list[_E]:
    """Return the errors of a group of groups."""
    found: list[_E] = []
    for error in group.exceptions:
        found.extend(flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
