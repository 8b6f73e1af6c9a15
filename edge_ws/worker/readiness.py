"""Whether this host is fit for new jobs, and why not: one reason at a time, with a stable code.

Whatever on this host keeps it from jobs is a hindrance: who notices it says so under its code, and takes it
back when it is over. A host that fails to start several in a row takes none for a while, then one to see
whether it can again. Hears the job hosts' events; decides nothing about single jobs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import anyio

from edge_ws.protocol.ids import HINDRANCE, HINDRANCE_CODE, HOST, HostId
from edge_ws.worker.host_events import HostEvent, HostUp, JobNotStarted, JobStarted, PrepareRefused
from edge_ws.worker.jobs import Jobs
from edge_ws.worker.wishes import Wishes

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


log = logging.getLogger("edge_ws.worker")


class Fitness:
    """The watch. `on_change` is called, on the event loop, whenever a hindrance has begun or ended."""

    def __init__(self, hindrances: Hindrances, jobs: Jobs, on_change: Callable[[], None]) -> None:
        self._hindrances = hindrances
        self._jobs = jobs
        self._on_change = on_change
        self._health = Health()
        self._host: HostId | None = None
        self._news = anyio.Event()

    def heard(self, event: HostEvent) -> None:
        """Draw conclusions from what a job host tells."""
        match event:
            case HostUp(accepts=True) if event.host != self._host:
                # With other settings or packages: what was wrong may be right now.
                self._host = event.host
                self._well_again()
            case JobStarted():
                self._well_again()
            case JobNotStarted(fault=fault) | PrepareRefused(fault=fault) if fault == HOST:
                self._failed(event.reason)

    def _failed(self, reason: str) -> None:
        if self._health.failed(reason, anyio.current_time()):
            log.error("resting: %s", self._health.sentence)
            self._hindrances.begin(FAILING, self._health.sentence)
            self._changed()

    def _well_again(self) -> None:
        if self._health.started():
            log.info("jobs can be started here again")
            self._hindrances.end(FAILING)
            self._changed()

    def _changed(self) -> None:
        self._jobs.cautious = self._health.is_trying
        self._news.set()
        self._on_change()

    async def run(self) -> NoReturn:
        """Let each rest end in its time."""
        while True:
            self._news = anyio.Event()
            with anyio.move_on_after(self._health.left_s(anyio.current_time())) as rest:
                await self._news.wait()
            if rest.cancelled_caught:
                self._health.try_again()
                self._hindrances.end(FAILING)
                self._changed()
