"""What a daemon measures and counts of itself: how late its loop is, what it sent, how its clock stands.

Plain numbers, kept whether or not anybody asks. Knows neither the health port nor the centre's facts.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NoReturn

import anyio

from edge_ws.protocol.codec import frame_type
from edge_ws.protocol.frames import Log, WorkerFrame

TICK_S = 1.0
WINDOW_S = 60.0
"""For so long a late tick is remembered."""


class Vitals:
    """The numbers of one life of the daemon."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        """`wall`: the machine's clock, seconds since 1970."""
        self.reports: Counter[str] = Counter()
        """Frames handed to the connection, logs aside, by their type; one that is said again counts again."""
        self.log_bytes = 0
        """Of logs, likewise."""
        self.host_deaths = 0
        """Job hosts that died; each is replaced."""
        self._wall = wall
        self._late: deque[float] = deque(maxlen=int(WINDOW_S / TICK_S))
        self._due: float | None = None
        self._heard: tuple[float, float, float] | None = None
        """The centre's clock, this machine's, and the loop's, all at one moment."""

    def sent(self, frame: WorkerFrame) -> None:
        """Hear that a frame was handed to the connection."""
        if isinstance(frame, Log):
            self.log_bytes += len(frame.data)
        else:
            self.reports[frame_type(frame)] += 1

    # The loop

    async def run(self) -> NoReturn:
        """Tick on the loop that is watched, for ever."""
        while True:
            self._due = anyio.current_time() + TICK_S
            await anyio.sleep_until(self._due)
            self._late.append(max(0.0, anyio.current_time() - self._due))

    def loop_lag_s(self, now: float) -> float:
        """Return how late the loop has been at most within the last minute; `now` on the loop's clock."""
        return max(self.overdue_s(now), *self._late) if self._late else self.overdue_s(now)

    def overdue_s(self, now: float) -> float:
        """Return by how much the next tick is late already."""
        return max(0.0, now - self._due) if self._due is not None else 0.0

    # The clock

    def centre_says(self, time_there: float | None, now: float) -> None:
        """Hear the centre's clock, seconds since 1970, as a message came in; None: an older centre."""
        self._heard = None if time_there is None else (time_there, self._wall(), now)

    def clock_skew_s(self, now: float, round_trip_s: float | None) -> float | None:
        """Return by how much this machine's clock is ahead of the centre's, None if that is not known.

        What has been set on this machine since the centre last said its time is counted in.

        Args:
            now: on the loop's clock.
            round_trip_s: of a message: half of it the centre's word was on its way.
        """
        if self._heard is None:
            return None
        there, here, then = self._heard
        was_set_by = (self._wall() - here) - (now - then)
        return here - there - (round_trip_s or 0.0) / 2.0 + was_set_by
