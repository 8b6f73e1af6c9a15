"""What is known about one job, and a verdict on it: the words that `why` and the views share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from edge_ws.server.eligibility import Fit
from edge_ws.server.log_end import NO_LOG, LogEnd
from edge_ws.store.records import GatewayRecord
from edge_ws.store.view_records import ClaimView, JobView, QueuePause, WorkerView

SLOW_S = 15.0
"""A job that a free worker could take waits no longer, even where nothing wakes the gateways."""

NO_GATEWAY_ADVICE = (
    "Check that [edge_ws] api_enabled is True for the api-server and that the api-server runs"
    " (or, without it, that edge-ws server runs); GET /edge-ws/health tells."
)
"""What to do where jobs wait and no gateway is alive."""


class Code(Enum):
    """Where a job is; scripts may rely on these."""

    # Queued.
    NO_GATEWAY = "no_gateway"
    NO_WORKER_SERVES_QUEUE = "no_worker_serves_queue"
    QUEUE_PAUSED = "queue_paused"
    TEAM_EXCLUDES = "team_excludes"
    TOKEN_EXCLUDES = "token_excludes"  # noqa: S105 - a code
    TOO_WIDE = "too_wide"
    """Needs more slots than any worker has."""
    ALL_FULL = "all_full"
    ALL_PAUSED = "all_paused"
    IN_MAINTENANCE = "in_maintenance"
    NONE_READY = "none_ready"
    """Connected, but nobody has a job host."""
    ALL_LEAVING = "all_leaving"
    ALL_OFFLINE = "all_offline"
    NONE_COULD_START = "none_could_start"
    """Who serves the queue, and is here, has tried to start it and failed."""
    NOT_TAKEN = "not_taken"
    """Was offered, and came back."""
    ABOUT_TO_BE_OFFERED = "about_to_be_offered"
    WAITS_FOR_POLL = "waits_for_poll"
    # In a worker's hands.
    OFFERED = "offered"
    ACCEPTED = "accepted"
    NOT_STARTED = "not_started"
    RUNNING = "running"
    EDGE3_FETCHED = "edge3_fetched"
    EDGE3_RUNNING = "edge3_running"
    UNCLAIMED = "unclaimed"
    """The row says that it runs, and names no worker."""
    NOT_WANTED = "not_wanted"
    """Airflow does not have the task as queued or running any more."""
    # Over.
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    REMOVED = "removed"
    LEFT_QUEUE = "left_queue"
    """Ended by the executor: nothing waited any more for what had not begun."""
    NOT_SETTLED = "not_settled"
    """Its process has ended, and Airflow still has the task as running."""
    # Airflow's turn.
    UP_FOR_RETRY = "up_for_retry"
    UP_FOR_RESCHEDULE = "up_for_reschedule"
    DEFERRED = "deferred"
    AWAITING_INPUT = "awaiting_input"
    DAG_PAUSED = "dag_paused"
    DAG_STALE = "dag_stale"
    """The DAG is gone from its bundle."""
    RUN_NOT_RUNNING = "run_not_running"
    WAITS_FOR_UPSTREAM = "waits_for_upstream"
    POOL_FULL = "pool_full"
    LIMIT_REACHED = "limit_reached"
    """Of active tasks: the DAG's, the task's, or `[core] parallelism`."""
    NO_SCHEDULER = "no_scheduler"
    NOT_QUEUED_YET = "not_queued_yet"
    # No row.
    NO_SUCH_JOB = "no_such_job"
    ANOTHER_EXECUTORS = "another_executors"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """All that is known about one job, read at about one moment."""

    job: JobView
    history: Sequence[ClaimView]
    """Its claims, the latest first."""
    ahead: int
    """Jobs of its queue that are handed out before it."""
    workers: Sequence[WorkerView]
    gateways: Sequence[GatewayRecord]
    now: float
    """The database's time, seconds since the epoch."""
    task: AirflowTask | None = None
    """None: nobody could ask Airflow, or it knows no such task."""
    pause: QueuePause | None = None
    """Of the job's queue; None: it is not paused."""
    log: LogEnd = NO_LOG
    """What the end of the attempt's log says."""

    @property
    def has_gateway(self) -> bool:
        """Whether a gateway is alive."""
        return any(one.is_alive for one in self.gateways)

    @property
    def first_s(self) -> float:
        """How long ago the job was queued for the first time, as far as that is known; it may be longer."""
        known = [self.job.waited_s or 0.0, *(claim.offered_s for claim in self.history)]
        if self.task is not None and self.task.requeued_s is not None:
            known.append(self.task.requeued_s)
        return max(known)

    def worker(self, name: str) -> WorkerView | None:
        """Return the worker of that name."""
        return next((one for one in self.workers if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The verdict."""

    code: Code
    sentence: str
    advice: str = ""
    """What to do; empty: nothing."""
    seats: tuple[Fit, ...] = ()
    """Of a queued job: the workers with their reasons, the nearest first."""


class Unmet(NamedTuple):
    """Something that Airflow waits for before it queues a task."""

    code: Code
    reason: str
    """Airflow's own sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowTask:
    """A task as Airflow has it."""

    state: str | None
    executor: str | None
    """As the task names it; None: the default one."""
    queue: str | None
    try_number: int
    """Of its present attempt, or of the last one if it waits for the next; 0: there has been none."""
    pool: str | None = None
    ended_s: float | None = None
    """Since the present attempt ended."""
    dag_paused: bool = False
    dag_stale: bool = False
    run_state: str | None = None
    trigger: str | None = None
    """The class that a deferred task waits for."""
    requeues: int = 0
    """How often Airflow has queued the present attempt again because nobody took it in time."""
    requeued_s: float | None = None
    """Since the first time of these."""
    past_state: str | None = None
    """How the earlier try that was asked about has ended."""
    unmet: tuple[Unmet, ...] = ()
    """What Airflow waits for, the most general first; asked only where it has yet to queue the task."""
