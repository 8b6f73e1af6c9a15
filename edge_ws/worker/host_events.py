"""What the job hosts tell the daemon, and what it must know to run them: plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from edge_ws.errors import RemoteProtocolError
from edge_ws.protocol.codec import reader
from edge_ws.protocol.frames import Code, Sentence
from edge_ws.protocol.ids import ClaimId, HostId
from edge_ws.worker.outcomes import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """How job hosts are started and watched; durations in seconds."""

    directory: Path
    """Theirs alone; made if it is not there, readable by nobody else. Its path may be of any length."""
    python: str
    """The interpreter, as an absolute path."""
    environment: Mapping[str, str]
    """What hosts and jobs inherit, but for the daemon's own `EDGE_WS_` variables."""
    fingerprint: str
    """What a host depends on: one of another fingerprint gets no new jobs."""
    worker_name: str
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 20.0
    """A host that answers nothing for so long is killed."""
    start_timeout_s: float = 180.0
    """So is one that has not loaded Airflow after so long."""
    restart_s: float = 1.0
    """Before a host that died is replaced; doubled each time, to a minute at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJob:
    """A job as its host knows it."""

    claim: ClaimId
    phase: str
    """prepared, going, started, not_started or ended."""
    log_path: str | None
    exit_code: Code | None
    detail: Sentence
    """Why it ended as it did, or did not start; may be empty."""
    log_uploaded: bool
    fault: Sentence = ""
    """Of one that did not start; see `ids.HOST`."""
    outcome: Sentence = ""
    """The state that Airflow was told, or is to be told, that the task has come to."""
    owed: Call | None = None
    """The request that tells it, if Airflow has not answered it."""
    handed_over: bool = False
    """The job's process makes that request no more."""


_PHASES = ("prepared", "going", "started", "not_started", "ended")
_JOB = reader(HostJob)
_UNTOLD = {"phase": "started", "log_path": None, "exit_code": 1, "detail": "", "log_uploaded": False}
"""What a job is taken for of which that is not known: it holds its slots until its host says how it ended."""


def read_job(told: object, on_odd: Callable[[str], object]) -> HostJob | None:
    """Take a job from a host's `hello` or journal; what is odd of it is left out, and said to `on_odd`.

    Returns:
        None: not even its claim is known.
    """
    try:
        whole = _JOB(told, "job")
        if whole.phase in _PHASES:
            return whole
        on_odd(f"job.phase must be one of {', '.join(_PHASES)}")
    except RemoteProtocolError as error:
        on_odd(str(error))
    if not isinstance(told, dict):
        return None
    sound = {**_UNTOLD, "claim": told.get("claim")}
    for name in (field.name for field in fields(HostJob)):
        with suppress(RemoteProtocolError):
            if name in told and (name != "phase" or told[name] in _PHASES):
                _JOB({**sound, name: told[name]}, "job")
                sound[name] = told[name]
    with suppress(RemoteProtocolError):
        return _JOB(sound, "job")
    return None


@dataclass(frozen=True, slots=True)
class HostUp:
    """A host is attached and ready; these are all its jobs. Comes again whenever the whole is told anew."""

    host: HostId
    jobs: tuple[HostJob, ...]
    versions: dict[str, str]
    accepts: bool
    """New jobs go there."""
    log_folder: str = ""
    """Where its tasks' logs go; empty: a host of an older release."""


@dataclass(frozen=True, slots=True)
class HostGone:
    """A host is dead for certain, and what its jobs left is killed; these are the jobs of its journal."""

    host: HostId
    jobs: tuple[HostJob, ...]
    left: bool = False
    """It has left in order, with nothing unfinished."""


@dataclass(frozen=True, slots=True)
class HostFailed:
    """A host could not be started; it is tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A process of the host waits for `go`."""

    claim: ClaimId
    host: HostId
    log_path: str | None


@dataclass(frozen=True, slots=True)
class PrepareRefused:
    """Nothing of the job waits here."""

    claim: ClaimId
    reason: Sentence
    invalid: bool = False
    """The payload itself cannot be run; else there is no host, or no room, and another worker may take it."""
    fault: Sentence = ""
    """See `ids.HOST`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A waiting process is gone, without having started anything."""

    claim: ClaimId


@dataclass(frozen=True, slots=True)
class JobStarted:
    """Airflow has accepted the task's start."""

    claim: ClaimId
    host: HostId


@dataclass(frozen=True, slots=True)
class JobNotStarted:
    """The task never ran, and never will."""

    claim: ClaimId
    host: HostId
    reason: Sentence
    fault: Sentence = ""
    """See `ids.HOST`."""


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job's processes are gone."""

    claim: ClaimId
    host: HostId
    exit_code: Code
    detail: Sentence
    log_uploaded: bool
    outcome: Sentence = ""
    owed: Call | None = None


@dataclass(frozen=True, slots=True)
class JobOwes:
    """Airflow has not taken the task's outcome; the job's process may run callbacks yet."""

    claim: ClaimId
    host: HostId
    outcome: Sentence
    owed: Call


HostEvent = (
    HostUp
    | HostGone
    | HostFailed
    | Prepared
    | PrepareRefused
    | Dropped
    | JobStarted
    | JobNotStarted
    | JobEnded
    | JobOwes
)
