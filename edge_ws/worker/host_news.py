"""What the job hosts' events mean for the table of claims: pure; each returns what is to be done."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import assert_never

from edge_ws.protocol.ids import HostId
from edge_ws.worker.actions import Action
from edge_ws.worker.host_events import (
    Dropped,
    HostJob,
    HostUp,
    JobEnded,
    JobNotStarted,
    JobOwes,
    JobStarted,
    Prepared,
    PrepareRefused,
)
from edge_ws.worker.jobs import Jobs

log = logging.getLogger("edge_ws.worker")

JobEvent = Prepared | PrepareRefused | JobStarted | JobNotStarted | JobEnded | JobOwes | Dropped


def about_job(jobs: Jobs, event: JobEvent, current: HostId | None, log_start: int = 0) -> list[Action]:
    """Take up what a host tells of one job.

    Args:
        jobs: the table.
        event: what is told.
        current: the host that new jobs go to.
        log_start: bytes that the log of a job that is prepared has already.
    """
    match event:
        case Prepared():
            return jobs.prepared(event.claim, event.host, event.log_path, log_start)
        case PrepareRefused():
            return _refused(jobs, event, current)
        case JobStarted():
            return jobs.started(event.claim, event.host)
        case JobNotStarted():
            return jobs.did_not_start(event.claim, event.reason, event.fault)
        case JobEnded() | JobOwes():
            return _about_end(jobs, event)
        case Dropped():
            return []
        case _:
            assert_never(event)


def _about_end(jobs: Jobs, event: JobEnded | JobOwes) -> list[Action]:
    if isinstance(event, JobOwes):
        return jobs.owes(event.claim, event.outcome, event.owed)
    return jobs.ended(
        event.claim,
        event.exit_code,
        event.detail,
        log_uploaded=event.log_uploaded,
        outcome=event.outcome,
        owed=event.owed,
    )


def _refused(jobs: Jobs, event: PrepareRefused, current: HostId | None) -> list[Action]:
    if current is None or not event.invalid:
        return jobs.no_host(event.claim, event.reason)
    log.error("a job cannot run here: %s", event.reason)
    return jobs.cannot_run(event.claim, current, event.reason, None)


def ends(jobs: Jobs, told: Sequence[HostJob], *, host_is_dead: bool = False) -> list[Action]:
    """Take up the ends that a host, or its journal, tells; of a dead one also the outcomes that it leaves."""
    actions: list[Action] = []
    for one in told:
        if one.phase == "not_started":
            actions += jobs.did_not_start(one.claim, one.detail, one.fault)
        elif one.phase == "ended" or (host_is_dead and one.owed is not None):
            detail = one.detail if one.phase == "ended" else "the job host died, and its processes with it"
            actions += jobs.ended(
                one.claim,
                one.exit_code or 0,
                detail,
                log_uploaded=one.log_uploaded,
                outcome=one.outcome,
                owed=one.owed,
            )
    return actions


def host_up(jobs: Jobs, event: HostUp, alive: Iterable[HostId]) -> list[Action]:
    """Take up all that a host tells when it is attached to; `alive`: every host that lives."""
    actions: list[Action] = []
    for one in event.jobs:
        actions += jobs.on_host(event.host, one.claim, waiting=one.phase == "prepared")
        if one.phase == "started":
            actions += jobs.started(one.claim, event.host)
            if one.owed is not None and one.handed_over:
                actions += jobs.owes(one.claim, one.outcome, one.owed)
    actions += ends(jobs, event.jobs)
    actions += jobs.only_on([event.host], [one.claim for one in event.jobs])
    for gone in jobs.hosts() - set(alive):
        # It died while no daemon was there to see it.
        actions += jobs.host_dead(gone)
    return actions
