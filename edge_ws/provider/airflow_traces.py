"""Airflow's own traces (OpenTelemetry): a span for each job, within the trace of its task.

Airflow gives each attempt of a task a W3C trace context, its carrier, which travels in the workload. Its
spans `task_run.X` (the api-server's) and `worker.X` (the task process's) hang on it, and so does ours. Where
Airflow wants no traces, nothing here is made and OpenTelemetry is not loaded.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_ws.provider import compat
from edge_ws.server.ports import JobTrace

log = logging.getLogger(__name__)

TELL_EVERY_S = 600.0
"""Between two lines of the log about spans that are not made."""


class AirflowTraces:
    """`JobTraces` by the tracer that Airflow has set up."""

    def __init__(self, tracer: Any, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401
        """Make it of what makes spans, see `compat.tracer`."""
        self._tracer = tracer
        self._clock = clock
        self._told_at = -math.inf

    @classmethod
    def wanted(cls) -> AirflowTraces | None:
        """Return it, None where Airflow wants no traces or cannot make any."""
        try:
            tracer = compat.tracer("edge_ws")
        except Exception:
            # A part of Airflow that jobs do not need.
            log.warning("edge-ws: Airflow's traces cannot be used; no spans are made", exc_info=True)
            return None
        return None if tracer is None else cls(tracer)

    def ended(self, jobs: Sequence[JobTrace]) -> None:
        """Make the spans of jobs that have ended."""
        for job in jobs:
            try:
                self._span(job)
            except Exception:
                # Whatever OpenTelemetry raises, or a workload from another Airflow holds.
                now = self._clock()
                if now - self._told_at >= TELL_EVERY_S:
                    self._told_at = now
                    log.warning("edge-ws: no span is made of a job; jobs go on", exc_info=True)

    def _span(self, one: JobTrace) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only where traces are wanted
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        job = one.job
        ti = json.loads(job.command or "{}").get("ti") or {}
        carrier = ti.get("context_carrier")
        if not isinstance(carrier, dict):
            # A callback, which belongs to no task's trace.
            return
        context = TraceContextTextMapPropagator().extract(carrier)
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid or not parent.trace_flags.sampled:
            # As Airflow does: whether a run is traced is decided once, whatever sampler is set up here.
            return
        index = f"[{job.key.map_index}]" if job.key.map_index >= 0 else ""
        begun_at = one.offered_at if one.queued_at is None else one.queued_at
        span = self._tracer.start_span(
            f"edge_ws.job.{job.key.task_id}{index}",
            context=context,
            start_time=_ns(begun_at),
            attributes={
                "airflow.dag_id": job.key.dag_id,
                "airflow.task_id": job.key.task_id,
                "airflow.dag_run.run_id": job.key.run_id,
                "airflow.task_instance.try_number": job.key.try_number,
                "airflow.task_instance.map_index": job.key.map_index,
                "airflow.task_instance.id": str(ti.get("id", "")),
                "edge_ws.claim": one.claim,
                "edge_ws.worker": job.worker,
                "edge_ws.queue": job.queue,
                "edge_ws.slots": job.slots,
            },
        )
        times = {
            "queued": one.queued_at,
            "offered": one.offered_at,
            "accepted": one.accepted_at,
            "started": one.started_at,
            "ended": one.ended_at,
        }
        for name, at in times.items():
            if at is not None:
                span.add_event(name, timestamp=_ns(at))
        if job.end_state == "success":
            span.set_status(trace.Status(trace.StatusCode.OK))
        else:
            span.set_status(trace.Status(trace.StatusCode.ERROR, job.detail or None))
        span.end(end_time=_ns(max(one.ended_at, begun_at)))


def _ns(seconds: float) -> int:
    """Return seconds since the epoch as OpenTelemetry counts."""
    return int(seconds * 1e9)
