"""What a check says, and what later checks may know of earlier ones. Looks at nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from edge_ws.errors import EdgeWsError
from edge_ws.protocol.http import TOKEN_HEADER, WORKER_HEADER
from edge_ws.worker.config import WorkerConfig
from edge_ws.worker.network import Network, http_client

if TYPE_CHECKING:
    import httpx2

ANSWER_WITHIN_S = 10.0


class Status(Enum):
    """How it went."""

    OK = "ok"
    WARNING = "warning"
    """It works, but somebody should know."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """What it needs has failed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found."""

    status: Status
    detail: str
    """What is, or what is wrong."""
    advice: str = ""
    """What to do, if there is something."""


@dataclass(slots=True, kw_only=True)
class Context:
    """One run of the checks: what is asked, and what has been learnt."""

    config: WorkerConfig
    environ: Mapping[str, str]
    is_quick: bool = False
    """Leave out what takes more than a moment."""
    hold_s: float = 30.0
    """For so long a request is held."""
    found_network: Network | None = None
    token: str = field(default="", repr=False)
    health: Mapping[str, Any] = field(default_factory=dict)
    """What the gateway says of itself."""
    whoami: Mapping[str, Any] = field(default_factory=dict)
    """What it says of us."""
    ahead_s: float = 0.0
    """How far its clock is before ours, less half of the way."""

    @property
    def network(self) -> Network:
        """The way to the centre, once the settings have been checked."""
        assert self.found_network is not None
        return self.found_network

    def client(
        self, *, network: Network | None = None, answer_within_s: float = ANSWER_WITHIN_S
    ) -> httpx2.AsyncClient:
        """Return a client of the centre, which shows the token once it is known."""
        headers = {TOKEN_HEADER: self.token, WORKER_HEADER: self.config.name} if self.token else {}
        if network is not None:
            # An Airflow where everybody is an admin would put its own there, and log a traceback of that.
            headers = {"authorization": "none"}
        return http_client(network or self.network, timeout=answer_within_s, headers=headers)


Look = Callable[[Context], Awaitable[Found]]


def ok(detail: str) -> Found:
    """Return a check's good end."""
    return Found(Status.OK, detail)


def warning(detail: str, advice: str = "") -> Found:
    """Return an end that is good enough."""
    return Found(Status.WARNING, detail, advice)


def failed(detail: str, advice: str = "") -> Found:
    """Return a bad end."""
    return Found(Status.FAILED, detail, advice)


def failed_by(error: EdgeWsError, advice: str = "") -> Found:
    """Return the bad end that an error means; its sentence says what to do after a semicolon, if it does."""
    detail, _, told = str(error).partition("; ")
    return failed(detail, told or advice)
