"""What the views read: jobs, queues and workers as they stand, in frozen records.

Ages and what is left of a time are seconds by the database's clock at the moment of reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from edge_ws.protocol.ids import ClaimId, GatewayId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.store.records import HEARTBEAT_S, SEEN_BEATS, JobKey, Room


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimView:
    """One attempt to run a job, open or ended."""

    id: ClaimId
    worker: WorkerName
    phase: Phase
    result: str | None
    """How it ended; of an open one, what is known of its end: `not_started` or `lost`."""
    detail: str
    offered_s: float
    """Since it was offered."""
    ended_s: float | None
    """Since it ended; None: it is open."""
    offered_at: float | None = None
    """The same as moments, seconds since the epoch."""
    ended_at: float | None = None
    lease_s: float | None
    """What is left to accept it; of an accepted one, to start it; below 0 it is over."""
    log_path: str = ""
    """Of its log, below Airflow's folder of logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A row of `edge_job` with the claim that it carries."""

    key: JobKey
    state: str
    queue: str
    slots: int
    priority: int
    team: str | None
    owner: int | None
    """The scheduler that has yet to report it; None: it has, or another executor's row."""
    reported: bool
    """A scheduler has taken note of its end. Of another executor's row nobody can tell: False."""
    worker: str | None
    queued_at: datetime | None
    waited_s: float | None
    """Since it was queued."""
    updated_s: float | None
    """Since somebody last wrote the row."""
    claim: ClaimView | None
    faults: Mapping[WorkerName, str] = field(default_factory=dict)
    """Of a queued job that was asked for alone: the workers that could not start it, with their reasons."""

    @property
    def held_by(self) -> ClaimView | None:
        """The claim if it is live (`live.held`)."""
        one = self.claim
        if one is None or one.ended_s is not None or self.state == "queued":
            return None
        return one if one.worker == self.worker else None

    @property
    def was_claimed(self) -> bool:
        """Whether it is, or was when it ended, in the hands of a worker of edge-ws."""
        return self.claim is not None and self.claim.worker == self.worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What one queue holds."""

    queue: str
    queued: int
    running: int
    """Handed to a worker: offered, accepted or started."""
    oldest_wait_s: float | None
    oldest_at: datetime | None = None
    """Since when its oldest job waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePause:
    """A queue of which nothing is handed out."""

    queue: str
    since: float
    """Seconds since the epoch."""
    paused_s: float
    """Since then."""
    by: str | None
    """Who has paused it; None: not known."""
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """The credential by which a worker last came."""

    name: str
    queues: tuple[str, ...] | None
    team: str | None
    is_good: bool
    """Neither revoked nor expired."""
    expires_at: float | None
    is_revoked: bool = False
    id: str = ""

    @property
    def fault(self) -> str:
        """What is wrong with it, as the end of a sentence; empty: nothing."""
        if self.is_good:
            return ""
        return "is revoked" if self.is_revoked else "has expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker, ours or edge3's: what is wished of it, what is in force, what it holds."""

    name: WorkerName
    is_ours: bool
    state: str
    comment: str | None
    """Why it is in maintenance."""
    team: str | None
    queues: tuple[str, ...] | None
    """In force; None: every queue."""
    wished_queues: tuple[str, ...] | None
    local_queues: tuple[str, ...] | None
    concurrency: int | None
    """In force; None: not known."""
    wished_concurrency: int | None
    local_concurrency: int | None
    taken: int
    """Slots of what it holds."""
    jobs: int
    seen_s: float | None
    """Since it was last heard of."""
    seen_at: float | None = None
    """The same as a moment, seconds since the epoch."""
    address: str | None = None
    """From which it last came."""
    silent_after_s: float = SEEN_BEATS * HEARTBEAT_S
    """One that was last heard of so long ago counts as silent."""
    first_online: datetime | None
    last_update: datetime | None = None
    wishes_maintenance: bool = False
    wishes_shutdown: bool = False
    maintenance_since: float | None = None
    """When our verbs last asked for the maintenance in which it is, seconds since the epoch, as the next one;
    None: others did, or it is in none."""
    maintenance_until: float | None = None
    """When that ends by itself; None: it does not."""
    maintenance_by: str | None = None
    """Who asked for it; None: not known."""
    leaves_by: float | None = None
    """When it stops what still runs, where it is to shut down; None: never."""
    wish_revision: int = 0
    applied_revision: int = 0
    applied_s: float | None = None
    gateway: GatewayId | None = None
    """That it is connected to."""
    transport: str | None = None
    """By which it is connected."""
    site: str | None = None
    token: TokenView | None = None
    """None: edge3's worker, or one that came by a credential that is not stored here."""
    room: Room = field(default_factory=Room)
    sysinfo: dict[str, object] = field(default_factory=dict)

    @property
    def busy(self) -> int:
        """Slots that cannot be taken: of what it holds, and of what still runs though it is held no more."""
        return self.taken + self.room.stale_slots

    @property
    def free(self) -> int:
        """Slots that can be taken."""
        wished = self.local_concurrency if self.wished_concurrency is None else self.wished_concurrency
        in_force = self.concurrency or 0
        return max(0, (in_force if wished is None else min(in_force, wished)) - self.busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranded:
    """Jobs that wait while no gateway is alive."""

    jobs: int
    waited_s: float
    """The oldest."""
    gateway: str | None
    """Host of the one that was seen last, None if none is known."""
    seen_s: float | None
