"""So much of each in a while, and the rest is counted: what anybody may cause, and must not flood. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_ws.recent import Recent


@dataclass(slots=True)
class _Count:
    since: float
    admitted: int = 0
    left_out: int = 0


class Quota:
    """Admits so many of each in a period, and of all together."""

    def __init__(self, of_one: int, period_s: float, *, known: int, of_all: float = math.inf) -> None:
        """Make it.

        Args:
            of_one: of each in a period.
            period_s: its length, seconds; each has its own.
            known: so many are told apart; who was heard of longest ago is forgotten.
            of_all: of all together in a period.
        """
        self._of_one = of_one
        self._of_all = of_all
        self._period_s = period_s
        self._by: Recent[str, _Count] = Recent(known)
        self._all = _Count(-math.inf)

    def admit(self, who: str, now: float) -> int | None:
        """Return how many of that one's were left out since the last one admitted; None: leave it out."""
        one = self._by.get(who) or _Count(now)
        self._by.put(who, one)
        for count in (one, self._all):
            if now - count.since >= self._period_s:
                count.since, count.admitted = now, 0
        if one.admitted >= self._of_one or self._all.admitted >= self._of_all:
            one.left_out += 1
            return None
        one.admitted += 1
        self._all.admitted += 1
        left_out, one.left_out = one.left_out, 0
        return left_out

    def over(self, now: float) -> dict[str, int]:
        """Forget those whose period is over; return how many were left out of each that had any."""
        ended = {who: one for who, one in self._by.items() if now - one.since >= self._period_s}
        for who in ended:
            del self._by[who]
        return {who: one.left_out for who, one in ended.items() if one.left_out}
