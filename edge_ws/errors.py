"""The whole error tree; every other module raises these, and the CLI turns them into exit codes.

An error takes data and builds its own sentence: what failed, where, what to do.

    EdgeWsError                  1  anything expected that has no code of its own
    ├── UsageError               2  a flag, a setting or a file of settings is wrong
    ├── RefusedError             3  the other side refused this credential, name or version
    ├── UnreachableError         4  the server, or the database, cannot be reached
    │   └── ConflictError        4  the database broke off one of two that waited for each other
    ├── SchemaError              5  the database lacks our tables, or has others in their place
    ├── MissingExtraError        6  the installed package lacks the extra that the verb needs
    ├── UnsupportedAirflowError  6  the installed Airflow is a release that edge-ws does not work with
    ├── TimedOutError            1  what was waited for did not happen in time
    ├── LocalProtocolError       1  our own code broke the protocol: a bug here
    └── RemoteProtocolError      1  the peer sent what the protocol does not allow
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar


class EdgeWsError(Exception):
    """Root of all expected faults; `str()` is a sentence for people."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgeWsError):
    """A flag, a setting or a settings file is wrong."""

    exit_code = 2


class RefusedError(EdgeWsError):
    """The server refused. `code` is one of `protocol.frames.Refusal`'s values."""

    exit_code = 3

    def __init__(self, code: str, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.retry_after_s = retry_after_s


class TokenRefusedError(RefusedError):
    """The server refused a token that it knows; `name` is the token's."""

    def __init__(self, code: str, sentence: str, name: str) -> None:
        super().__init__(code, sentence)
        self.name = name


class Unreachable(Enum):
    """What stood in the way, for who decides whether another way is worth a try."""

    NO_ANSWER = "no_answer"
    """No such host, connection refused, or silence."""
    PROXY = "proxy"
    """The configured proxy cannot be reached, or does not let us through."""
    TLS = "tls"
    """The certificate is not trusted, or no common TLS: the same for every way."""
    NO_UPGRADE = "no_upgrade"
    """An HTTP answer that is not ours in place of the WebSocket."""
    BROKE_OFF = "broke_off"
    """It was there, and broke."""
    TIMED_OUT = "timed_out"
    """Something on the way did not wait for the answer."""
    CLOSED = "closed"
    """It was there, and the server itself closed it."""
    FOREIGN = "foreign"
    """An answer, but not of a gateway: of something on the way, or of another server."""
    SILENT = "silent"
    """It took the request, and never answered."""
    TOO_LARGE = "too_large"
    """Something on the way takes smaller messages only."""
    FAULT = "fault"
    """An exception that nobody has foreseen: a bug here."""


class UnreachableError(EdgeWsError):
    """No answer from where one was expected, or an answer that is not ours."""

    exit_code = 4

    def __init__(
        self,
        sentence: str,
        *,
        kind: Unreachable = Unreachable.NO_ANSWER,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.retry_after_s = retry_after_s
        """What an answer in its place asked for."""


class ConflictError(UnreachableError):
    """Two transactions stood in each other's way and this one was broken off: to be repeated at once."""


class SchemaError(EdgeWsError):
    """The database's tables are absent, older or not what they should be. `remedy` names no database."""

    exit_code = 5

    def __init__(self, sentence: str, *, remedy: str = "") -> None:
        super().__init__(f"{sentence}; {remedy}" if remedy else sentence)
        self.remedy = remedy


class MissingExtraError(EdgeWsError):
    """The verb needs packages that the installed extras do not bring."""

    exit_code = 6

    def __init__(self, extra: str, missing: str) -> None:
        super().__init__(f"{missing} is not installed; run: pip install 'edge-ws[{extra}]'")
        self.extra = extra


class UnsupportedAirflowError(EdgeWsError):
    """The installed Airflow is a release that this edge-ws does not work with."""

    exit_code = 6

    def __init__(self, version: str, supported: Sequence[str], edge_ws: str) -> None:
        super().__init__(
            f"Airflow {version} is installed here, and edge-ws {edge_ws} works with Airflow"
            f" {' and '.join(supported)} only: install one of these, or another release of edge-ws"
        )


class TimedOutError(EdgeWsError):
    """What was waited for did not happen in time."""


class LocalProtocolError(EdgeWsError):
    """Our own code asked the protocol for something it does not allow: a bug on this side."""


class RemoteProtocolError(EdgeWsError):
    """The peer sent something that the protocol does not allow; close with `close_code`."""

    def __init__(self, sentence: str, *, close_code: int = 4400) -> None:
        super().__init__(sentence)
        self.close_code = close_code
