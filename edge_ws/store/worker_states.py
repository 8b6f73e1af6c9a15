"""A worker's states, as edge3 has them, and every legal move between them as one table.

`edge_worker.state` is where operators of both kinds write what they request, and where everybody reads how a
worker is. Inside edge-ws the two are apart: `wishes` numbers what is requested, the worker says what it is.
"""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """edge3's `EdgeWorkerState` (models/edge_worker.py); the value is what the column holds."""

    STARTING = "starting"
    RUNNING = "running"
    IDLE = "idle"
    SHUTDOWN_REQUEST = "shutdown request"
    TERMINATING = "terminating"
    OFFLINE = "offline"
    UNKNOWN = "unknown"
    MAINTENANCE_REQUEST = "maintenance request"
    MAINTENANCE_PENDING = "maintenance pending"
    MAINTENANCE_MODE = "maintenance mode"
    MAINTENANCE_EXIT = "maintenance exit"
    OFFLINE_MAINTENANCE = "offline maintenance"


class Event(Enum):
    """What moves a worker from one state to another."""

    CONNECT = "connect"
    """It has said hello."""
    SAYS_IDLE = "idle"
    SAYS_RUNNING = "running"
    SAYS_PENDING = "maintenance pending"
    """In maintenance, with jobs that still run."""
    SAYS_MAINTENANCE = "maintenance mode"
    SAYS_TERMINATING = "terminating"
    """It finishes what it runs, then leaves."""
    HEARD_IDLE = "heard, idle"
    """Its connection is alive, and it holds no job."""
    HEARD_RUNNING = "heard, running"
    LEAVE = "leave"
    """It has said goodbye."""
    LEAVE_IN_MAINTENANCE = "leave in maintenance"
    SILENCE = "silence"
    """No gateway has heard of it for long."""
    REQUEST_MAINTENANCE = "request maintenance"
    EXIT_MAINTENANCE = "exit maintenance"
    REQUEST_SHUTDOWN = "request shutdown"


_S, _E = WorkerState, Event

_WORKS = {
    _E.SAYS_IDLE: _S.IDLE,
    _E.SAYS_RUNNING: _S.RUNNING,
    _E.SAYS_TERMINATING: _S.TERMINATING,
}
_HEARD = {_E.HEARD_IDLE: _S.IDLE, _E.HEARD_RUNNING: _S.RUNNING}
_LEAVES = {_E.LEAVE: _S.OFFLINE, _E.LEAVE_IN_MAINTENANCE: _S.OFFLINE_MAINTENANCE}
_HERE = {
    # That it is in maintenance does not begin it: the word may be older than an operator's that has ended it.
    **_WORKS,
    **_LEAVES,
    _E.SILENCE: _S.UNKNOWN,
    _E.REQUEST_MAINTENANCE: _S.MAINTENANCE_REQUEST,
    _E.REQUEST_SHUTDOWN: _S.SHUTDOWN_REQUEST,
}
_AWAY = {
    # It says how it is in a moment.
    _E.CONNECT: _S.IDLE,
    # Its last word may cross its goodbye, or the look that found it silent.
    **_LEAVES,
    _E.REQUEST_MAINTENANCE: _S.OFFLINE_MAINTENANCE,
}
_IN_MAINTENANCE = {
    _E.SAYS_PENDING: _S.MAINTENANCE_PENDING,
    _E.SAYS_MAINTENANCE: _S.MAINTENANCE_MODE,
    # It begins anew, and is told to be in maintenance again.
    _E.CONNECT: _S.MAINTENANCE_REQUEST,
    _E.LEAVE: _S.OFFLINE_MAINTENANCE,
    _E.LEAVE_IN_MAINTENANCE: _S.OFFLINE_MAINTENANCE,
    _E.SILENCE: _S.OFFLINE_MAINTENANCE,
    _E.EXIT_MAINTENANCE: _S.MAINTENANCE_EXIT,
    _E.REQUEST_SHUTDOWN: _S.SHUTDOWN_REQUEST,
}

MOVES: dict[WorkerState, dict[Event, WorkerState]] = {
    _S.STARTING: {**_HERE, **_HEARD},
    _S.IDLE: {**_HERE, **_HEARD},
    _S.RUNNING: {**_HERE, **_HEARD},
    _S.TERMINATING: {**_HERE, _E.CONNECT: _S.IDLE},
    # Only a heartbeat, never its word, brings back who was taken for silent and says no new hello.
    _S.UNKNOWN: {**_AWAY, **_HEARD},
    _S.OFFLINE: {**_AWAY, **_HEARD},
    _S.OFFLINE_MAINTENANCE: {
        _E.CONNECT: _S.MAINTENANCE_REQUEST,
        _E.HEARD_IDLE: _S.MAINTENANCE_REQUEST,
        _E.HEARD_RUNNING: _S.MAINTENANCE_REQUEST,
        _E.EXIT_MAINTENANCE: _S.OFFLINE,
    },
    # A request stays until the worker says that it is fulfilled: a word from before it changes nothing.
    _S.MAINTENANCE_REQUEST: {
        **_IN_MAINTENANCE,
        _E.CONNECT: _S.MAINTENANCE_REQUEST,
        _E.SAYS_TERMINATING: _S.MAINTENANCE_PENDING,
    },
    _S.MAINTENANCE_PENDING: {**_IN_MAINTENANCE, _E.HEARD_IDLE: _S.MAINTENANCE_MODE},
    _S.MAINTENANCE_MODE: _IN_MAINTENANCE,
    _S.MAINTENANCE_EXIT: {
        **_WORKS,
        **_LEAVES,
        _E.LEAVE_IN_MAINTENANCE: _S.OFFLINE,
        _E.SILENCE: _S.UNKNOWN,
        _E.REQUEST_MAINTENANCE: _S.MAINTENANCE_REQUEST,
        _E.REQUEST_SHUTDOWN: _S.SHUTDOWN_REQUEST,
    },
    # Never taken back, as the worker may have begun to leave; a new life of it is not meant any more.
    _S.SHUTDOWN_REQUEST: {**_LEAVES, _E.SILENCE: _S.UNKNOWN, _E.CONNECT: _S.IDLE},
}
"""State -> event -> next state; an event that is not there changes nothing, and a request is refused."""

REQUESTS = frozenset({_S.SHUTDOWN_REQUEST, _S.MAINTENANCE_REQUEST, _S.MAINTENANCE_EXIT})
"""States that are an operator's request."""
MAINTENANCE = frozenset(
    {_S.MAINTENANCE_REQUEST, _S.MAINTENANCE_PENDING, _S.MAINTENANCE_MODE, _S.OFFLINE_MAINTENANCE}
)
"""States in which the worker is to be in maintenance."""
AWAY = frozenset({_S.OFFLINE, _S.OFFLINE_MAINTENANCE, _S.UNKNOWN})
"""States of a worker that nobody hears."""


def state_of(text: str) -> WorkerState:
    """Return the state in a column; one that no release has written counts as unknown."""
    try:
        return WorkerState(text)
    except ValueError:
        return WorkerState.UNKNOWN


def after(state: WorkerState, event: Event) -> WorkerState | None:
    """Return the state after the event, None if the event changes nothing."""
    return MOVES[state].get(event)


def said(jobs: int, *, maintenance: bool, leaving: bool) -> Event:
    """Return what a worker with so many jobs says of itself (edge3's cli/worker.py, `_get_state`)."""
    if leaving:
        return Event.SAYS_TERMINATING
    if maintenance:
        return Event.SAYS_PENDING if jobs else Event.SAYS_MAINTENANCE
    return Event.SAYS_RUNNING if jobs else Event.SAYS_IDLE
