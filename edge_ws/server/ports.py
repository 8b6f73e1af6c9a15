"""What the gateway asks of the centre, as small interfaces.

Whoever composes a gateway implements them; nothing here knows how. All methods are synchronous, may block
and are called from threads, several at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_ws.server.diagnosis import AirflowTask
from edge_ws.store.records import ClaimFacts

RESTARTING = "restarting"
"""The state of a task that was cleared while it ran: what runs of it is to end."""
ARCHIVED = "archived"
"""Stands for the state of an attempt that the centre has put aside: the task goes on under another id. Above
all it has reported a retry itself."""


class TaskStates(Protocol):
    """What the centre thinks of task instances."""

    def states(self, subjects: Collection[str]) -> dict[str, str | None]:
        """Return task instance id -> state, RESTARTING and ARCHIVED among them.

        An id that is absent was deleted: the centre knows neither a task nor a past attempt of that id.
        Callbacks' ids are never asked for.

        Raises:
            UnreachableError: the centre's database is away.
        """
        ...


class TaskTokens(Protocol):
    """Credentials of one job."""

    def mint(self, subject: str, *, is_callback: bool, valid_s: float) -> str:
        """Return a token with which that task instance (or callback) may start, valid for `valid_s` seconds.

        Raises:
            UsageError: the centre's signing settings are missing or wrong.
        """
        ...

    def mint_for_outcome(self, subject: str, *, valid_s: float) -> str:
        """Return a token with which that task instance's outcome can be told, valid for `valid_s` seconds.

        Raises:
            UsageError: as `mint`.
        """
        ...


class FinishedLogs(Protocol):
    """The centre's folder of task logs, and the remote store behind it if there is one.

    The log of a running job, whose claim is not over, is a copy apart: it may grow at several gateways, each
    with this folder or one of its own, and the whole is written once, at the end, wherever that is.
    """

    def size(self, log_path: str) -> int:
        """Return the bytes that the file has now, 0 if it is absent.

        Args:
            log_path: relative to the log folder; comes from a workload, so it is checked.

        Raises:
            EdgeWsError: the path leaves the log folder, or the file cannot be looked at.
        """
        ...

    def write(self, log_path: str, base: int, chunks: Iterable[bytes]) -> None:
        """Cut the file to its first `base` bytes, then append; repeating the call changes nothing more.

        Lines of the log that are in those bytes, since the worker has that folder too, are not written again,
        and nothing is cut then.

        Raises:
            EdgeWsError: the path leaves the log folder, or the file cannot be written.
        """
        ...

    def copied(self, log_path: str, claim: str) -> int:
        """Return the bytes that the running claim's copy has here, 0 if there is none.

        A copy is a file of its own beside the log's, which Airflow shows along with it.

        Raises:
            EdgeWsError: as `size`.
        """
        ...

    def copy(self, log_path: str, claim: str, begin: int, data: bytes) -> None:
        """Write those bytes of the claim's log into its copy; repeating the call changes nothing more.

        Args:
            log_path: as in `size`.
            claim: whose copy.
            begin: where they belong; no more than `copied` has told, so that no hole is left.
            data: the bytes.

        Raises:
            EdgeWsError: as `write`.
        """
        ...

    def drop_copy(self, log_path: str, claim: str) -> None:
        """Remove the claim's copy, if there is one.

        Raises:
            EdgeWsError: it cannot be removed.
        """
        ...

    def upload(self, log_path: str, command: str) -> None:
        """Send the file to the remote store, if one is set up; a failure is logged, never raised.

        Args:
            log_path: as in `write`.
            command: the workload's JSON, for stores that want to know the task.
        """
        ...


class Tasks(Protocol):
    """What the centre knows about one task, for the view of its job."""

    def look_up(
        self, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int | None = None
    ) -> AirflowTask:
        """Return the task as the centre has it now.

        Args:
            dag_id: with the next three, its name.
            run_id: its run.
            task_id: its task.
            map_index: -1 for a task that is not mapped.
            try_number: of an earlier try it is told how that ended.

        Raises:
            UsageError: there is no such task; it says which part of its name is unknown.
            UnreachableError: the centre's database is away.
        """
        ...

    def log_end(self, log_path: str) -> bytes:
        """Return the last bytes of a log in the centre's folder, none if it is not there or not readable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of the centre, and what of `v1/admin/` they may do."""

    name: str
    may_read: bool
    may_manage: bool
    read_right: str
    """What takes the right to see, as the end of a sentence: for who lacks it."""
    manage_right: str
    expires_at: float | None = None
    """When what they showed ends, by this machine's clock, seconds since the epoch; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What somebody else's credential admits."""

    queues: frozenset[str] | None
    """None: every queue."""
    team: str | None
    """None: every team."""
    expires_at: float
    """When it ends, by this machine's clock, seconds since the epoch."""


class Identities(Protocol):
    """Credentials that somebody else has issued, whom the centre trusts."""

    def takes(self, secret: str) -> bool:
        """Tell whether a secret has the form of such a credential; costs next to nothing."""
        ...

    def identify(self, secret: str, worker: str) -> Identity:
        """Return what the credential admits a worker of that name to; asks nobody else.

        Raises:
            RefusedError: `token`: it is not good, or not for that name; `unavailable`: that cannot be known
                now. TokenRefusedError if who has issued it is certain.
        """
        ...

    def is_due(self) -> bool:
        """Tell whether `refresh` has something to do; costs next to nothing."""
        ...

    def refresh(self) -> None:
        """Fetch what credentials are judged by, within seconds. What fails is logged, not raised."""
        ...


class Users(Protocol):
    """The centre's users and their rights."""

    def user(self, token: str) -> User:
        """Return the user of that token.

        Raises:
            RefusedError: the token is none of the centre's, or is not valid any more.
            UnreachableError: who it is cannot be found out now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What an operator asked for, of one worker or token at the most."""

    event: str
    """The operation's or the verb's name."""
    user: str | None
    """Who asked by HTTP; None: whoever runs this process."""
    extra: Mapping[str, object]
    """What was asked, as JSON can hold it, never a secret; with `refused` if it was not done."""


class Audit(Protocol):
    """The centre's audit log."""

    def record(self, entries: Sequence[AuditEntry]) -> None:
        """Write them down for good.

        Raises:
            UnreachableError: that is not possible now; what was asked is not to be done then.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReading:
    """A worker as it stands at one heartbeat."""

    worker: str
    team: str | None
    connected: bool
    maintenance: bool
    """Whether it is in maintenance and holds no job any more."""
    jobs_active: int
    queues: tuple[str, ...]
    """In force; empty: every queue."""
    facts: Mapping[str, object]
    """What it says of itself and its machine; from a worker, so any of it may be missing or made up."""


class CentreMetrics(Protocol):
    """The centre's own metrics system. Nothing here raises: metrics never disturb jobs."""

    def heard(self, readings: Sequence[WorkerReading]) -> None:
        """Take one heartbeat of each of these workers."""
        ...

    def silent(self, workers: Sequence[tuple[str, str | None]]) -> None:
        """Take that these workers, each with its team, are not heard of any more."""
        ...

    def started(self, jobs: Sequence[ClaimFacts]) -> None:
        """Count jobs that have started."""
        ...

    def ended(self, jobs: Sequence[ClaimFacts]) -> None:
        """Count jobs that have ended, each with its `end_state`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrace:
    """One job from the queue to its end. Times are seconds since the epoch, by this machine's clock."""

    claim: str
    job: ClaimFacts
    queued_at: float | None
    """None: not known; the row is in its next round."""
    offered_at: float
    accepted_at: float | None
    """None: another gateway has heard it; likewise the start."""
    started_at: float | None
    ended_at: float


class JobTraces(Protocol):
    """The centre's own traces. Nothing here raises."""

    def ended(self, jobs: Sequence[JobTrace]) -> None:
        """Take jobs that have ended."""
        ...
