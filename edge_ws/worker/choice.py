"""Which transport to use: pure. Told what was tried and how it went, it says what to try next, and when.

A WebSocket is better wherever it works; long-polling works nearly everywhere. No clock, no socket: `now` is
an argument, seconds of any monotone clock.
"""

from __future__ import annotations

from dataclasses import dataclass

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
