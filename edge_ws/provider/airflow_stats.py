"""Airflow's own metrics (Stats), under the names and with the tags that the Edge provider gives them.

So a site's dashboards survive the move (edge3 5.1.0: models/edge_worker.py, worker_api/routes/worker.py and
jobs.py, executors/edge_executor.py). Where Airflow wants no metrics, nothing here is made or loaded.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from edge_ws.provider import compat
from edge_ws.server.ports import WorkerReading
from edge_ws.store.records import ClaimFacts

log = logging.getLogger(__name__)

TELL_EVERY_S = 600.0
"""Between two lines of the log about metrics that are not sent."""
_SAID_OTHERWISE = {"status", "concurrency", "free_concurrency"}
_OURS_ALONE = {"pid"}
"""Numbers that measure nothing."""
_TAKEN = {"connected", "maintenance", "jobs_active", "num_queues", "heartbeat_count"}
"""A worker's fact of such a name would pass for ours."""
MOST_FACTS = 100
"""Numbers of one worker, at the most; each is a series of its own wherever metrics go."""
_FACT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What may be the end of a metric's name: Airflow logs an error for each that is not."""
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
"""What Airflow takes in no name; in its own it is replaced like this."""


class AirflowStats:
    """`CentreMetrics`, and the executor's timer, in Airflow's metrics system."""

    def __init__(
        self,
        stats: Any,  # noqa: ANN401 - Airflow's own module
        *,
        takes_any_tag: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it of the module that emits, see `compat.metrics`.

        `takes_any_tag`: see the function of that name there.
        """
        self._stats = stats
        self._takes_any_tag = takes_any_tag
        self._clock = clock
        self._told_at = -math.inf

    @classmethod
    def wanted(cls) -> AirflowStats | None:
        """Return it, None where Airflow wants no metrics or cannot send any."""
        try:
            stats = compat.metrics()
            takes_any_tag = compat.takes_any_tag()
        except Exception:
            # A part of Airflow that jobs do not need.
            log.warning("edge-ws: Airflow's metrics cannot be used; none are sent", exc_info=True)
            return None
        return None if stats is None else cls(stats, takes_any_tag=takes_any_tag)

    # The gateway's

    def heard(self, readings: Sequence[WorkerReading]) -> None:
        """Take one heartbeat of each of these workers."""
        for one in readings:
            with self._undisturbed():
                tags = self._tags(worker_name=one.worker, team_name=one.team)
                self._stats.incr("edge_worker.heartbeat_count", 1, 1, tags=tags)
                self._gauges(one, tags)

    def silent(self, workers: Sequence[tuple[str, str | None]]) -> None:
        """Set the gauges of workers that are not heard of any more to what edge3 sets them to."""
        for worker, team in workers:
            one = WorkerReading(
                worker=worker,
                team=team,
                connected=False,
                maintenance=False,
                jobs_active=0,
                queues=(),
                facts={"status": logging.NOTSET, "concurrency": 0, "free_concurrency": -1},
            )
            with self._undisturbed():
                self._gauges(one, self._tags(worker_name=worker, team_name=team))

    def started(self, jobs: Sequence[ClaimFacts]) -> None:
        """Count jobs that have started."""
        for job in jobs:
            with self._undisturbed():
                tags = self._tags(
                    dag_id=job.key.dag_id, task_id=job.key.task_id, queue=job.queue, team_name=job.team
                )
                self._stats.incr("edge_worker.ti.start", tags=tags)

    def ended(self, jobs: Sequence[ClaimFacts]) -> None:
        """Count jobs that have ended."""
        for job in jobs:
            with self._undisturbed():
                tags = self._tags(
                    dag_id=job.key.dag_id,
                    task_id=job.key.task_id,
                    queue=job.queue,
                    state=job.end_state,
                    team_name=job.team,
                )
                self._stats.incr("edge_worker.ti.finish", tags=tags)

    def _gauges(self, one: WorkerReading, tags: dict[str, str]) -> None:
        gauge, facts = self._stats.gauge, one.facts
        status = facts.get("status", logging.NOTSET)
        gauge("edge_worker.status", status if _is_number(status) else logging.NOTSET, tags=tags)
        gauge("edge_worker.connected", int(one.connected), tags=tags)
        gauge("edge_worker.maintenance", int(one.maintenance), tags=tags)
        gauge("edge_worker.jobs_active", one.jobs_active, tags=tags)
        for name in ("concurrency", "free_concurrency"):
            value = facts.get(name, -1)
            gauge(f"edge_worker.{name}", value if _is_number(value) else -1, tags=tags)
        tags_of_queues = {**tags, "queues": ",".join(one.queues)}
        if not self._takes_any_tag and len(one.queues) > 1:
            # Airflow would leave a tag with commas out as well, with an error in the log.
            del tags_of_queues["queues"]
        elif not self._takes_any_tag:
            tags_of_queues["queues"] = _plain(tags_of_queues["queues"])
        gauge("edge_worker.num_queues", len(one.queues), tags=tags_of_queues)
        for name, value in islice(_numbers(facts), MOST_FACTS):
            gauge(f"edge_worker.{name}", value, tags=tags)

    # The executor's

    @contextmanager
    def sync_timed(self, team: str | None) -> Iterator[None]:
        """Time the block as one `sync` of the executor."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            with self._undisturbed():
                took_ms = (time.perf_counter() - begun) * 1000.0
                self._stats.timing("edge_executor.sync.duration", took_ms, tags=self._tags(team_name=team))

    def _tags(self, **tags: str | None) -> dict[str, str]:
        said = {name: value for name, value in tags.items() if value is not None}
        return said if self._takes_any_tag else {name: _plain(value) for name, value in said.items()}

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            # Whatever Airflow's metrics and their libraries raise.
            now = self._clock()
            if now - self._told_at >= TELL_EVERY_S:
                self._told_at = now
                log.warning("edge-ws: Airflow's metrics are not sent; jobs go on", exc_info=True)


def _plain(tag: str) -> str:
    return _ODD.sub("_", tag)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(facts: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield the worker's numbers that have no gauge of their own."""
    for name, value in facts.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if name not in _SAID_OTHERWISE | _OURS_ALONE | _TAKEN and _FACT.fullmatch(name):
            yield name, value
