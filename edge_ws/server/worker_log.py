"""Lines of the gateway's log about one worker and its words: so many in a while, the others are counted."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

LINES = 20
"""About one worker in `WHILE_S`."""
WHILE_S = 60.0
KEPT = 10_000
"""Workers that are counted apart; with more the counts begin anew."""


@dataclass(slots=True)
class _Spoken:
    since: float
    lines: int = 0
    left_out: int = 0


class WorkerLog:
    """Logs; for the event loop alone."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._spoken: dict[str, _Spoken] = {}
        self._flushed_at = time.monotonic()

    def say(self, level: int, worker: str, message: str, *values: object) -> None:
        """Log a line about the worker, unless there have been too many."""
        now = time.monotonic()
        self.flush(now)
        if len(self._spoken) >= KEPT:
            self._forget(list(self._spoken))
        one = self._spoken.setdefault(worker, _Spoken(now))
        if one.lines < LINES:
            one.lines += 1
            self._log.log(level, message, *values)
        else:
            one.left_out += 1

    def flush(self, now: float) -> None:
        """Say what was left out; call it now and then."""
        if now >= self._flushed_at + WHILE_S:
            self._flushed_at = now
            self._forget([name for name, one in self._spoken.items() if now >= one.since + WHILE_S])

    def _forget(self, workers: list[str]) -> None:
        for name in workers:
            one = self._spoken.pop(name)
            if one.left_out:
                self._log.warning("%d more lines about worker %s were left out", one.left_out, name)
