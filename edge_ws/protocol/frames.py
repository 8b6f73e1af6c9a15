"""Every frame of the protocol as a frozen dataclass, with its values' limits; PROTOCOL.md explains them.

A frame states a fact about one claim, or about the worker as it stands; facts are monotone, so their
order never matters and a repeated one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from edge_ws.protocol.ids import ClaimId, GatewayId, HostId, LifeId, SiteId, WorkerName
from edge_ws.protocol.states import Phase
from edge_ws.texts import WORDS

MAX_FRAME = 1024 * 1024
"""Bytes of one message, and so of one encoded frame."""
MESSAGE_GOAL = 128 * 1024
"""Bytes up to which frames are put together in one message; a single larger frame goes alone."""
MAX_DEPTH = 8
"""Nested arrays and objects."""
MAX_ELEMENTS = 100_000
"""Commas and opening brackets in one message of a worker, wherever they stand: what it costs to read it."""
LOG_CHUNK = 64 * 1024
"""Bytes of log in one `log` frame."""
ID_LENGTH = 36
"""Characters of an id, at most."""
COMMENT = 1024
"""Characters of a comment that are read; edge3's column has no more."""
FACTS = 200
"""Facts about a machine that are read."""
NAME_LENGTH = 64
"""Characters of a worker's name, at most."""


@dataclass(frozen=True, slots=True)
class Within:
    """The least and the greatest value of a field (of bytes and text: the length)."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A field whose texts people read, in logs too: the unprintable is read as blanks, the rest is cut."""

    most: int
    """Characters of one text."""


Count = Annotated[int, Within(0, 2**31 - 1)]
"""A number of things; fits a 32-bit column."""
Code = Annotated[int, Within(-(2**31), 2**31 - 1)]
"""A process's exit code, negative for a signal."""
Size = Annotated[int, Within(0, 2**53 - 1)]
"""A number of bytes, or a place in a log; exact in every JSON reader."""
Sentence = Annotated[str, Within(0, 64 * 1024)]
"""Words for people, or a part of a request: of such a length that some of them fit in one frame."""
Words = Annotated[str, Shown(WORDS)]
"""What a worker says to people."""
Comment = Annotated[str, Shown(COMMENT)]
"""Why there is maintenance."""
Versions = Annotated[dict[str, str], Shown(WORDS)]
Facts = Annotated[dict[str, str | int | float], Shown(WORDS)]
"""What a worker says of its machine."""
LONGEST_DURATION_S = 1e9
"""Seconds of a duration."""
Seconds = Annotated[float, Within(0, LONGEST_DURATION_S)]
"""A duration."""
Interval = Annotated[float, Within(0.01, 86_400)]
"""The time between two repetitions: never so short that repeating it is all that happens."""
LogBytes = Annotated[bytes, Within(0, LOG_CHUNK)]
"""A piece of a log."""


class Refusal(Enum):
    """Why a server refuses a worker; the value travels in `refused` frames and HTTP bodies."""

    TOKEN = "token"  # noqa: S105 - a reason, not a secret
    """No token, an unknown, revoked or expired one, or one that does not admit this name."""
    NAME_IN_USE = "name_in_use"
    """A live worker of that name has another site, or is edge3's."""
    VERSION = "version"
    """No protocol version in common."""
    NOT_ADMITTED = "not_admitted"
    """The token does not admit these queues or this team."""
    UNAVAILABLE = "unavailable"
    """The server cannot serve now (database away, tables missing); try again."""
    PROTOCOL = "protocol"
    """The worker broke the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One claim that a worker holds, as its inventory states it."""

    claim: ClaimId
    phase: Phase
    log_end: Size
    """Bytes of the claim's log that the server has acknowledged."""
    host: HostId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the worker's own host last asked for; it stands until the centre wishes otherwise."""

    number: Count
    """Counts this site's requests: of two the higher one is the later."""
    maintenance: bool
    comment: Comment = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The worker as it stands. It adds facts about what it names; absence is no evidence."""

    site: SiteId
    hosts: tuple[HostId, ...]
    dead_hosts: tuple[HostId, ...]
    claims: tuple[Held, ...]
    revision: Count
    """The wish the worker has applied; 0: none yet."""
    concurrency: Count
    queues: tuple[str, ...] | None
    """In force; None: every queue."""
    stale_slots: Count
    """Slots of processes that still run under claims the server called stale."""
    draining: bool
    """Takes nothing new now, for whatever reason."""
    maintenance: bool = False
    """In force: takes nothing new, and stays."""
    leaving: bool = False
    """Finishes what it runs, then leaves."""
    asked: Asked | None = None
    """None: nothing was asked for on the host, or a wish has taken the last of it in."""


# Worker to server


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of a connection: who the worker is, what it speaks and what it holds."""

    protocol: Count
    oldest_protocol: Count
    worker: WorkerName
    team: str | None
    concurrency: Count
    """The local default, from the worker's own settings."""
    queues: tuple[str, ...] | None
    """The local default; None: every queue."""
    inventory: Inventory
    life: LifeId | None = None
    """Names this life of the daemon; a wish to shut down is for the life that it was made of."""
    capabilities: tuple[str, ...] = ()
    versions: Versions = field(default_factory=dict)
    sysinfo: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The worker as it stands now; also its heartbeat."""

    inventory: Inventory
    sysinfo: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """A slot is taken and a host has forked the job, which waits for `go`."""

    claim: ClaimId
    host: HostId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The worker does not take the offer; nothing of it runs, nor will."""

    claim: ClaimId
    reason: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The task runs: Airflow has accepted its start."""

    claim: ClaimId
    host: HostId
    owes: bool = False
    """It has told its outcome, and Airflow has not taken it: the worker wants a token to deliver it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job has ended and its whole log, `log_end` bytes, is with the server."""

    claim: ClaimId
    exit_code: Code
    """0 only if Airflow knows the outcome; anything else: the process or its report failed."""
    log_end: Size
    detail: Words = ""
    log_uploaded: bool = False
    """The supervisor has sent the log to the remote log store itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStarted:
    """After `accept`: the task never ran and never will under this claim."""

    claim: ClaimId
    reason: Words
    fault: Words = ""
    """Whose fault it is, if the worker knows: HOST or UNSURE (see `ids`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDead:
    """The site's host is dead and what it left has been killed. Never taken back."""

    host: HostId
    ended: tuple[ClaimId, ...] = ()
    """Claims under it that had ended before: they are not lost, for the worker reports their end itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseIs:
    """The answer to `query`: the claim's phase, or `unknown` and refused from now on."""

    claim: ClaimId
    phase: Phase
    host: HostId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Bytes of the claim's log from `offset` on; at most 64 KiB."""

    claim: ClaimId
    offset: Size
    data: LogBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The wish `revision` is in force, with these values."""

    revision: Count
    concurrency: Count
    queues: tuple[str, ...] | None
    maintenance: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The worker has drained and leaves."""

    reason: Words
    maintenance: bool = False
    """It is to be in maintenance when it comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """The worker's token from now on, in place of the one it connected with."""

    token: str = field(repr=False)


# Server to worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Timers:
    """Durations that the server dictates; seconds."""

    heartbeat_s: Interval = 15.0
    """Each side says something at least this often; silent for two: dead."""
    offer_lease_s: Interval = 10.0
    cancel_grace_s: Seconds = 5.0
    """Between SIGTERM and SIGKILL of a task that its supervisor stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an operator wants; `None` leaves the worker's local default in force."""

    revision: Count
    concurrency: Count | None
    queues: tuple[str, ...] | None
    """None: the local default. (Every queue cannot be wished for, as with edge3.)"""
    maintenance: bool = False
    comment: str = ""
    """Why there is maintenance."""
    shutdown: bool = False
    """Finish what runs, then leave; never taken back."""
    asked: Count = 0
    """Number of the host's last request that this wish has taken in."""
    deadline_s: Seconds | None = None
    """With `shutdown`: tasks that still run so long from now are stopped; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The answer to `hello`: the connection is ready."""

    protocol: Count
    gateway: GatewayId
    timers: Timers
    wish: Wish
    execution_api_url: str | None
    """Only if the centre sets one; else the worker uses `<url>/execution/`."""
    versions: dict[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    """Of the centre, for tasks, where the worker's own site has not set them; `section.option` -> text."""
    token_expires_in_s: Seconds | None = None
    """When the token that the worker has shown expires, and this connection with it; None: never."""
    twin: str | None = None
    """Where another daemon with this one's state directory, or a copy of it, runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server does not serve this worker; the connection closes after it."""

    code: Refusal
    sentence: str
    retry_after_s: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A job for the worker, without its token: nothing can start before `go`."""

    claim: ClaimId
    slots: Count
    payload: str
    """The workload's JSON, token blanked; opaque to the daemon, but for the names that it shows to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """The claim is the worker's: start. The token is valid for a minute."""

    claim: ClaimId
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """With it the outcome that a claim owes can be told to the Execution API, within a minute."""

    claim: ClaimId
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop the job's process group."""

    claim: ClaimId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is the phase of this claim?"""

    claim: ClaimId


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The claim is no longer live: stop reporting it. A started process ends by itself."""

    claim: ClaimId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The claim's phase is committed; the worker may forget a report of it."""

    claim: ClaimId
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAck:
    """The server has the claim's log up to `log_end` bytes; go on from there."""

    claim: ClaimId
    log_end: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The answer to `renew`."""

    refusal: str | None = None
    """Why that token is not taken: the one before it stays in force. None: it is taken."""
    expires_in_s: Seconds | None = None
    """When the token in force expires; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """This gateway is leaving: open a new connection, and leave this one once that is ready."""

    come_back_s: Seconds
    """When, counted from now: each worker is given another moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The server is alive."""


WorkerFrame = (
    Hello
    | Status
    | Accept
    | Refuse
    | Started
    | Finished
    | NotStarted
    | HostDead
    | PhaseIs
    | Log
    | Applied
    | Bye
    | Renew
)
ServerFrame = (
    Welcome
    | Refused
    | Offer
    | Go
    | Token
    | Cancel
    | Query
    | Stale
    | Ack
    | LogAck
    | Wish
    | Renewed
    | Drain
    | Beat
)
Frame = WorkerFrame | ServerFrame
