"""The reasoning of the tokens' verbs: what a token may admit, and how tokens are shown.

Prints nothing and opens no database.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_ws.cli.output import Row
from edge_ws.errors import UsageError
from edge_ws.protocol.ids import is_queue_name, is_team_name, is_worker_name
from edge_ws.store.records import TokenRecord

_EXPIRES = re.compile(r"([0-9]{1,9})([dhm])")
_SECONDS: Mapping[str, float] = {"d": 86400.0, "h": 3600.0, "m": 60.0}
LONGEST_EXPIRES_S = 3650 * 86400.0
_PATTERN = re.compile(r"[A-Za-z0-9._@:*?-]{1,250}")
"""A worker's name with `*` and `?`; 250 is the column's width."""


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """What a new token is to admit."""

    name: str
    worker_pattern: str
    queues: tuple[str, ...] | None
    team: str | None
    expires_in_s: float | None

    def told(self) -> str:
        """Return what the token admits, as a sentence."""
        queues = f"queues {', '.join(self.queues)}" if self.queues else "every queue"
        team = f"team {self.team}" if self.team else "any team"
        until = _utc(None if self.expires_in_s is None else time.time() + self.expires_in_s)
        return (
            f"token {self.name!r} admits workers named {self.worker_pattern}, {queues}, {team}, "
            f"{'until ' + until if until else 'until it is revoked'}"
        )


def parse_expires(text: str) -> float:
    """Return the seconds that a time such as 90d, 12h or 30m has.

    Raises:
        UsageError: it is no such time, or none between one minute and ten years.
    """
    match = _EXPIRES.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--expires: {text!r} is not a number of days, hours or minutes such as 90d, 12h or 30m"
        )
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= LONGEST_EXPIRES_S:
        raise UsageError(f"--expires: {text} is not between 1m and ten years (3650d)")
    return seconds


def token_request(
    name: str, *, pattern: str | None, queues: str | None, team: str | None, expires: str | None
) -> TokenRequest:
    """Return what the arguments ask for.

    Raises:
        UsageError: one of them is not what it should be.
    """
    if pattern is None and not is_worker_name(name):
        raise UsageError(
            f"{name!r} cannot name a worker (1-64 letters, digits and ._@:-, a letter or digit first);"
            " give another name, or say with --worker-name-pattern which workers the token admits"
        )
    if not 0 < len(name) <= 250 or not name.isprintable() or name != name.strip():
        raise UsageError(f"{name!r} cannot name a token: it takes 1-250 printable characters")
    if pattern is not None and not _PATTERN.fullmatch(pattern):
        raise UsageError(
            f"--worker-name-pattern: {pattern!r} is not made of a worker name's characters, * and ?"
        )
    names = None if queues is None else tuple(dict.fromkeys(entry.strip() for entry in queues.split(",")))
    for entry in names or ():
        if not is_queue_name(entry):
            raise UsageError(f"--queues: {entry!r} cannot name a queue")
    if team is not None and not is_team_name(team):
        raise UsageError(f"--team-name: {team!r} cannot name a team: it takes 1-64 characters")
    return TokenRequest(
        name=name,
        worker_pattern=name if pattern is None else pattern,
        queues=names,
        team=team,
        expires_in_s=None if expires is None else parse_expires(expires),
    )


def token_rows(tokens: Sequence[TokenRecord], now: float) -> list[Row]:
    """Return the tokens as rows; `now` is seconds since the epoch."""
    return [
        {
            "id": token.id,
            "name": token.name,
            "worker_name_pattern": token.worker_pattern,
            "queues": None if token.queues is None else list(token.queues),
            "team_name": token.team,
            "state": _token_state(token, now),
            "created": _utc(token.created_at),
            "expires": _utc(token.expires_at),
        }
        for token in tokens
    ]


def _token_state(token: TokenRecord, now: float) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"
