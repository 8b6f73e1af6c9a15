"""The two state machines, each as one table: a claim's phases and a connection's states.

Both sides use the same tables. PROTOCOL.md draws them; a test compares.
"""

from __future__ import annotations

from enum import Enum
from functools import cache


class Phase(Enum):
    """How far a claim has come. Only ever forwards."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    STARTED = "started"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """A worker's answer only: it does not know the claim, and from now on refuses it."""


CLAIM_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.OFFERED: frozenset({Phase.ACCEPTED, Phase.ENDED}),
    Phase.ACCEPTED: frozenset({Phase.STARTED, Phase.ENDED}),
    Phase.STARTED: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
"""Legal moves. A report may skip phases whose own report was lost: see `reaches`."""


def reaches(now: Phase, then: Phase) -> bool:
    """Tell whether a claim in phase `now` can come to `then` by legal moves (not by none)."""
    return any(step is then or reaches(step, then) for step in CLAIM_MOVES.get(now, frozenset()))


@cache
def phases_before(then: Phase) -> frozenset[Phase]:
    """Return the phases from which `then` can be reached."""
    return frozenset(phase for phase in CLAIM_MOVES if reaches(phase, then))


class Connection(Enum):
    """How far a connection has come."""

    OPENING = "opening"
    """The transport is open; `hello` has not passed."""
    GREETED = "greeted"
    """`hello` has passed; `welcome` has not."""
    READY = "ready"
    CLOSED = "closed"


CONNECTION_MOVES: dict[Connection, dict[str, Connection]] = {
    Connection.OPENING: {"hello": Connection.GREETED},
    Connection.GREETED: {"welcome": Connection.READY, "refused": Connection.CLOSED},
    Connection.READY: {
        "*": Connection.READY,
        "bye": Connection.CLOSED,
        "refused": Connection.CLOSED,
    },
    Connection.CLOSED: {},
}
"""Frame type -> next state; `*`: any other frame but `hello` and `welcome`."""


def next_state(state: Connection, frame_type: str) -> Connection | None:
    """Return the state after a frame of that type has passed, None if it is not allowed."""
    moves = CONNECTION_MOVES[state]
    if frame_type in moves:
        return moves[frame_type]
    if frame_type in {"hello", "welcome"}:
        return None
    return moves.get("*")
