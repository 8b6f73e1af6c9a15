"""Tells the centre's own metrics and traces what happens to workers and jobs here.

What happens is noted on the event loop, which costs next to nothing, and told from a thread, many at a time,
with one query for all jobs among it. Neither is ever waited for: what cannot be told is left out. Made only
where the centre wants to hear any of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import anyio

from edge_ws.errors import UnreachableError
from edge_ws.guard import FaultGuard
from edge_ws.protocol.frames import Accept, Finished, NotStarted, PhaseIs, Started
from edge_ws.protocol.ids import ClaimId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.recent import Recent
from edge_ws.server.hub import Link
from edge_ws.server.ports import CentreMetrics, JobTrace, JobTraces, WorkerReading
from edge_ws.server.threads import ThreadLimit
from edge_ws.store.records import Accepted, ClaimFacts, OpenClaim, Owing, Principal, Verdict
from edge_ws.store.reports import ClaimReport, Outcome
from edge_ws.store.telemetry import TelemetryStore
from edge_ws.store.worker_states import Event, said

log = logging.getLogger(__name__)

GATHER_S = 0.1
"""What happens within it is told together."""
MANY = 500
"""Jobs in one query."""
WAITING = 20_000
"""Happenings of jobs that wait to be told; further ones are left out."""
REMEMBERED = 20_000
"""Claims whose phases are remembered."""
AWAY_PAUSE_S = 5.0
"""While the database is away."""
LATE_S = 5.0
"""A claim that had ended so long before its end was reported here was reported elsewhere before."""


@dataclass(slots=True)
class _Times:
    """When a claim came to which phase, as far as it was heard here."""

    accepted_at: float | None = None
    started_at: float | None = None
    start_told: bool = False
    end_told: bool = False


class _Happened(NamedTuple):
    """A job has started or ended."""

    claim: ClaimId
    phase: Phase
    at: float


class Telemetry:
    """What is told; all but `run` is called on the event loop and returns at once."""

    def __init__(
        self,
        store: TelemetryStore,
        metrics: CentreMetrics | None,
        traces: JobTraces | None,
        guard: FaultGuard | None = None,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._traces = traces
        self._guard = guard or FaultGuard(log)
        self._threads = ThreadLimit(threads=1)
        self._times: Recent[ClaimId, _Times] = Recent(REMEMBERED)
        self._jobs: list[_Happened] = []
        self._heard: list[WorkerReading] = []
        self._silent: list[tuple[str, str | None]] = []
        self._wake = anyio.Event()
        self.left_out = 0
        """Happenings that nobody was told of."""

    # What happens to jobs

    def reported(self, report: ClaimReport, outcome: Outcome) -> None:
        """Note what a report has done."""
        match outcome:
            case Accepted():
                if isinstance(report, Accept):
                    self._of(report.claim).accepted_at = time.time()
            case Owing():
                self.started(report.claim)
            case Verdict.DONE:
                if isinstance(report, Started) or (
                    isinstance(report, PhaseIs) and report.phase is Phase.STARTED
                ):
                    self.started(report.claim)
                elif isinstance(report, Finished | NotStarted):
                    self.ended([report.claim])
            case _:
                return

    def started(self, claim: ClaimId) -> None:
        """Note that a job has started; to say it again changes nothing."""
        times = self._of(claim)
        if not times.start_told:
            times.start_told, times.started_at = True, time.time()
            self._note(claim, Phase.STARTED, times.started_at)

    def held(self, claims: Iterable[OpenClaim]) -> None:
        """Note what a worker that has come here had started before: that was told elsewhere."""
        for one in claims:
            if one.phase is Phase.STARTED:
                self._of(one.claim).start_told = True

    def ended(self, claims: Iterable[ClaimId]) -> None:
        """Note that claims have ended; to say it again changes nothing."""
        now = time.time()
        for claim in claims:
            times = self._of(claim)
            if not times.end_told:
                times.end_told = True
                self._note(claim, Phase.ENDED, now)

    def _of(self, claim: ClaimId) -> _Times:
        times = self._times.get(claim)
        if times is None:
            times = _Times()
            self._times.put(claim, times)
        return times

    def _note(self, claim: ClaimId, phase: Phase, at: float) -> None:
        if len(self._jobs) >= WAITING:
            self.left_out += 1
            return
        self._jobs.append(_Happened(claim, phase, at))
        self._wake.set()

    # What happens to workers

    def beat(self, links: Iterable[Link]) -> None:
        """Note a heartbeat of those workers, whom this gateway serves and no other."""
        if self._metrics is not None:
            # What the last heartbeat said counts no more.
            self._heard = [reading for link in links if (reading := _reading(link)) is not None]
            self._wake.set()

    def left(self, principal: Principal, queues: tuple[str, ...], *, maintenance: bool) -> None:
        """Note that a worker has said goodbye."""
        if self._metrics is not None:
            reading = WorkerReading(
                worker=principal.worker,
                team=principal.team,
                connected=False,
                maintenance=maintenance,
                jobs_active=0,
                queues=queues,
                facts={"concurrency": 0},
            )
            # It is here no more, whatever its last heartbeat has said.
            self._heard = [one for one in self._heard if one.worker != principal.worker]
            self._heard.append(reading)
            self._wake.set()

    def silent(self, workers: Collection[tuple[WorkerName, str | None]]) -> None:
        """Note workers, each with its team, that no gateway has heard of for long."""
        if self._metrics is not None and workers:
            self._silent.extend(workers)
            self._wake.set()

    # Telling it

    async def run(self) -> NoReturn:
        """Tell for ever."""
        while True:
            await self._wake.wait()
            await anyio.sleep(GATHER_S)
            self._wake = anyio.Event()
            try:
                await self.tell()
            except UnreachableError as error:
                log.debug("What happens to jobs is told later: %s", error)
                await anyio.sleep(AWAY_PAUSE_S)
                self._wake.set()

    async def tell(self) -> None:
        """Tell what was noted.

        Raises:
            UnreachableError: the database is away; what was noted of jobs waits.
        """
        heard, self._heard = self._heard, []
        silent, self._silent = self._silent, []
        if self._metrics is not None and (heard or silent):
            with self._guard.contained("telling how workers are"):
                await self._threads.run(_tell_workers, self._metrics, heard, silent)
        while self._jobs:
            some = self._jobs[:MANY]
            with self._guard.contained("telling what has happened to jobs"):
                await self._threads.run(self._tell_jobs, some)
            del self._jobs[: len(some)]

    def _tell_jobs(self, some: Sequence[_Happened]) -> None:
        """Tell of some jobs (blocking)."""
        claims = {one.claim for one in some}
        found = self._store.facts(claims, with_command=self._traces is not None)
        read_at = time.time()
        started, ended, traces = [], [], []
        for claim, phase, at in some:
            job = found.get(claim)
            if job is None:
                continue
            if phase is Phase.STARTED:
                started.append(job)
            elif job.end_state is not None and job.ended_s is not None:
                if read_at - job.ended_s < at - LATE_S:
                    continue
                ended.append(job)
                traces.append(self._trace(claim, job, read_at))
        if self._metrics is not None:
            self._metrics.started(started)
            self._metrics.ended(ended)
        if self._traces is not None:
            self._traces.ended(traces)

    def _trace(self, claim: ClaimId, job: ClaimFacts, read_at: float) -> JobTrace:
        times = self._times.get(claim) or _Times()
        # In the row's next round, it was queued after it was offered in this one.
        is_known = job.queued_s is not None and job.queued_s >= job.offered_s
        return JobTrace(
            claim=claim,
            job=job,
            queued_at=read_at - (job.queued_s or 0.0) if is_known else None,
            offered_at=read_at - job.offered_s,
            accepted_at=times.accepted_at,
            started_at=times.started_at,
            ended_at=read_at - (job.ended_s or 0.0),
        )


def _reading(link: Link) -> WorkerReading | None:
    inventory = link.inventory
    if inventory is None:
        return None
    jobs = len(link.slots)
    maintenance = inventory.maintenance if link.has_control else link.wish.maintenance
    state = said(jobs, maintenance=maintenance, leaving=inventory.leaving)
    return WorkerReading(
        worker=link.name,
        team=link.principal.team,
        connected=True,
        maintenance=state is Event.SAYS_MAINTENANCE,
        jobs_active=jobs,
        queues=link.queues or (),
        facts=link.facts,
    )


def _tell_workers(
    metrics: CentreMetrics, heard: Sequence[WorkerReading], silent: Sequence[tuple[str, str | None]]
) -> None:
    """Tell of workers (blocking)."""
    if silent:
        metrics.silent(silent)
    if heard:
        metrics.heard(heard)
