"""Which transport to try next, and after which pause. Pure.

A WebSocket is better wherever it works; long-polling works nearly everywhere. No clock, no socket: `now` is
an argument, seconds of any monotone clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from edge_ws.errors import EdgeWsError, RefusedError, UnreachableError
from edge_ws.protocol.frames import Refusal

FIRST_S = 1.0
SHORTEST_S = 0.5
SOON_S = 10.0
"""The longest pause while the trouble is new: a way that comes back is found within seconds."""
NEW_S = 300.0
"""For so long trouble is new."""
LONGEST_S = 60.0
READY_RESETS_S = 30.0
"""A connection that was ready for so long makes the next trouble a new one."""
REFUSED_RETRY_S = 300.0
"""A gateway that refused the worker is asked again after this, with jitter, for ever: a person is needed."""
FOREIGN_RETRY_S = 60.0
"""The most that is made of a `Retry-After` of whoever answers in the gateway's place."""
COME_BACK = frozenset({Refusal.UNAVAILABLE.value, Refusal.PROTOCOL.value})
"""Refusals that may be over in a moment; all others need a person."""


class Pauses:
    """The pauses of one link."""

    def __init__(self) -> None:
        self._tries = 0
        self._since: float | None = None
        """When the present trouble began."""

    def steady(self) -> None:
        """Hear that a connection has lasted: the next trouble is a new one."""
        self._tries, self._since = 0, None

    def next_s(self, errors: Sequence[EdgeWsError], tried_s: float, now: float) -> float:
        """Return the pause before the next try.

        Args:
            errors: what the last try met.
            tried_s: for how long it tried; that counts as a part of the pause.
            now: the present.
        """
        refused = refusal_of(errors)
        if refused is None:
            return max(self._foreign_s(errors), self._backoff_s(tried_s, now))
        if refused.retry_after_s is not None:
            asked_s = min(max(refused.retry_after_s, SHORTEST_S), REFUSED_RETRY_S)
            # Jitter needs no secret randomness.
            return asked_s * random.uniform(1.0, 1.5)  # noqa: S311
        if refused.code not in COME_BACK:
            return REFUSED_RETRY_S * random.uniform(0.8, 1.2)  # noqa: S311
        return self._backoff_s(tried_s, now)

    @staticmethod
    def _foreign_s(errors: Sequence[EdgeWsError]) -> float:
        """Return for how long those who answered in the gateway's place want not to be asked."""
        asked = [
            min(error.retry_after_s, FOREIGN_RETRY_S)
            for error in errors
            if isinstance(error, UnreachableError) and error.retry_after_s is not None
        ]
        return max(asked, default=0.0) * random.uniform(1.0, 1.25)  # noqa: S311

    def _backoff_s(self, tried_s: float, now: float) -> float:
        """Return full jitter, doubling up to a longest pause that grows when the trouble lasts."""
        since = self._since = now if self._since is None else self._since
        longest_s = SOON_S if now - since < NEW_S else LONGEST_S
        ceiling = min(longest_s, FIRST_S * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        shortest = random.uniform(0.05, min(FIRST_S, ceiling))  # noqa: S311
        # Between two beginnings: a try that met silence has waited already.
        return max(shortest, random.uniform(0.05, ceiling) - tried_s)  # noqa: S311


def refusal_of(errors: Sequence[EdgeWsError]) -> RefusedError | None:
    """Return the gateway's own word among what a try met, None if there is none."""
    return next((error for error in errors if isinstance(error, RefusedError)), None)


WEBSOCKET = "websocket"
LONGPOLL = "longpoll"
AUTO = "auto"

HEAD_START_S = 2.0
"""For the first transport before the second is tried beside it: no job waits for a time-out."""
PROVEN_HEAD_START_S = 5.0
"""The same where WebSockets have passed before: a gateway to which thousands return is slow."""
PROBE_FIRST_S = 60.0
"""On long-poll: the pause before a WebSocket is tried again, doubling up to PROBE_LONGEST_S."""
PROBE_LONGEST_S = 600.0
SHORT_LIFE_S = 60.0
"""A WebSocket that breaks sooner is not worth a change of transport."""
SHORT_LIVES = 2
"""So many of them one after another, and WebSockets count as not passing."""
CAPPED_WITHIN = 0.1
"""Two long lives that differ by less than this part were ended by something that caps them."""
ROTATED_AT = 0.85
"""Of such a life: then a new connection is opened before the old one is cut."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How the worker is connected, for people."""

    transport: str
    reason: str
    """Why it is not the WebSocket; empty if it is, or nothing else may be used."""
    since: float


class Choice:
    """The decisions of one worker for one server."""

    def __init__(self, wanted: str, now: float, *, probe_first_s: float = PROBE_FIRST_S) -> None:
        """Make it.

        Args:
            wanted: `auto`, or the one transport that may be used.
            now: the present.
            probe_first_s: the first pause before a WebSocket is tried again.
        """
        self._wanted = wanted
        self._probe_first_s = probe_first_s
        self._settled = LONGPOLL if wanted == LONGPOLL else WEBSOCKET
        self._reason = ""
        self._since = now
        self._probe_s = probe_first_s
        self._probe_at: float | None = None
        self._has_passed = False
        """A WebSocket has been ready before."""
        self._short_lives = 0
        self._last_life_s: float | None = None
        self._rotate_after_s: float | None = None

    @property
    def mode(self) -> Mode:
        """The transport in use, or the last one that was."""
        return Mode(self._settled, self._reason if self._wanted == AUTO else "", self._since)

    def order(self) -> tuple[str, ...]:
        """Return what to try: the second if the first has not come up soon, or has failed."""
        if self._wanted != AUTO:
            return (self._wanted,)
        return (WEBSOCKET, LONGPOLL) if self._settled == WEBSOCKET else (LONGPOLL, WEBSOCKET)

    def begin(self) -> tuple[str, ...]:
        """Hear that nothing is connected and all begins anew; return the order."""
        if self._settled == WEBSOCKET:
            # What was in the way in earlier days is over.
            self._reason = ""
        return self.order()

    @property
    def head_start_s(self) -> float:
        """For how long the first has the field for itself."""
        known = self._has_passed and self._settled == WEBSOCKET
        return PROVEN_HEAD_START_S if known else HEAD_START_S

    def ready(self, transport: str, now: float) -> None:
        """Hear that a connection is ready, and in use from now on."""
        if transport != self._settled:
            self._settled, self._since = transport, now
        if transport == WEBSOCKET:
            self._reason, self._probe_at, self._has_passed = "", None, True
        elif self._wanted == AUTO and self._probe_at is None:
            self._reason = self._reason or "the WebSocket took too long to open"
            self._probe_at = now + self._probe_s

    def failed(self, transport: str, why: str, now: float) -> None:
        """Hear that a transport did not come up, though the server may be there."""
        if transport != WEBSOCKET or self._wanted != AUTO:
            return
        self._reason = why
        if self._probe_at is not None and now >= self._probe_at:
            self._wait_longer(now)

    def ended(self, transport: str, lived_s: float, why: str, now: float, *, was_cut: bool) -> None:
        """Hear that a connection that was ready has ended.

        Args:
            transport: its kind.
            lived_s: for how long it was ready.
            why: a sentence.
            now: the present.
            was_cut: nobody closed it: it broke.
        """
        if transport != WEBSOCKET or not was_cut:
            return
        if lived_s >= SHORT_LIFE_S:
            self._short_lives, self._probe_s = 0, self._probe_first_s
            self._learn_cap(lived_s)
            return
        self._short_lives += 1
        if self._wanted == AUTO and self._short_lives >= SHORT_LIVES:
            self._short_lives = SHORT_LIVES - 1  # until one lives long, the next short life is enough
            self._settled, self._since = LONGPOLL, now
            self._reason = f"WebSockets break off after {lived_s:.0f} s: {why}"
            self._wait_longer(now)

    def _learn_cap(self, lived_s: float) -> None:
        last, self._last_life_s = self._last_life_s, lived_s
        if last is not None and abs(last - lived_s) <= CAPPED_WITHIN * last:
            self._rotate_after_s = ROTATED_AT * min(last, lived_s)

    def _wait_longer(self, now: float) -> None:
        self._probe_s = min(PROBE_LONGEST_S, 2.0 * self._probe_s)
        self._probe_at = now + self._probe_s

    def probe_now(self, now: float) -> None:
        """Try the WebSocket at once, if it is not in use."""
        self._probe_s = self._probe_first_s
        if self._probe_at is not None:
            self._probe_at = now

    def renewal(self, transport: str, ready_at: float) -> tuple[float, str] | None:
        """Return when to open a new connection beside the present one, and of which kind; None: never."""
        if transport == LONGPOLL:
            return None if self._probe_at is None else (self._probe_at, WEBSOCKET)
        return None if self._rotate_after_s is None else (ready_at + self._rotate_after_s, WEBSOCKET)
