"""The daemon's numbers for Prometheus, collected when somebody asks; METRICS.md lists them.

The one module of the daemon that imports prometheus_client: a worker without a health port does not load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_ws.worker.facts import Facts
from edge_ws.worker.job_log import FAULTS, OUTCOMES
from edge_ws.worker.site_facts import STATUS
from edge_ws.worker.transport_choice import LONGPOLL, WEBSOCKET

_P = "edgews_worker_"
_FROM_FACTS: tuple[tuple[str, str, float, str], ...] = (
    ("jobs_running", "jobs_running", 1, "Tasks that run on this worker"),
    ("slots", "concurrency", 1, "Slots in force"),
    ("slots_used", "slots_taken", 1, "Slots taken"),
    ("outbox_entries", "outbox_entries", 1, "Ends of jobs that the centre has not confirmed"),
    ("outbox_bytes", "outbox_bytes", 1, "Records of jobs on disk"),
    (
        "outbox_oldest_seconds",
        "outbox_oldest_s",
        1,
        "Age of the oldest end that the centre has not confirmed",
    ),
    ("log_backlog_bytes", "log_backlog_bytes", 1, "Bytes of tasks' logs that the centre has not confirmed"),
    ("event_loop_lag_seconds", "loop_lag_ms", 1e-3, "The longest delay of the event loop in the last minute"),
    ("resident_memory_bytes", "daemon_rss_mb", 2**20, "Resident memory of the daemon"),
    ("clock_skew_seconds", "clock_skew_s", 1, "This machine's clock minus the gateway's"),
    (
        "round_trip_seconds",
        "round_trip_ms",
        1e-3,
        "Time of a small message to the gateway and back, last measured",
    ),
    ("cpu_usage_ratio", "cpu_usage", 1e-2, "Use of the machine's processors since the last look"),
    ("load1", "sys_load", 1, "Load average of one minute"),
    ("memory_usage_ratio", "memory_usage", 1e-2, "Use of the machine's memory"),
    ("disk_free_bytes", "disk_free_gb", 2**30, "Room on the disk of the state directory"),
)
"""Gauge, key of the fact, what that is multiplied by, and its help."""


class _Numbers(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def describe(self) -> list[Metric]:
        """Return nothing: to collect at registration would be in vain."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers as they are now."""
        told = self._facts.told()
        yield from self._about_itself(told)
        for name, key, factor, words in _FROM_FACTS:
            if isinstance(value := told.get(key), int | float):
                yield GaugeMetricFamily(_P + name, words, value=value * factor)
        site = GaugeMetricFamily(f"{_P}site_fact", "A number of the site's own function", labels=["fact"])
        for name, fact in self._facts.of.site.known.items():
            if isinstance(fact, int | float) and name != STATUS:
                site.add_metric([name], fact)
        yield site
        yield from self._counted()

    def _about_itself(self, told: Mapping[str, str | int | float]) -> Iterator[Metric]:
        of = self._facts.of
        build = GaugeMetricFamily(
            f"{_P}build_info", "What runs here", labels=["version", "airflow", "task_sdk", "python"]
        )
        keys = ("edge_ws_version", "airflow_version", "task_sdk_version", "python_version")
        build.add_metric([str(told.get(key, "")) for key in keys], 1)
        yield build
        started = of.started_at.timestamp()
        yield GaugeMetricFamily(f"{_P}start_time_seconds", "When the daemon started", value=started)
        connected = GaugeMetricFamily(
            f"{_P}connected", "Whether a gateway is connected, by transport", labels=["transport"]
        )
        for transport in (WEBSOCKET, LONGPOLL):
            connected.add_metric([transport], of.link.ready and of.link.mode.transport == transport)
        yield connected
        ready = self._facts.no_jobs() is None
        yield GaugeMetricFamily(f"{_P}ready", "Whether new jobs are taken", value=ready)

    def _counted(self) -> Iterator[Metric]:
        of = self._facts.of
        yield _counter(
            "reconnects",
            "Connections after the first, by what ended the one before",
            "reason",
            of.link.steadiness.reconnects,
        )
        yield _counter(
            "reports_sent", "Frames handed to the connection, logs aside", "report", of.vitals.reports
        )
        yield CounterMetricFamily(
            f"{_P}log_sent_bytes", "Bytes of tasks' logs handed to the connection", value=of.vitals.log_bytes
        )
        yield CounterMetricFamily(
            f"{_P}job_host_restarts", "Job hosts that died and were replaced", value=of.vitals.host_deaths
        )
        ended, not_started = of.job_log.ended, of.job_log.not_started
        yield _counter("jobs_ended", "Jobs that have ended", "outcome", dict.fromkeys(OUTCOMES, 0) | ended)
        yield _counter(
            "jobs_not_started",
            "Jobs that were accepted and never began",
            "fault",
            dict.fromkeys(FAULTS, 0) | not_started,
        )


def _counter(name: str, words: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(_P + name, words, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


class Metrics:
    """The page of numbers."""

    def __init__(self, facts: Facts) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Numbers(facts))

    def page(self) -> tuple[bytes, str]:
        """Return the page and its type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
