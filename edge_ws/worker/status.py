"""How the worker is, for people and programs on its own host: plain values for JSON.

Knows neither the socket by which it is asked nor how it is shown.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta

import anyio

from edge_ws.worker import sysinfo
from edge_ws.worker.config import WorkerConfig
from edge_ws.worker.control import Condition
from edge_ws.worker.faults import Faults
from edge_ws.worker.job_names import JobName
from edge_ws.worker.jobs import Job, Jobs
from edge_ws.worker.link import Link
from edge_ws.worker.readiness import Reason
from edge_ws.worker.wishes import Wishes

_UNKNOWN = dict.fromkeys(one.name for one in fields(JobName))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a condition is made of."""

    config: WorkerConfig
    wishes: Wishes
    jobs: Jobs
    link: Link
    versions: Mapping[str, str]
    centre: Mapping[str, str] | None
    """Versions there; None: it has not been reached in this life."""
    started_at: datetime
    no_jobs: Reason | None
    """Why no new jobs are taken; None: they are."""
    faults: Faults


def describe(parts: Parts) -> Condition:
    """Return the condition."""
    config, wishes, jobs = parts.config, parts.wishes, parts.jobs
    return {
        "worker": config.name,
        "state": _state(parts),
        "pid": os.getpid(),
        "host": platform.node(),
        "started_at": _text(parts.started_at),
        "state_dir": str(config.state_dir),
        "connection": _connection(parts),
        "slots": {
            "in_force": wishes.concurrency,
            "used": jobs.slots.taken,
            "wish": wishes.wish.concurrency,
            "default": config.concurrency,
        },
        "queues": {
            "in_force": _names(wishes.queues),
            "wish": _names(wishes.wish.queues),
            "default": _names(config.queues),
        },
        "wish_revision": wishes.wish.revision,
        "maintenance": {
            "in_force": wishes.maintenance,
            "comment": wishes.comment or None,
            "asked_by": wishes.maintained_by or None,
        },
        "leaving": {"in_force": bool(wishes.leaving), "why": wishes.leaving or None},
        "takes_jobs": parts.no_jobs is None,
        "why_no_jobs": parts.no_jobs.sentence if parts.no_jobs is not None else None,
        "no_jobs_code": parts.no_jobs.code if parts.no_jobs is not None else None,
        "jobs": [_job(job, jobs.slots.of(job.claim)) for job in jobs.all()],
        "faults": _faults(parts.faults),
        "versions": dict(parts.versions),
        "centre_versions": dict(parts.centre) if parts.centre is not None else None,
    }


def connected(wishes: Wishes, here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return what a worker that has connected has in force, and the versions on both sides, for a line."""
    queues = ", ".join(wishes.queues or ["all"])
    sides = f"here {sysinfo.versions_told(here)}; at the centre {sysinfo.versions_told(there)}"
    return f"queues {queues}, {wishes.concurrency} slots; {sides}"


def _state(parts: Parts) -> str:
    """Return the worker's state in edge3's words, as the centre will show it when it has had all reports."""
    busy = parts.jobs.have_processes
    if parts.wishes.leaving:
        return "terminating"
    if parts.wishes.maintenance:
        return "maintenance pending" if busy else "maintenance mode"
    if parts.centre is None:
        return "starting"
    return "running" if busy else "idle"


def _connection(parts: Parts) -> dict[str, object]:
    link = parts.link
    since = link.ready_since
    now = datetime.now(UTC)
    return {
        "url": parts.config.url,
        "connected": link.ready,
        "twin": link.twin,
        "transport": link.mode.transport if link.ready else None,
        "since": _text(now - timedelta(seconds=anyio.current_time() - since)) if since is not None else None,
        # Why not by WebSocket, or why not at all.
        "reason": (link.mode.reason if link.ready else link.trouble) or None,
        # Where something on the way lets only smaller messages pass, in bytes.
        "message_limit": link.message_limit,
        # Of this life of the daemon: how steady the line has been.
        "losses": link.steadiness.losses,
        "transport_changes": link.steadiness.changes,
        "lost_at": _text(link.steadiness.lost_at) if link.steadiness.lost_at is not None else None,
        "lost_why": link.steadiness.lost_why or None,
    }


def _faults(faults: Faults) -> dict[str, object]:
    last = faults.last
    told = None
    if last is not None:
        told = {
            "what": last.what,
            "error": last.error,
            "place": last.place,
            "advice": last.advice,
            "count": last.count,
            "at": _text(last.last_at),
        }
    return {"count": faults.count, "last": told}


def _job(job: Job, slots: int) -> dict[str, object]:
    return {
        "claim": job.claim,
        **(_UNKNOWN if job.subject is None else asdict(job.subject)),
        "phase": job.phase.value if job.not_started is None else "not started",
        "slots": slots,
        "stale": job.stale,
    }


def _names(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
