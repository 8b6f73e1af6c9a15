"""What a gateway shows to Prometheus: the names of all values, and how they are rendered. Does no I/O.

Rendering is done in a thread, from a copy. Labels hold the names of queues and of connected workers, bounded
in number, and otherwise one of a few words of ours.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_ws.server.figures import BOUNDS, TRANSPORTS, Figures
from edge_ws.server.hub import Hub
from edge_ws.texts import words

QUEUES = 500
"""Queues that are shown apart."""
OTHERS = "(others)"
"""Stands for what is not shown apart."""
WORKERS = 5000
"""Workers that are shown."""
VERSIONS = 50
"""Texts of workers' versions that are told apart: a worker may say a new one each time."""
TURN = 25
TURN_S = 0.0005
"""After so many workers other threads have so long a turn."""
LARGEST = 1e300
"""Beyond that it is no number of a machine's, and Python may not even make a float of it."""
WAKEUPS = ("listen", "data_version", "polling")
_VERSION = re.compile(r"[0-9A-Za-z.+!_-]{1,40}")
_MB = 2.0**20
_GB = 2.0**30


@dataclass(frozen=True, slots=True)
class Family:
    """One name with what it means; the page METRICS.md has the same."""

    kind: str
    """`gauge`, `counter` or `histogram`."""
    labels: tuple[str, ...]
    help: str


GATEWAY: Mapping[str, Family] = {
    "edgews_gateway_info": Family(
        "gauge", ("gateway", "hostname", "pid", "version", "airflow"), "Which gateway answers; always 1."
    ),
    "edgews_gateway_start_time_seconds": Family(
        "gauge", (), "When it began, seconds since the epoch, by its machine's clock."
    ),
    "edgews_connections": Family("gauge", ("transport",), "Workers that are connected to this gateway."),
    "edgews_connects_total": Family("counter", ("transport",), "Workers that have connected."),
    "edgews_drops_total": Family("counter", ("reason",), "Connections of workers that have ended."),
    "edgews_refusals_total": Family("counter", ("code",), "Connections and requests that were refused."),
    "edgews_offers_total": Family("counter", (), "Jobs that were offered to a worker."),
    "edgews_offer_results_total": Family("counter", ("result",), "What became of offers."),
    "edgews_job_ends_total": Family("counter", ("outcome",), "Jobs that have ended."),
    "edgews_cancels_total": Family("counter", (), "Jobs that workers were told to stop."),
    "edgews_push_latency_seconds": Family(
        "histogram", (), "From when a job was queued and its worker had a slot for it, to its offer."
    ),
    "edgews_start_latency_seconds": Family("histogram", (), "From when a job was queued to its start."),
    "edgews_wish_latency_seconds": Family(
        "histogram", (), "From when a wish became known here to when its worker had applied it."
    ),
    "edgews_log_bytes_total": Family("counter", (), "Bytes of jobs' logs that workers have sent."),
    "edgews_database_seconds": Family("histogram", ("kind",), "Duration of the gateway's transactions."),
    "edgews_database_errors_total": Family("counter", ("error",), "Transactions that the database failed."),
    "edgews_wakeup": Family(
        "gauge", ("by",), "How changes of the database become known: 1 for the way that is used."
    ),
    "edgews_event_loop_lag_seconds": Family(
        "histogram", (), "How much later than due the event loop did something."
    ),
    "edgews_faults_total": Family("counter", (), "Faults of this program that were contained; see the log."),
    "edgews_events_left_out_total": Family("counter", (), "Events that were too many to be noted."),
    "edgews_fleet_exporter": Family("gauge", (), "1 where this gateway shows the values of the whole fleet."),
}
"""Of each gateway its own."""
FLEET: Mapping[str, Family] = {
    "edgews_gateways": Family("gauge", ("state",), "Gateways of the last hour that have not ended."),
    "edgews_workers": Family("gauge", ("state",), "Workers that are known."),
    "edgews_jobs": Family("gauge", ("queue", "state"), "Jobs that wait, and that workers hold."),
    "edgews_queue_oldest_wait_seconds": Family(
        "gauge", ("queue",), "For how long the oldest waiting job has been queued; 0: none waits."
    ),
    "edgews_queue_workers": Family("gauge", ("queue",), "Workers that take the queue's jobs now."),
    "edgews_queue_slots": Family("gauge", ("queue",), "Slots of those workers."),
    "edgews_queue_free_slots": Family("gauge", ("queue",), "Those of the slots that are free."),
    "edgews_queue_paused": Family("gauge", ("queue",), "1 where an operator has paused the queue."),
    "edgews_tokens_expiring": Family("gauge", (), "Valid tokens that expire within 14 days."),
    "edgews_tokens_expired_in_use": Family(
        "gauge", (), "Expired tokens, not revoked, of workers that are known."
    ),
}
"""Of the whole fleet: from one gateway alone."""
WORKER: Mapping[str, Family] = {
    "edgews_worker_info": Family(
        "gauge", ("worker", "transport", "version", "airflow", "python"), "Which releases run; always 1."
    ),
    "edgews_worker_last_heard_seconds": Family("gauge", ("worker",), "For how long nothing was heard of it."),
    "edgews_worker_slots": Family("gauge", ("worker",), "Slots that are in force."),
    "edgews_worker_slots_used": Family("gauge", ("worker",), "Those that jobs take."),
    "edgews_worker_jobs_running": Family("gauge", ("worker",), "Processes of jobs."),
    "edgews_worker_outbox_entries": Family("gauge", ("worker",), "Reports that the centre has yet to take."),
    "edgews_worker_outbox_bytes": Family("gauge", ("worker",), "What they take on the worker's disk."),
    "edgews_worker_outbox_oldest_seconds": Family("gauge", ("worker",), "Age of the oldest of them."),
    "edgews_worker_log_backlog_bytes": Family(
        "gauge", ("worker",), "Bytes of logs that the centre has yet to take."
    ),
    "edgews_worker_event_loop_lag_seconds": Family("gauge", ("worker",), "Longest of the last minute."),
    "edgews_worker_resident_memory_bytes": Family("gauge", ("worker",), "Memory of the daemon."),
    "edgews_worker_clock_skew_seconds": Family("gauge", ("worker",), "Its clock minus the gateway's."),
    "edgews_worker_round_trip_seconds": Family("gauge", ("worker",), "From the worker to here and back."),
    "edgews_worker_cpu_usage_ratio": Family("gauge", ("worker",), "Of the machine, 0 to 1."),
    "edgews_worker_load1": Family("gauge", ("worker",), "Load of the machine over a minute."),
    "edgews_worker_memory_usage_ratio": Family("gauge", ("worker",), "Of the machine, 0 to 1."),
    "edgews_worker_disk_free_bytes": Family("gauge", ("worker",), "Where the worker's state is."),
}
"""Of each worker that is connected to this gateway, as it has last said."""
_FACTS = {
    "edgews_worker_jobs_running": ("jobs_running", 1.0),
    "edgews_worker_outbox_entries": ("outbox_entries", 1.0),
    "edgews_worker_outbox_bytes": ("outbox_bytes", 1.0),
    "edgews_worker_outbox_oldest_seconds": ("outbox_oldest_s", 1.0),
    "edgews_worker_log_backlog_bytes": ("log_backlog_bytes", 1.0),
    "edgews_worker_event_loop_lag_seconds": ("loop_lag_ms", 0.001),
    "edgews_worker_resident_memory_bytes": ("daemon_rss_mb", _MB),
    "edgews_worker_clock_skew_seconds": ("clock_skew_s", 1.0),
    "edgews_worker_round_trip_seconds": ("round_trip_ms", 0.001),
    "edgews_worker_cpu_usage_ratio": ("cpu_usage", 0.01),
    "edgews_worker_load1": ("sys_load", 1.0),
    "edgews_worker_memory_usage_ratio": ("memory_usage", 0.01),
    "edgews_worker_disk_free_bytes": ("disk_free_gb", _GB),
}
"""Name -> what the worker calls it, and its unit in ours."""
_VERSIONS = ("edge_ws_version", "airflow_version", "python_version")
_OF_VERSIONS = ("version", "airflow", "python")
_COUNTERS = {
    "edgews_connects_total": "connects",
    "edgews_drops_total": "drops",
    "edgews_refusals_total": "refusals",
    "edgews_offers_total": "offers",
    "edgews_offer_results_total": "offer_results",
    "edgews_job_ends_total": "ends",
    "edgews_cancels_total": "cancels",
    "edgews_log_bytes_total": "log_bytes",
    "edgews_database_errors_total": "database_errors",
    "edgews_events_left_out_total": "events_left_out",
}
_LABELS = {
    "connects": TRANSPORTS,
    "offer_results": ("accepted", "refused", "expired", "taken_back", "disconnected", "unknown"),
    "ends": ("success", "failed", "not_started", "lost", "removed"),
    "database_errors": ("conflict", "unreachable", "other"),
}
"""What is shown as 0 before it happens for the first time: else its first rise would not be seen."""
_HISTOGRAMS: Mapping[str, Mapping[tuple[str, ...], str]] = {
    "edgews_push_latency_seconds": {(): "push_latency"},
    "edgews_start_latency_seconds": {(): "start_latency"},
    "edgews_wish_latency_seconds": {(): "wish_latency"},
    "edgews_event_loop_lag_seconds": {(): "loop_lag"},
    "edgews_database_seconds": {("read",): "database_read", ("write",): "database_write"},
}


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A connected worker."""

    name: str
    transport: str
    heard_s: float
    slots: int
    used: int
    facts: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """A queue, as `list-queues` counts it."""

    queued: int = 0
    running: int = 0
    oldest_wait_s: float = 0.0
    workers: int = 0
    slots: int = 0
    free: int = 0
    is_paused: bool = False

    @property
    def counts(self) -> bool:
        """Whether somebody in the data centre speaks of it: workers alone may name what they like."""
        return self.queued > 0 or self.running > 0 or self.is_paused

    def plus(self, other: QueueFacts) -> QueueFacts:
        """Return both together; a worker of both counts twice."""
        return QueueFacts(
            queued=self.queued + other.queued,
            running=self.running + other.running,
            oldest_wait_s=max(self.oldest_wait_s, other.oldest_wait_s),
            workers=self.workers + other.workers,
            slots=self.slots + other.slots,
            free=self.free + other.free,
            is_paused=self.is_paused or other.is_paused,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFacts:
    """The whole fleet, as the database has it."""

    gateways: Mapping[str, int]
    """`alive` and `silent` -> how many."""
    workers: Mapping[str, int]
    """State -> how many."""
    queues: Mapping[str, QueueFacts]
    tokens_expiring: int
    tokens_expired_in_use: int


@dataclass(slots=True)
class Copy:
    """What is rendered: taken on the event loop, and read in a thread."""

    info: tuple[str, ...]
    started_at: float
    counts: Counter[str]
    durations: Mapping[str, tuple[list[int], float]]
    connections: Mapping[str, int]
    wakeup: str
    faults: int
    workers: Iterable[WorkerFacts]
    """Read once."""
    fleet: FleetFacts | None = None
    """None: another gateway shows it, or the database is away."""


def copy(info: tuple[str, ...], figures: Figures, hub: Hub, faults: int, now: float) -> Copy:
    """Return what there is to show; what workers say is read when it is rendered, and takes no time here.

    Args:
        info: the labels of `edgews_gateway_info`.
        figures: the gateway's.
        hub: its workers.
        faults: that were contained.
        now: monotonic seconds.
    """
    links = hub.links()
    if len(links) > WORKERS:
        links = sorted(links, key=lambda link: link.name)[:WORKERS]
    return Copy(
        info=info,
        started_at=figures.started_at,
        counts=figures.counts.copy(),
        durations={name: (one.buckets.copy(), one.total) for name, one in figures.durations.items()},
        connections=hub.by_transport(),
        wakeup=figures.wakeup,
        faults=faults,
        workers=(
            WorkerFacts(
                link.name,
                link.transport,
                link.unheard_s(now),
                link.concurrency,
                link.concurrency - link.free(),
                link.facts,
            )
            for link in links
        ),
    )


class Known:
    """Tells so many texts apart, and calls all others the same."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def text(self, said: object) -> str:
        """Return a version as it is shown."""
        text = str(said) if said is not None else ""
        if not text or text in self._known:
            return text
        if len(self._known) >= self._most or not _VERSION.fullmatch(text):
            return OTHERS
        self._known.add(text)
        return text


class Metrics:
    """Renders copies; for one thread at a time."""

    def __init__(self) -> None:
        self._versions = Known(VERSIONS)

    def render(self, copied: Copy) -> bytes:
        """Return the text that Prometheus reads."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Copied(copied))
        return generate_latest(registry) + self._workers(copied.workers)

    def _workers(self, workers: Iterable[WorkerFacts]) -> bytes:
        """Return what workers say, in the same form.

        Not by the library: its object for each of ten thousands of values would have Python collect garbage,
        which holds up the event loop for longer than all the rest.
        """
        lines: dict[str, list[str]] = {name: [] for name in WORKER}
        for number, one in enumerate(workers, 1):
            if number % TURN == 0:
                # Else the event loop's thread would get its turn after 5 ms only, each time that it waits.
                time.sleep(TURN_S)
            label = f'worker="{_escaped(one.name)}"'
            versions = (self._versions.text(one.facts.get(name)) for name in _VERSIONS)
            info = ",".join(f'{of}="{text}"' for of, text in zip(_OF_VERSIONS, versions, strict=True))
            lines["edgews_worker_info"].append(
                f'edgews_worker_info{{{label},transport="{one.transport}",{info}}} 1.0\n'
            )
            values = {
                "edgews_worker_last_heard_seconds": one.heard_s,
                "edgews_worker_slots": float(one.slots),
                "edgews_worker_slots_used": float(one.used),
                **{name: _number(one.facts.get(fact), unit) for name, (fact, unit) in _FACTS.items()},
            }
            for name, value in values.items():
                if value is not None:
                    lines[name].append(f"{name}{{{label}}} {value!r}\n")
        told: list[bytes] = []
        for name, some in lines.items():
            head = f"# HELP {name} {WORKER[name].help}\n# TYPE {name} {WORKER[name].kind}\n"
            told.append((head + "".join(some)).encode())
            time.sleep(TURN_S)
        return b"".join(told)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@dataclass(eq=False)
class _Copied(Collector):
    copied: Copy

    def describe(self) -> list[Metric]:
        """Return nothing: what there is is known when it is collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        yield from self._gateway()
        if self.copied.fleet is not None:
            yield from _fleet(self.copied.fleet)

    def _gateway(self) -> Iterator[Metric]:
        copied = self.copied
        yield _gauge("edgews_gateway_info", {copied.info: 1})
        yield _gauge("edgews_gateway_start_time_seconds", {(): copied.started_at})
        yield _gauge("edgews_connections", {(name,): n for name, n in copied.connections.items()})
        yield _gauge("edgews_wakeup", {(by,): by == copied.wakeup for by in WAKEUPS})
        yield _gauge("edgews_fleet_exporter", {(): copied.fleet is not None})
        for name, counted in _COUNTERS.items():
            family = CounterMetricFamily(name, GATEWAY[name].help, labels=GATEWAY[name].labels)
            for labels, value in _labelled(copied.counts, counted, bool(GATEWAY[name].labels)):
                family.add_metric(labels, value)
            yield family
        faults = "edgews_faults_total"
        yield CounterMetricFamily(faults, GATEWAY[faults].help, value=copied.faults)
        for name, parts in _HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, GATEWAY[name].help, labels=GATEWAY[name].labels)
            for labels, measured in parts.items():
                buckets, total = copied.durations[measured]
                histogram.add_metric(labels, _buckets(buckets), total)
            yield histogram


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GATEWAY.get(name) or FLEET[name]
    gauge = GaugeMetricFamily(name, family.help, labels=family.labels)
    for labels, value in values.items():
        gauge.add_metric(labels, value)
    return gauge


def _labelled(counts: Counter[str], name: str, has_label: bool) -> Iterator[tuple[tuple[str, ...], int]]:
    if not has_label:
        yield (), counts[name]
        return
    begin = f"{name}:"
    found = {one.removeprefix(begin): n for one, n in counts.items() if one.startswith(begin)}
    for label in sorted({*found, *_LABELS.get(name, ())}):
        yield (label,), found.get(label, 0)


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return them as Prometheus wants them: each with all that are shorter."""
    so_far, shown = 0, []
    for bound, count in zip((*BOUNDS, math.inf), counts, strict=True):
        so_far += count
        shown.append(("+Inf" if bound == math.inf else repr(bound), float(so_far)))
    return shown


def _number(said: object, unit: float) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or abs(said) > LARGEST:
        return None
    value = unit * said
    return value if math.isfinite(value) else None


def _fleet(facts: FleetFacts) -> Iterator[Metric]:
    queues = shown_queues(facts.queues)
    values: dict[str, Callable[[QueueFacts], float]] = {
        "edgews_queue_oldest_wait_seconds": lambda one: one.oldest_wait_s,
        "edgews_queue_workers": lambda one: one.workers,
        "edgews_queue_slots": lambda one: one.slots,
        "edgews_queue_free_slots": lambda one: one.free,
        "edgews_queue_paused": lambda one: one.is_paused,
    }
    yield _gauge("edgews_gateways", {(state,): n for state, n in facts.gateways.items()})
    yield _gauge("edgews_workers", {(words(state, 40),): n for state, n in facts.workers.items()})
    jobs: dict[tuple[str, ...], float] = {(name, "queued"): one.queued for name, one in queues.items()}
    yield _gauge("edgews_jobs", jobs | {(name, "running"): one.running for name, one in queues.items()})
    for name, value in values.items():
        yield _gauge(name, {(queue,): value(one) for queue, one in queues.items()})
    yield _gauge("edgews_tokens_expiring", {(): facts.tokens_expiring})
    yield _gauge("edgews_tokens_expired_in_use", {(): facts.tokens_expired_in_use})


def shown_queues(queues: Mapping[str, QueueFacts]) -> dict[str, QueueFacts]:
    """Return the queues that are shown apart, those with jobs first, and the others as one.

    A worker names what queues it likes: those alone bring no new names in without end.
    """
    by_weight = sorted(queues, key=lambda name: (not queues[name].counts, name))
    shown = {words(name, 256): queues[name] for name in by_weight[:QUEUES]}
    for name in by_weight[QUEUES:]:
        shown[OTHERS] = shown.get(OTHERS, QueueFacts()).plus(queues[name])
    return shown
