"""What the worker's table of claims wants done: the daemon carries these out, in their order.

Plain data; knows neither the table nor who acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_ws.protocol.frames import WorkerFrame
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.worker.job import Record
from edge_ws.worker.outcomes import Call


@dataclass(frozen=True, slots=True)
class Send:
    """Send the frame if the link is ready; what matters is sent again at the next one."""

    frame: WorkerFrame


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have the host fork the job, which then waits."""

    claim: ClaimId
    payload: str


@dataclass(frozen=True, slots=True)
class Start:
    """Hand the token to the waiting job."""

    claim: ClaimId
    token: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Kill the waiting job."""

    claim: ClaimId


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the running job's supervisor stop its task."""

    claim: ClaimId
    reason: str
    grace_s: float | None = None
    """Between SIGTERM and SIGKILL of a task which Airflow counts as running.

    None: the server said so, as the task is over for Airflow; the supervisor asks, with the server's grace.
    """


@dataclass(frozen=True, slots=True)
class Deliver:
    """Tell Airflow a task's outcome, once; the token is for that."""

    claim: ClaimId
    call: Call
    token: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Neither the host nor the disk, the log tail or a delivery need the claim any more."""

    claim: ClaimId


@dataclass(frozen=True, slots=True)
class Keep:
    """Write the record to the outbox before anything that follows."""

    record: Record


@dataclass(frozen=True, slots=True)
class StopLog:
    """Send nothing more of the claim's log."""

    claim: ClaimId


@dataclass(frozen=True, slots=True)
class TailLog:
    """Send the claim's log as it grows: the file's bytes from `log_start` on."""

    claim: ClaimId
    path: str
    log_start: int


@dataclass(frozen=True, slots=True)
class FlushLog:
    """Bring the rest of the log to the server, then call `log_flushed`; write `line` into it first."""

    claim: ClaimId
    line: str = ""


@dataclass(frozen=True, slots=True)
class KeepDead:
    """Write the dead hosts to disk: the server may hear of them from another life of this daemon only."""

    hosts: tuple[HostId, ...]


Action = (
    Send | Prepare | Start | Drop | Stop | Deliver | Forget | Keep | TailLog | StopLog | FlushLog | KeepDead
)
