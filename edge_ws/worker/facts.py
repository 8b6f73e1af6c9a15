"""What the worker says of itself with each heartbeat: flat facts, under edge3's keys where it has them.

A key that is not there is not known. Units stand at the keys' ends, or with them in METRICS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import anyio

from edge_ws.protocol.ids import SETTING, SETTING_DEFAULTS, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.texts import WORDS, words
from edge_ws.worker import sysinfo
from edge_ws.worker.job_log import JobLog
from edge_ws.worker.jobs import Jobs
from edge_ws.worker.link import Link
from edge_ws.worker.logs import Logs
from edge_ws.worker.outbox import Outbox
from edge_ws.worker.readiness import Hindrances, Reason
from edge_ws.worker.site_facts import SiteFacts
from edge_ws.worker.vitals import Vitals

Told = dict[str, str | int | float]
MACHINE_GOOD_S = 2.0
"""The machine is not looked at again sooner: its processor's use is that since the last look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whom the facts come from."""

    worker: WorkerName
    versions: Mapping[str, str]
    started_at: datetime
    directory: Path
    """On the disk to report."""
    settings: Sequence[tuple[str, str, str]]
    """Each with its value and its origin, without secrets."""
    jobs: Jobs
    outbox: Outbox
    logs: Logs
    link: Link
    job_log: JobLog
    hindrances: Hindrances
    vitals: Vitals
    site: SiteFacts


class Facts:
    """The facts as they are."""

    def __init__(self, sources: Sources, no_jobs: Callable[[], Reason | None]) -> None:
        """`no_jobs`: returns why no new jobs are taken, None if they are."""
        self.of = sources
        self.no_jobs = no_jobs
        self._machine: Told = {}
        self._machine_at: float | None = None

    def told(self) -> Told:
        """Return what goes with each heartbeat."""
        of, now = self.of, anyio.current_time()
        reason = of.link.mode.reason
        own: Told = {"transport_reason": reason} if reason else {}
        own |= {**of.hindrances.told(), **of.link.steadiness.told()}
        own |= sysinfo.worker(
            versions=of.versions,
            started_at=of.started_at,
            concurrency=of.jobs.slots.concurrency,
            free_concurrency=of.jobs.slots.free,
        )
        own |= self._looked(now)
        own |= self._daemons(now)
        return own | of.site.beside(own)

    def greeting(self) -> Told:
        """Return what goes with a greeting: that, and the settings."""
        return {**settings_told(self.of.settings), **self.told()}

    def _looked(self, now: float) -> Told:
        if self._machine_at is None or now - self._machine_at >= MACHINE_GOOD_S:
            self._machine, self._machine_at = sysinfo.machine(self.of.directory), now
        return self._machine

    def _daemons(self, now: float) -> Told:
        of, round_trip_s = self.of, self.of.link.round_trip_s
        waiting = of.outbox.waiting()
        told: Told = {
            "loop_lag_ms": round(1000 * of.vitals.loop_lag_s(now), 1),
            "jobs_running": sum(job.has_process and job.phase is Phase.STARTED for job in of.jobs.all()),
            "slots_taken": of.jobs.slots.taken,
            "outbox_entries": waiting.entries,
            "outbox_bytes": waiting.size,
            "outbox_oldest_s": round(waiting.oldest_s, 1),
            "log_backlog_bytes": of.logs.unconfirmed(),
        }
        if round_trip_s is not None:
            told["round_trip_ms"] = round(1000 * round_trip_s, 2)
        skew_s = of.vitals.clock_skew_s(now, round_trip_s)
        if skew_s is not None:
            told["clock_skew_s"] = round(skew_s, 3)
        return told


def settings_told(settings: Sequence[tuple[str, str, str]]) -> Told:
    """Return the settings as facts: one for each that somebody has set, and a few with all the others."""
    told: Told = {}
    left: list[str] = []
    for key, value, origin in settings:
        if origin == "default":
            left.append(words(f"{key}={value}"))
        else:
            told[f"{SETTING}{key}"] = words(f"{value} from {origin}")
    for number, line in enumerate(_lines(left), 1):
        told[SETTING_DEFAULTS if number == 1 else f"{SETTING_DEFAULTS}{number}"] = line
    return told


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts, joined as far as one fact holds them."""
    line = ""
    for part in parts:
        longer = f"{line}, {part}" if line else part
        if len(longer) > WORDS:
            yield line
            longer = part
        line = longer
    if line:
        yield line
