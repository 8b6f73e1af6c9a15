"""How long the link waits between two tries: by what the last one met, and for how long that has gone on.

Knows no connection and no clock: `now` is an argument, seconds of any monotone clock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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
