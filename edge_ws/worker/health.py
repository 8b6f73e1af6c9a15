"""Whether this host can start jobs, judged by the last ones: pure, it owns no clock.

A host that fails to start several in a row takes none for a while, then one to see whether it can again.
"""

from __future__ import annotations

import math

IN_A_ROW = 3
"""So many jobs that could not be started here make the host rest."""
FIRST_REST_S = 30.0
LONGEST_REST_S = 600.0
"""Between two tries: doubled each time, up to this."""

_LONGEST_REASON = 110
"""So that the whole sentence fits where it is shown."""


class Health:
    """Counts the host's own faults since it last started a job."""

    def __init__(self) -> None:
        self._faults = 0
        self._rest_s = 0.0
        self.reason = ""
        """Why the last one could not be started."""
        self.rests_until: float | None = None
        """When a job is to be tried again; None: the host does not rest."""

    @property
    def is_trying(self) -> bool:
        """Whether the host takes one job only, to see whether it can start it."""
        return self._rest_s > 0 and self.rests_until is None

    @property
    def sentence(self) -> str:
        """Why the host rests, as a clause."""
        return (
            f"the last {self._faults} jobs could not be started here ({self.reason});"
            f" one is tried again after {self._rest_s:.0f} s"
        )

    def failed(self, reason: str, now: float) -> bool:
        """Note that a job could not be started here; return whether the host rests anew."""
        self._faults += 1
        self.reason = reason[:_LONGEST_REASON]
        if self._faults < IN_A_ROW or self.rests_until is not None:
            return False
        self._rest_s = min(2 * self._rest_s or FIRST_REST_S, LONGEST_REST_S)
        self.rests_until = now + self._rest_s
        return True

    def started(self) -> bool:
        """Note that a job was started, or that all is new; return whether the host was not well before."""
        was_ill = self._rest_s > 0
        self._faults, self._rest_s, self.rests_until = 0, 0.0, None
        return was_ill

    def left_s(self, now: float) -> float:
        """Return for how long the host rests yet; infinite if it does not."""
        return math.inf if self.rests_until is None else max(0.0, self.rests_until - now)

    def try_again(self) -> None:
        """Let the rest be over."""
        self.rests_until = None
