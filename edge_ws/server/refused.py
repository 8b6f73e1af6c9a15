"""Which refused attempts at `v1/admin/` are written down: the first ones of each user, and never a flood.

Whoever is refused may be a stranger, and each entry is a row in Airflow's database. Pure: the time is told.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

PERIOD_S = 60.0
OF_ONE = 5
"""Attempts of one user, or from one address, that are written down in a period."""
OF_ALL = 60
"""And of all together."""
KNOWN = 1000
"""So many are told apart at a time."""


@dataclass(slots=True)
class _Count:
    since: float
    written: int = 0
    left_out: int = 0


class Attempts:
    """Counts them."""

    def __init__(self) -> None:
        self._by: OrderedDict[str, _Count] = OrderedDict()
        self._all = _Count(0.0)

    def admit(self, who: str, now: float) -> int | None:
        """Return how many of that one's were left out since the last one written; None: leave it out."""
        one = self._by.setdefault(who, _Count(now))
        self._by.move_to_end(who)
        if len(self._by) > KNOWN:
            self._by.popitem(last=False)
        for count in (one, self._all):
            if now - count.since >= PERIOD_S:
                count.since, count.written = now, 0
        if one.written >= OF_ONE or self._all.written >= OF_ALL:
            one.left_out += 1
            return None
        one.written += 1
        self._all.written += 1
        left_out, one.left_out = one.left_out, 0
        return left_out
