"""Why the worker takes no new jobs: one reason at a time, with a stable code. Pure.

Whatever on this host keeps it from jobs is a hindrance: who notices it says so under its code, and takes it
back when it is over.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_ws.protocol.ids import HINDRANCE, HINDRANCE_CODE
from edge_ws.worker.wishes import Wishes

NO_JOB_HOST = "no_job_host"
STARTING = "starting"
DISK = "disk"
"""A disk takes no more."""
FAILING = "failing"
"""The last jobs could not be started here."""
NOT_CONNECTED = "not_connected"
LEAVING = "leaving"
_LOGGED_BY_OTHERS = frozenset({STARTING, NOT_CONNECTED, LEAVING})


class Reason(NamedTuple):
    """One reason; programs rely on the code, people read the sentence."""

    code: str
    sentence: str
    """A clause without a full stop."""


class Hindrances:
    """What on this host keeps it from taking jobs, by code."""

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}

    def begin(self, code: str, sentence: str) -> bool:
        """Note a hindrance, or say anew what it is; return whether that is news."""
        is_news = self._sentences.get(code) != sentence
        self._sentences[code] = sentence
        return is_news

    def end(self, *codes: str) -> None:
        """Note that they are over."""
        for code in codes:
            self._sentences.pop(code, None)

    @property
    def first(self) -> Reason | None:
        """The one noticed first, None if there is none; a host that is starting says the least."""
        found = [Reason(*one) for one in self._sentences.items()]
        return next((one for one in found if one.code != STARTING), found[0] if found else None)

    def told(self) -> dict[str, str]:
        """Return the first under the names that `sysinfo` has for it."""
        first = self.first
        return {} if first is None else {HINDRANCE: first.sentence, HINDRANCE_CODE: first.code}


class Told:
    """What the log was last told of it, so that each change is told once."""

    def __init__(self) -> None:
        self._last: Reason | None = Reason(STARTING, "")

    def news(self, reason: Reason | None) -> str:
        """Return the line to log, empty for none; what others log is not said twice."""
        if reason == self._last or (reason is not None and reason.code in _LOGGED_BY_OTHERS):
            return ""
        self._last = reason
        return "taking jobs" if reason is None else f"taking no new jobs: {reason.sentence}"


def why_no_jobs(wishes: Wishes, hindrances: Hindrances, trouble: str | None) -> Reason | None:
    """Return why no new jobs are taken, None if they are.

    Args:
        wishes: what is in force.
        hindrances: what keeps this host from jobs.
        trouble: why there is no connection, empty if nobody knows; None: there is one.
    """
    if wishes.leaving:
        return Reason(LEAVING, f"shutting down: {wishes.leaving}")
    if wishes.maintenance:
        return Reason("maintenance", f"in maintenance: {wishes.comment or 'no reason given'}")
    if wishes.concurrency == 0:
        return Reason("paused", "paused: the concurrency is 0")
    if hindrances.first is not None:
        return hindrances.first
    if trouble is not None:
        return Reason(NOT_CONNECTED, f"not connected: {trouble}" if trouble else "not connected yet")
    return None
