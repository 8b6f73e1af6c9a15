"""Keeps the worker connected, for ever: by which transport, when again, and over to a better one.

One conversation is current and carries what is sent; another one may be opened beside it, and takes over when
it is ready. Knows no jobs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from edge_ws.errors import EdgeWsError, RefusedError, Unreachable, UnreachableError, UsageError
from edge_ws.protocol.frames import (
    LOG_CHUNK,
    MAX_FRAME,
    Bye,
    Drain,
    Hello,
    Refusal,
    Renewed,
    ServerFrame,
    Status,
    Welcome,
    WorkerFrame,
)
from edge_ws.protocol.ids import EXPIRY_TOLD_S, WorkerName
from edge_ws.worker.conversation import Callbacks, Conversation
from edge_ws.worker.credential import Credential
from edge_ws.worker.faults import Faults
from edge_ws.worker.steadiness import GATEWAY_LEAVES, Steadiness
from edge_ws.worker.transport_choice import (
    AUTO,
    COME_BACK,
    LONGPOLL,
    READY_RESETS_S,
    WEBSOCKET,
    Choice,
    Mode,
    Pauses,
    refusal_of,
)
from edge_ws.worker.transports.base import Transport

log = logging.getLogger(__name__)

RENEW_AGAIN_S = 2.0
"""After a connection could not be opened beside the current one, whose gateway is leaving or is cut soon."""
WRONG_URL = "wrong_url"
"""Code of the end of a first start where whoever answers is no gateway."""
_SAME_FOR_ALL = frozenset({Unreachable.TLS, Unreachable.NO_ANSWER, Unreachable.FOREIGN, Unreachable.SILENT})


class LinkOwner(Protocol):
    """What the link asks of the daemon."""

    def hello(self) -> Hello:
        """Return the greeting with the inventory as it is now."""
        ...

    def status(self) -> Status:
        """Return the heartbeat."""
        ...

    def welcomed(self, welcome: Welcome, opened_in_s: float, transport: str) -> None:
        """A connection is ready."""
        ...

    def take(self, frame: ServerFrame) -> None:
        """Take a frame of a ready connection."""
        ...


class Link:
    """The worker's side of the connection."""

    def __init__(
        self,
        worker: WorkerName,
        transports: Sequence[Transport],
        served: LinkOwner,
        *,
        read_token: Callable[[], str],
        token_command: Callable[[], Awaitable[str]] | None = None,
        proven: bool,
        on_proven: Callable[[], None],
        wait: bool = False,
        faults: Faults | None = None,
    ) -> None:
        """Make it.

        Args:
            worker: the worker's name.
            transports: the ways to reach a gateway; of several the best that works is taken.
            served: the daemon.
            read_token: reads the secret.
            token_command: gives it in place of that.
            proven: this credential has worked from this state directory before: then nothing ends the link.
            on_proven: called when it works for the first time.
            wait: nothing ends the link before that either: what is missing may come.
            faults: takes unexpected exceptions.
        """
        self._worker = worker
        self._transports = {transport.name: transport for transport in transports}
        self._served = served
        self._credential = Credential(read_token, token_command)
        self._proven = proven
        self._on_proven = on_proven
        self._wait = wait
        self._faults = faults or Faults()
        self._pauses = Pauses()
        self._shown = ""
        """The token that was last shown to a gateway; empty: there was none to show."""
        self._choice = Choice(AUTO if len(transports) > 1 else transports[0].name, 0.0)
        self.steadiness = Steadiness()
        self._spoken = Callbacks(
            served.hello, served.status, self._welcomed, self._heard, self._credential.another
        )
        self._current: Conversation | None = None
        self._open: set[Conversation] = set()
        """The current one, those that are being opened, and those that are retired."""
        self._errors: list[EdgeWsError] = []
        """Since the last connection was ready."""
        self._fatal: EdgeWsError | None = None
        self._longest_s = 0.0
        self._drain_at: float | None = None
        """When to leave the current connection's gateway."""
        self._renew_after = 0.0
        self._changed = anyio.Event()
        self._leaving: Bye | None = None
        self._trouble = ""
        self.twin: str | None = None
        """Where another daemon with this one's state directory, or a copy of it, runs; as last heard."""
        self._retry_now = anyio.Event()

    @property
    def ready(self) -> bool:
        """Whether frames can be sent now."""
        return self._current is not None and self._current.ready

    @property
    def mode(self) -> Mode:
        """How the worker is connected, or was."""
        return self._choice.mode

    @property
    def message_limit(self) -> int | None:
        """The most bytes of a message that pass on the way in use; None: no limit is known, or no way."""
        if self._current is None or (learnt := self._current.transport.sizes.learnt) >= MAX_FRAME:
            return None
        return learnt

    @property
    def log_chunk(self) -> int:
        """The most bytes of a log that pass in one frame."""
        return LOG_CHUNK if self._current is None else self._current.transport.sizes.log_chunk

    @property
    def round_trip_s(self) -> float | None:
        """How long a small message was last under way, there and back; None: not known of this connection."""
        return None if self._current is None else self._current.transport.sizes.round_trip_s

    @property
    def ready_since(self) -> float | None:
        """When the present connection became ready, on the event loop's clock."""
        return self._current.ready_at if self._current is not None else None

    @property
    def trouble(self) -> str:
        """Why there is no connection, as far as that is known."""
        return "" if self._current is not None else self._trouble

    def send(self, frame: WorkerFrame) -> bool:
        """Queue a frame for the ready connection, logs behind all others; False if there is none."""
        if self._current is None or not self._current.ready:
            return False
        self._current.send(frame)
        return True

    def leave(self, bye: Bye) -> None:
        """Say goodbye and end: `run` returns."""
        self._leaving = bye
        if self._current is not None:
            self._current.leave(bye)
        self._retry_now.set()
        self._changed.set()

    def retry_now(self) -> None:
        """Cut a pause between two tries short, and try a WebSocket again if that is not in use."""
        self._choice.probe_now(anyio.current_time())
        self._retry_now.set()
        self._changed.set()

    async def run(self) -> None:
        """Connect and serve until `leave`.

        Raises:
            RefusedError: refused, or answered by no gateway, and this credential has never worked from this
                state directory.
            UsageError: no token is configured.
        """
        # After a fault of its own it begins anew: what was open has been closed.
        self._open, self._current, self._fatal = set(), None, None
        async with anyio.create_task_group() as tasks:
            while self._leaving is None and self._fatal is None:
                pause_s = await self._contact(tasks)
                if self._leaving is None and self._fatal is None:
                    await self._pause(pause_s)
            tasks.cancel_scope.cancel()
        if self._fatal is not None:
            raise self._fatal

    async def _contact(self, tasks: TaskGroup) -> float:
        """Connect and serve until no connection is left; return the pause before the next try, seconds."""
        self._errors, self._longest_s = [], 0.0
        began = anyio.current_time()
        first, *others = self._choice.begin()
        self._start(tasks, first)
        with anyio.move_on_after(self._choice.head_start_s):
            while self._current is None and self._open and self._leaving is None:
                self._changed = anyio.Event()
                await self._changed.wait()
        for other in others:
            if self._current is None and self._is_worth_another_way():
                self._start(tasks, other)
        while self._open and self._fatal is None:
            if self._leaving is not None and self._current is None:
                # What is being opened only now would be told goodbye at once.
                break
            with anyio.move_on_after(self._renew(tasks)):
                self._changed = anyio.Event()
                await self._changed.wait()
        is_over = self._leaving is not None or self._fatal is not None
        return 0.0 if is_over else self._pause_s(anyio.current_time() - began)

    def _is_worth_another_way(self) -> bool:
        """Tell whether what stands in the way may let another transport pass.

        A refusal, a certificate and a server that is not there are the same for each.
        """
        if self._fatal is not None or self._leaving is not None:
            return False
        return not any(
            isinstance(error, RefusedError)
            or (isinstance(error, UnreachableError) and error.kind in _SAME_FOR_ALL)
            for error in self._errors
        )

    # One conversation

    def _start(self, tasks: TaskGroup, transport: str) -> None:
        conversation = Conversation(self._transports[transport], self._spoken)
        self._open.add(conversation)
        tasks.start_soon(self._converse, conversation)

    async def _converse(self, conversation: Conversation) -> None:
        error: EdgeWsError | None = None
        try:
            self._shown = ""
            self._shown = await self._credential.current()
            await conversation.run(self._worker, self._shown)
        except EdgeWsError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - it costs this connection, no more
            self._faults.note(f"a connection by {conversation.transport.name}", caught)
            sentence = f"a fault of this program: {type(caught).__name__}: {caught}"
            error = UnreachableError(sentence, kind=Unreachable.FAULT)
        self._over(conversation, error)

    def _over(self, conversation: Conversation, error: EdgeWsError | None) -> None:
        now, name = anyio.current_time(), conversation.transport.name
        self._open.discard(conversation)
        was_current = conversation is self._current
        if was_current:
            self._current = None
        if conversation.ready_at is None and error is not None:
            self._choice.failed(name, str(error), now)
            self._renew_after = now + random.uniform(1.0, 2.0) * RENEW_AGAIN_S  # noqa: S311
        elif conversation.ready_at is not None:
            lived_s = now - conversation.ready_at
            self._longest_s = max(self._longest_s, lived_s)
            if was_current and error is not None:
                was_cut = isinstance(error, UnreachableError) and error.kind is Unreachable.BROKE_OFF
                self._choice.ended(name, lived_s, str(error), now, was_cut=was_cut)
                self.steadiness.lost(str(error), datetime.now(UTC), _kind(error))
        if error is not None:
            self._note(error)
        self._changed.set()

    def _note(self, error: EdgeWsError) -> None:
        if isinstance(error, RefusedError) and error.code == Refusal.TOKEN.value:
            self._credential.refused()
        final = error if isinstance(error, UsageError) else self._final(error)
        if final is not None:
            self._fatal = self._fatal or final
        if self._current is None:
            self._errors.append(error)
        else:
            log.info("still by %s: %s", self._current.transport.name, error)

    def _final(self, error: EdgeWsError) -> EdgeWsError | None:
        """Return what ends a first start: a person is there, and trying again does not help; else None."""
        if self._proven or self._wait:
            return None
        if isinstance(error, UnreachableError) and error.kind is Unreachable.FOREIGN:
            return RefusedError(WRONG_URL, str(error))
        return error if isinstance(error, RefusedError) and error.code not in COME_BACK else None

    def _welcomed(self, conversation: Conversation, welcome: Welcome) -> None:
        now, name = anyio.current_time(), conversation.transport.name
        if not self._proven:
            self._proven = True
            self._on_proven()
        if self._leaving is not None:
            conversation.leave(self._leaving)
        older, self._current = self._current, conversation
        if older is not None:
            older.retire()
        for other in self._open:
            if name == WEBSOCKET and other.ready_at is None and other is not conversation:
                # A long-poll that is let in after it would take its place.
                other.retire()
        self._errors, self._drain_at, self._renew_after = [], None, 0.0
        self._choice.ready(name, now)
        self.steadiness.ready(name)
        self._credential.good_for(welcome.token_expires_in_s)
        self.twin = welcome.twin
        if welcome.twin is not None:
            log.error(
                "another worker uses this state directory, or a copy of it, at the same time (%s): the two "
                "take each other's place; stop one, and give it a --state-dir of its own, or remove the copy",
                welcome.twin,
            )
        if welcome.token_expires_in_s is not None and welcome.token_expires_in_s <= EXPIRY_TOLD_S:
            log.warning(
                "the token expires in %.1f days; replace it in time: edge-ws token rotate at the centre",
                welcome.token_expires_in_s / 86_400,
            )
        with self._faults.contained("the greeting of a gateway"):
            self._served.welcomed(welcome, now - conversation.opened_at, name)
        if name == LONGPOLL and self._choice.mode.reason:
            log.warning("by long-poll, because %s; WebSockets are tried again", self._choice.mode.reason)
        self._changed.set()

    def _heard(self, conversation: Conversation, frame: ServerFrame) -> None:
        if isinstance(frame, Renewed):
            self._credential.answered(frame)
        elif not isinstance(frame, Drain):
            # Of a retired one, too: the offer that was on its way is an offer.
            with self._faults.contained("a frame of the gateway"):
                self._served.take(frame)
        elif conversation is self._current and self._drain_at is None:
            log.info("the gateway is leaving: a new connection is opened in %.1f s", frame.come_back_s)
            self._drain_at = anyio.current_time() + frame.come_back_s
            self.steadiness.leaving(GATEWAY_LEAVES)
            self._changed.set()

    # Over to another one

    def _renew(self, tasks: TaskGroup) -> float | None:
        """Open another conversation if that is due; return the seconds until it is, None: nothing planned."""
        current = self._current
        if current is None or current.ready_at is None or self._leaving is not None:
            return None
        if any(one.ready_at is None for one in self._open):
            return None
        due = self._choice.renewal(current.transport.name, current.ready_at)
        if self._drain_at is not None:
            due = self._drain_at, current.transport.name
        if due is None:
            return None
        at, transport = due
        now = anyio.current_time()
        if now < max(at, self._renew_after):
            return max(at, self._renew_after) - now
        self._start(tasks, transport)
        return None

    # Pauses

    async def _pause(self, pause_s: float) -> None:
        """Wait for that long, less if somebody asks for a try now, or if another token is there."""
        self._retry_now = anyio.Event()
        refused = refusal_of(self._errors)
        with anyio.move_on_after(pause_s):
            async with anyio.create_task_group() as tasks:
                if refused is not None and refused.code not in COME_BACK:
                    tasks.start_soon(self._retry_by_another_token, self._retry_now)
                await self._retry_now.wait()
                tasks.cancel_scope.cancel()

    async def _retry_by_another_token(self, retry_now: anyio.Event) -> None:
        await self._credential.another(self._shown)
        retry_now.set()

    def _pause_s(self, tried_s: float) -> float:
        """Return how long to wait now that nothing is open, and say why."""
        if self._longest_s > 0:
            tried_s = 0.0
        if self._longest_s >= READY_RESETS_S:
            self._pauses.steady()
        pause_s = self._pauses.next_s(self._errors, tried_s, anyio.current_time())
        if not self._errors:
            return pause_s
        refused = refusal_of(self._errors)
        why = str(refused) if refused else "; and ".join(dict.fromkeys(str(one) for one in self._errors))
        self._trouble = why
        # A gateway that is busy or starting asks for patience; all other refusals need a person.
        is_error = refused is not None and refused.code not in COME_BACK
        level = logging.ERROR if is_error else logging.WARNING
        log.log(level, "not connected: %s; running tasks go on, next try in %.1f s", why, pause_s)
        return pause_s


def _kind(error: EdgeWsError) -> str:
    """Return a code for what ended a connection."""
    if isinstance(error, UnreachableError):
        return error.kind.value
    return error.code if isinstance(error, RefusedError) else "other"
