"""How a worker leaves: when the drain has lasted too long, its tasks are stopped; when that has, it goes.

Also the daemon's signals, of which two mean leaving. Decides nothing about single jobs.
"""

from __future__ import annotations

import logging
import math
import signal
from dataclasses import dataclass
from typing import NoReturn, Protocol

import anyio

log = logging.getLogger("edge_ws.worker")

SUPERVISOR_S = 15.0
"""Beyond the grace: for the supervisor of a killed task, which the job host kills after 10 s in its turn."""
_LOOK_S = 0.05
_QUIET_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a drain may take; seconds."""

    drain_s: float
    """Then running tasks are stopped; 0: never."""
    kill_grace_s: float
    """Between SIGTERM and SIGKILL of a task's process group."""
    report_s: float = 10.0
    """For reports after the last task's end; what is not acknowledged waits on disk for another life."""


class Drainable(Protocol):
    """What is asked of the daemon."""

    @property
    def runs_anything(self) -> bool:
        """Whether a job's process may be there."""
        ...

    @property
    def runs_tasks(self) -> bool:
        """Whether a task has begun and not ended; a job that waits for its token has not begun."""
        ...

    def drain(self, why: str) -> None:
        """Take nothing new, and leave when all is done and reported."""
        ...

    def stop_jobs(self, reason: str) -> None:
        """Stop what runs and drop what waits."""
        ...

    def go(self) -> None:
        """Leave now, whatever is left."""
        ...

    def retry_now(self) -> None:
        """Try at once what would be tried later."""
        ...


class WorkerDrain:
    """The clock of a drain."""

    def __init__(self, patience: Patience, leaver: Drainable) -> None:
        self._patience = patience
        self._leaver = leaver
        self._begun = anyio.Event()
        self._hurried = anyio.Event()
        self._reason = f"drain timeout of {patience.drain_s:g} s"
        self._deadline = math.inf
        """When the centre wants it over, by the loop's clock."""
        self.stopping = ""
        """Why tasks are stopped by now; empty: they are not."""

    def begin(self) -> None:
        """Count from now, if that has not begun."""
        self._begun.set()

    def end_in(self, seconds: float, *, is_new: bool) -> None:
        """Let the drain's time be over so long from now at the latest; it need not have begun.

        Args:
            seconds: that are left.
            is_new: it takes the place of the deadline before. Else that one is told once more, and of both
                the earlier counts: the later one may have been on its way for long.
        """
        at = anyio.current_time() + seconds
        self._deadline = at if is_new else min(at, self._deadline)

    def hurry(self, reason: str) -> None:
        """Let the drain's time be over now."""
        if not self._hurried.is_set():
            self._reason = reason
        self._begun.set()
        self._hurried.set()

    async def run(self) -> None:
        """Wait for the drain's beginning, then for the last task's end or for its time to be over, and go.

        Ends by being cancelled, if all is reported before.
        """
        await self._begun.wait()
        if await self._has_finished():
            log.info(
                "draining: no task runs any more, and %g s were left for the reports", self._patience.report_s
            )
            self._leaver.go()
            return
        log.warning("%s: tasks that still run are stopped", self._reason)
        self.stopping = self._reason
        self._leaver.stop_jobs(self.stopping)
        with anyio.move_on_after(self._patience.kill_grace_s + SUPERVISOR_S):
            while self._leaver.runs_anything:  # noqa: ASYNC110 - any of several events ends it
                await anyio.sleep(_LOOK_S)
        await anyio.sleep(self._patience.report_s)
        self._leaver.go()

    async def _has_finished(self) -> bool:
        """Tell whether no task has run for the time of the reports, before the drain's time is over."""
        quiet_since: float | None = None
        over_at = anyio.current_time() + (self._patience.drain_s or math.inf)
        while not self._hurried.is_set():
            now = anyio.current_time()
            if now >= self._deadline and self._deadline <= over_at:
                self._reason = "the deadline of an operator's shutdown is over"
                return False
            if now >= over_at:
                return False
            if self._leaver.runs_tasks:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= self._patience.report_s:
                return True
            with anyio.move_on_after(min(_QUIET_LOOK_S, over_at - now, max(0.0, self._deadline - now))):
                await self._hurried.wait()
        return False

    async def heed_signals(self) -> NoReturn:
        """The first SIGTERM or SIGINT drains; a second one leaves at once, and running tasks go on.

        SIGHUP: try now what would be tried later.
        """
        told = False
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    self._leaver.retry_now()
                elif told:
                    self._leaver.go()
                else:
                    told = True
                    self._leaver.drain(signal.Signals(number).name)
        raise AssertionError("signals do not end")
