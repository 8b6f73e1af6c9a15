"""Lines of the gateway's log about one worker and its words: so many in a while, the others are counted."""

from __future__ import annotations

import logging
import time

from edge_ws.server.quota import Quota

LINES = 20
"""About one worker in `WHILE_S`."""
WHILE_S = 60.0
KEPT = 10_000
"""Workers that are counted apart."""


class WorkerLog:
    """Logs; for the event loop alone."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._quota = Quota(LINES, WHILE_S, known=KEPT)
        self._flushed_at = time.monotonic()

    def say(self, level: int, worker: str, message: str, *values: object) -> None:
        """Log a line about the worker, unless there have been too many."""
        now = time.monotonic()
        self.flush(now)
        left_out = self._quota.admit(worker, now)
        if left_out is None:
            return
        self._tell(worker, left_out)
        self._log.log(level, message, *values)

    def flush(self, now: float) -> None:
        """Say what was left out; call it now and then."""
        if now < self._flushed_at + WHILE_S:
            return
        self._flushed_at = now
        for worker, left_out in self._quota.over(now).items():
            self._tell(worker, left_out)

    def _tell(self, worker: str, left_out: int) -> None:
        if left_out:
            self._log.warning("%d more lines about worker %s were left out", left_out, worker)
