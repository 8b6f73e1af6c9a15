"""The log's lines about jobs: one for the start of each, one for its end, one if it is stopped.

It is told what the table of claims wants written to disk: each change of a job once.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_ws.protocol.ids import HOST, UNSURE, ClaimId
from edge_ws.protocol.states import Phase
from edge_ws.worker.job import Record
from edge_ws.worker.job_names import title
from edge_ws.worker.jobs import Job

log = logging.getLogger("edge_ws.worker")
OTHER = "other"
LOST = "lost"
"""It ended without a report: its job host died, or the centre no longer tracks it."""
OUTCOMES = ("success", "failed", "skipped", "up_for_retry", "up_for_reschedule", "deferred", LOST, OTHER)
"""How jobs end, as they are counted; OTHER: Airflow was told of no outcome."""
FAULTS = (HOST, UNSURE, OTHER)
_NAMED = 3
"""Of many jobs a line names so many."""


class JobLog:
    """Remembers what this life of the daemon has seen begin, and not yet end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[ClaimId, tuple[str, float | None]] = {}
        self._stopping: set[ClaimId] = set()
        self._owing: set[ClaimId] = set()
        self.ended: Counter[str] = Counter()
        """Jobs of this life of the daemon, by how they ended: one of OUTCOMES."""
        self.not_started: Counter[str] = Counter()
        """Jobs that were accepted and never began, by whose fault that is: one of FAULTS."""

    def kept(self, record: Record) -> None:
        """Tell of the change that the record is of."""
        claim, name = record.claim, title(record.subject, record.claim)
        if record.stale:
            self._open.setdefault(claim, (name, None))
            log.info("stale: %s: the centre no longer tracks this attempt; it runs to its end", name)
        elif record.not_started is not None:
            self.not_started[record.fault if record.fault in FAULTS else OTHER] += 1
            log.info("not started: %s: %s", name, record.not_started)
        elif record.owed is not None:
            self._kept(claim, name, record.outcome)
        elif record.phase is Phase.STARTED:
            if not self._delivered(record, name):
                self._open[claim] = name, self._clock()
                log.info("started: %s", name)
        elif record.phase is Phase.ENDED:
            self._delivered(record, name)
            self.ended[_outcome(record)] += 1
            _, begun = self._open.pop(claim, (name, None))
            why = f": {record.detail}" if record.detail else ""
            log.info("ended: %s, %s%s%s", name, _how(record), self._after(begun), why)

    def _kept(self, claim: ClaimId, name: str, outcome: str) -> None:
        self._open.setdefault(claim, (name, None))
        if claim not in self._owing:
            self._owing.add(claim)
            log.warning("kept: %s: Airflow has not taken its outcome %s yet", name, outcome)

    def _delivered(self, record: Record, name: str) -> bool:
        """Tell of the outcome that has been kept so far; False if none has been."""
        is_owing = record.claim in self._owing
        self._owing.discard(record.claim)
        if is_owing and record.outcome:
            log.info("delivered: %s: %s", name, record.outcome)
        return is_owing

    def stopping(self, job: Job, reason: str) -> None:
        """Tell that a running job is being stopped; the centre asks for it again until that is reported."""
        if job.claim not in self._stopping:
            self._stopping.add(job.claim)
            log.info("stopping: %s: %s", title(job.subject, job.claim), reason)

    def forgotten(self, claim: ClaimId) -> None:
        """Tell the end of what has not reported one: it was stale, or its job host has died."""
        self._stopping.discard(claim)
        name, begun = self._open.pop(claim, ("", None))
        if claim in self._owing:
            self._owing.discard(claim)
            log.warning(
                "dropped: %s: its outcome was not delivered: the centre no longer tracks this attempt", name
            )
        elif name:
            self.ended[LOST] += 1
            log.info("gone: %s%s, without a report", name, self._after(begun))

    def _after(self, begun: float | None) -> str:
        # Unknown of what began in an earlier life.
        return "" if begun is None else f" after {self._clock() - begun:.1f} s"


def left_behind(jobs: Sequence[Job], directory: Path) -> str:
    """Return the line of a worker that leaves: what it leaves, and what becomes of that."""
    running = [job for job in jobs if job.has_process]
    reports = [job for job in jobs if not job.has_process]
    told = []
    if reports:
        told.append(
            f"{len(reports)} reports that the centre has not confirmed stay in {directory / 'outbox'} and "
            f"are sent at the next start ({_named(reports)})"
        )
    if running:
        told.append(f"{len(running)} jobs go on and are taken up at the next start ({_named(running)})")
    return f"leaving: {'; '.join(told) or 'nothing is left'}"


def _named(jobs: Sequence[Job]) -> str:
    more = len(jobs) - _NAMED
    names = ", ".join(title(job.subject, job.claim) for job in jobs[:_NAMED])
    return f"{names} and {more} more" if more > 0 else names


def _how(record: Record) -> str:
    """Return how the job ended: by the outcome that Airflow knows, else by its process's exit code."""
    code = f"exit code {record.exit_code}"
    if not record.outcome:
        return code
    return f"{record.outcome}, {code}" if record.exit_code else record.outcome


def _outcome(record: Record) -> str:
    return record.outcome if record.outcome in OUTCOMES else OTHER
