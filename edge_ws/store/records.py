"""What the store's verbs take and return: frozen records, no rows and no SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple

from edge_ws.protocol.frames import Inventory, Timers
from edge_ws.protocol.ids import (
    CALLBACK_DAG_ID,
    HINDRANCE,
    HINDRANCE_CODE,
    ClaimId,
    GatewayId,
    HostId,
    LifeId,
    SiteId,
    WorkerName,
)
from edge_ws.protocol.states import Phase
from edge_ws.texts import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """On whose behalf a worker's verb runs: what the credential admits."""

    worker: WorkerName
    queues: frozenset[str] | None = None
    """Queues the credential admits; None: every queue."""
    team: str | None = None
    token_id: str | None = None
    secret_hash: str | None = None
    """Of the secret that was shown, of the two that a token may have."""
    expires_at: float | None = None
    """When the credential admits nobody any more, seconds since the epoch, by the database's clock; None:
    never."""
    site: SiteId | None = None
    """Of the connection that speaks, which speaks for that site's claims alone; None: before its hello."""

    def admits(self, queue: str, team: str | None) -> bool:
        """Tell whether a job of that queue and team may go to this worker."""
        return (self.queues is None or queue in self.queues) and (self.team is None or self.team == team)


class JobKey(NamedTuple):
    """Primary key of an `edge_job` row (edge3's; `task_instance_id` is "" before Airflow 3.4)."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    task_instance_id: str = ""


class LogBounds(NamedTuple):
    """What the database keeps of a log that is longer: so many bytes of its begin, and of its end."""

    head: int
    tail: int


HEARTBEAT_S = Timers().heartbeat_s
"""Of a gateway that does not tell its own."""
SEEN_BEATS = 3
"""Who is not seen for so many heartbeats is silent: a worker, by all gateways; a gateway."""
RETURNS = 3
"""Lives of a daemon that take each other's place so often both live: it is no late message."""
EDGE3_BEAT_S = 30.0
"""edge3's own heartbeat, unless the centre sets another one."""
EDGE3_BEATS = 5
"""After so many edge3 takes a worker for dead (edge_executor.py, _check_worker_liveness)."""
CALLBACK_PRIORITY = 2**31 - 1
"""So that callbacks go before tasks, as in Airflow's own executors, whoever hands them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """One workload as the executor enqueues it."""

    key: JobKey
    queue: str
    slots: int
    priority: int
    command: str
    """The workload's JSON with its token: an edge3 worker must be able to run it."""
    team: str | None
    owner: int
    """`job_id` of the scheduler whose executor reports the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A queued row, as `choose` sees it."""

    key: JobKey
    queue: str
    slots: int
    priority: int
    team: str | None
    waited_s: float = 0.0
    place: str | None = None
    """Where the row lay when it was read, if the store can use it to find the row again."""
    failed_on: frozenset[str] = frozenset()
    """Workers that could not start it: it goes to others."""

    @property
    def is_callback(self) -> bool:
        """Callbacks go before tasks, as in Airflow's own executors."""
        return self.key.dag_id == CALLBACK_DAG_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one connected worker can take now."""

    principal: Principal
    site: SiteId
    queues: frozenset[str] | None
    """Queues in force; None: every queue."""
    concurrency: int
    stale_slots: int
    """Slots of processes that still run under stale claims: the database does not count them."""
    free: int

    def serves(self, job: Candidate) -> bool:
        """Tell whether the job may run there at all (its width aside)."""
        in_force = self.queues is None or job.queue in self.queues
        is_new = self.principal.worker not in job.failed_on
        return in_force and is_new and self.principal.admits(job.queue, job.team)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """`choose`'s decision: this job to this worker."""

    key: JobKey
    slots: int
    worker: WorkerName
    site: SiteId
    concurrency: int
    """The worker's; no more than this many slots may be claimed in all."""
    stale_slots: int = 0
    place: str | None = None
    """The candidate's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A committed claim, ready to be offered."""

    claim: ClaimId
    key: JobKey
    worker: WorkerName
    site: SiteId
    slots: int
    payload: str
    """The workload's JSON, token blanked."""


class Verdict(Enum):
    """What became of a worker's report."""

    DONE = "done"
    """It took effect, or had taken effect before: acknowledge it."""
    STALE = "stale"
    """The claim is not live: nothing changed, and the worker is to drop it."""
    REPEATED = "repeated"
    """The claim is further than the report: nothing changed, nothing to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The compare-and-set of an `accept` that won: what the token is minted for."""

    subject: str
    """The task instance's id, or the callback's."""
    is_callback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Owing:
    """A live claim whose outcome Airflow has not taken: what a token is minted for with which it can be."""

    subject: str
    """The task instance's id."""


_LONGEST_WHY = 200


@dataclass(frozen=True, slots=True)
class Room:
    """What keeps a worker's slots from new jobs, besides its jobs and what is wished of it."""

    ready: bool = True
    """False: it takes nothing new, though it is neither in maintenance nor leaving: it has a hindrance."""
    stale_slots: int = 0
    """Slots of processes that still run under stale claims."""
    why: str = ""
    """Why it is not ready, in the worker's words; empty: it has not said."""
    code: str = ""
    """The same as the worker's stable code; empty: likewise."""

    @classmethod
    def of(cls, inventory: Inventory, sysinfo: Mapping[str, object]) -> Room:
        """Return what the worker says of it."""
        ready = not inventory.draining or inventory.maintenance or inventory.leaving
        if ready:
            return cls(stale_slots=inventory.stale_slots)
        why, code = (_line(sysinfo.get(name, "")) for name in (HINDRANCE, HINDRANCE_CODE))
        return cls(ready=False, stale_slots=inventory.stale_slots, why=why, code=code)


def _line(said: object) -> str:
    """Return a fact so that it can be shown in the middle of a sentence."""
    return " ".join(printable(str(said)).split())[:_LONGEST_WHY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a worker says of itself in `hello`, with the gateway that hears it."""

    gateway: GatewayId
    transport: str
    concurrency: int
    queues: tuple[str, ...] | None
    inventory: Inventory
    sysinfo: dict[str, str | int | float]
    life: LifeId | None = None
    """None: a worker of a release that does not name it."""
    address: str | None = None
    """Where it came from."""
    capabilities: frozenset[str] = frozenset()
    """What it can do beyond the first release."""
    heartbeat_s: float = HEARTBEAT_S
    """So often the gateway will say that it is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRecord:
    """A gateway that has said that it runs, and not that it ends."""

    id: GatewayId
    hostname: str
    pid: int
    seen_s: float
    """Seconds since its last heartbeat to the database."""
    silent_after_s: float = SEEN_BEATS * HEARTBEAT_S

    @property
    def is_alive(self) -> bool:
        """Whether it has been heard of lately."""
        return self.seen_s < self.silent_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WishRecord:
    """An operator's wish with its number; None: nothing wished, the worker's own default holds."""

    revision: int
    concurrency: int | None
    queues: tuple[str, ...] | None
    maintenance: bool = False
    comment: str = ""
    shutdown: bool = False
    asked: int = 0
    """Number of the host's last request that it has taken in."""
    leave_at: float | None = field(default=None, compare=False)
    """With `shutdown`: when tasks that run are stopped, by this process's monotonic clock; None: never."""

    @property
    def takes_nothing(self) -> bool:
        """Whether the worker is to get no new job."""
        return self.maintenance or self.shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWish:
    """A wish that a worker has not been sent, and the offers that it does not admit."""

    wish: WishRecord
    taken_back: tuple[ClaimId, ...]
    """Claims of jobs that are free again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """What an operator's verb has done."""

    worker: str
    kind: str
    """`edge-ws` or `edge3`."""
    state: str
    """The worker's, after it."""
    revision: int
    """Of the wish, which an edge-ws worker will acknowledge; 0 for edge3's, which never do."""
    told: str
    """What was done, as a clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The answer to a registration."""

    connection: str
    """Names this hello: what a later connection of the same worker replaces is told by it."""
    wish: WishRecord
    open: tuple[OpenClaim, ...]
    """The worker's open claims, whether its inventory names them or not."""
    twin: str | None = None
    """Where another daemon of this site runs, if one does; both take each other's place."""
    expires_in_s: float | None = None
    """For how long the credential is good; None: for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClaim:
    """A live claim, as the gateway reads it back."""

    claim: ClaimId
    key: JobKey
    worker: WorkerName
    site: SiteId
    host: HostId | None
    phase: Phase
    slots: int
    subject: str
    is_callback: bool
    result: str | None
    """What is known of the end of a claim that is not ended yet: `not_started` or `lost`."""
    overdue: bool
    """The lease (or the last token's life) is over."""
    site_left: bool
    """The worker's name is another site's now: nobody answers for the claim."""
    worker_lost: bool
    """No gateway has seen the worker for a long time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """An ended row that its owner has not reported yet."""

    key: JobKey
    state: str
    """`success`, `failed`, `not_started` (it was never let start) or `removed` (no end that counts)."""
    subject: str
    """Task instance id (or callback id) of the workload that ended; "" if its payload is unreadable."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLog:
    """What the database holds of a running job's log."""

    worker: WorkerName
    data: bytes
    """The last bytes, at most 8 MiB."""
    cut: int
    """Bytes left out at the front."""
    log_path: str
    """Of the file in Airflow's log folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogToStore:
    """An ended claim whose log has not been moved to Airflow's log folder yet."""

    claim: ClaimId
    key: JobKey
    log_path: str
    """Relative to Airflow's log folder."""
    log_base: int | None
    """Bytes the file had when the move was first begun; None: not begun."""
    uploaded: bool
    """The worker's supervisor has sent the log to the remote store itself."""
    command: str


class LogToShow(NamedTuple):
    """A running job's log that has to be in a file, for nobody else shows it."""

    claim: ClaimId
    log_path: str
    """Relative to Airflow's log folder."""
    log_end: int
    """Bytes that the database has of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A worker's credential as stored: everything but the secret."""

    id: str
    name: str
    worker_pattern: str
    queues: tuple[str, ...] | None
    team: str | None
    created_at: float
    expires_at: float | None
    """Database time, seconds since the epoch; None: never."""
    revoked_at: float | None = None
    secret_hash: str = ""
    old_secret_hash: str | None = None
    """Of the secret before the last rotation."""
    old_expires_at: float | None = None
    """Until when that one is taken."""
    max_workers: int | None = None
    """Names by which workers may be known with it; None: the default."""

    def expires_for(self, secret_hash: str | None) -> float | None:
        """Return when the token, shown by this secret, is good no more; 0: it is no secret of the token's."""
        if secret_hash == self.old_secret_hash and secret_hash is not None:
            ends = [at for at in (self.expires_at, self.old_expires_at) if at is not None]
            return min(ends, default=None)
        return self.expires_at if secret_hash == self.secret_hash else 0.0

    def admits_worker(self, worker: str) -> bool:
        """Tell whether a worker of that name may use the token (`*` and `?` in the pattern)."""
        return fnmatchcase(worker, self.worker_pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUse:
    """By which credential a worker came last."""

    worker: WorkerName
    token_id: str
    secret_hash: str | None
    """None: it came to a gateway of an older release."""
    address: str | None
    seen_at: float
    """Database time, seconds since the epoch."""
