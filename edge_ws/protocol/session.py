"""One connection's session, for either role: what may pass now, who is silent, when to act next.

A session owns no clock and no socket: `now` is an argument (seconds of any monotone clock), what it wants
done is returned, and the caller must do it. The caller feeds each decoded frame to `receive`, passes each
frame it writes through `sending`, and calls `tick` when `deadline` has come.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import get_args

from edge_ws.errors import LocalProtocolError, RemoteProtocolError
from edge_ws.protocol.codec import frame_type
from edge_ws.protocol.frames import Frame, ServerFrame, Timers, Welcome, WorkerFrame
from edge_ws.protocol.states import Connection, next_state

FIRST_FRAME_S = 5.0
"""Between the open transport and `hello`, and between `hello` and `welcome`."""
SILENT_BEATS = 2
"""Heartbeat intervals without a frame after which the peer is dead."""


class CloseCode(Enum):
    """Why a connection closes: 4000-4499 come back, 4500-4999 are refused (see PROTOCOL.md)."""

    LEAVING = 1000
    GOING_AWAY = 1001
    RESTARTING = 1012
    REPLACED = 4001
    SILENT = 4008
    TOO_SLOW = 4009
    PROTOCOL = 4400
    UNAVAILABLE = 4403
    TOO_LARGE = 4413
    REFUSED = 4500


@dataclass(frozen=True, slots=True)
class Close:
    """The connection must be closed now, with this code and reason."""

    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class Due:
    """What a `tick` wants: a heartbeat written, or the connection closed, or neither."""

    beat: bool = False
    close: Close | None = None


class Session:
    """The part both roles share. Subclasses say which side speaks first."""

    _waiting_for: dict[Connection, str]
    _says: tuple[type, ...]

    def __init__(self, now: float, timers: Timers | None = None) -> None:
        self.state = Connection.OPENING
        self.timers = timers or Timers()
        self._since = now
        self._heard = now
        self._said = now

    def receive(self, frame: Frame, now: float) -> None:
        """Take a frame from the peer.

        Raises:
            RemoteProtocolError: it is not allowed now; close with the error's code.
        """
        then = next_state(self.state, frame_type(frame))
        if then is None or isinstance(frame, self._says):
            raise RemoteProtocolError(f"{frame_type(frame)} is not allowed while {self.state.value}")
        self._heard = now
        self._enter(then, frame, now)

    def sending(self, frame: Frame, now: float) -> None:
        """Note a frame that the caller writes right after.

        Raises:
            LocalProtocolError: it is not allowed now; do not write it.
        """
        then = next_state(self.state, frame_type(frame))
        if then is None or not isinstance(frame, self._says):
            raise LocalProtocolError(f"{frame_type(frame)} cannot be sent while {self.state.value}")
        self._said = now
        self._enter(then, frame, now)

    def _enter(self, then: Connection, frame: Frame, now: float) -> None:
        if isinstance(frame, Welcome):
            self.timers = frame.timers
        if then is not self.state:
            self.state, self._since = then, now

    def heard(self, now: float) -> None:
        """Note that the peer is alive by other means than a frame (a WebSocket pong)."""
        self._heard = now

    def spoke(self, now: float) -> None:
        """Note that this side has shown that it is alive by other means than a frame (an open poll)."""
        self._said = now

    def is_prompt(self, now: float) -> bool:
        """Tell whether the peer has not missed a heartbeat yet (one that did is offered nothing)."""
        return now - self._heard < 1.2 * self.timers.heartbeat_s

    def unheard_s(self, now: float) -> float:
        """Return for how long nothing has been heard of the peer."""
        return max(0.0, now - self._heard)

    # The instants are computed here alone: `tick` at exactly `deadline()` must find something due, which
    # differences of rounded floats would not promise.

    def _silent_at(self) -> float:
        return self._heard + SILENT_BEATS * self.timers.heartbeat_s

    def _beat_at(self) -> float:
        return self._said + self.timers.heartbeat_s

    def deadline(self) -> float | None:
        """Return when `tick` must be called next, None if nothing is due."""
        if self.state is Connection.READY:
            return min(self._silent_at(), self._beat_at())
        return self._since + FIRST_FRAME_S if self.state in self._waiting_for else None

    def tick(self, now: float) -> Due:
        """Return what is due at `now`."""
        if self.state is Connection.READY:
            if now >= self._silent_at():
                return Due(close=Close(CloseCode.SILENT, f"nothing heard for {now - self._heard:.0f} s"))
            return Due(beat=now >= self._beat_at())
        if self.state in self._waiting_for and now >= self._since + FIRST_FRAME_S:
            missing = self._waiting_for[self.state]
            return Due(close=Close(CloseCode.SILENT, f"no {missing} within {FIRST_FRAME_S:.0f} s"))
        return Due()


class WorkerSession(Session):
    """The worker's side: says `hello`, then waits for `welcome`."""

    _waiting_for = {Connection.GREETED: "welcome"}  # noqa: RUF012 - a constant table
    _says = get_args(WorkerFrame)


class ServerSession(Session):
    """The server's side: waits for `hello`; the caller answers `welcome` or `refused`."""

    _waiting_for = {Connection.OPENING: "hello"}  # noqa: RUF012 - a constant table
    _says = get_args(ServerFrame)
