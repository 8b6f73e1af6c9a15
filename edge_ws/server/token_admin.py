"""What operators do with workers' tokens, for both command lines and for `v1/admin/`.

A secret is in the result of the call that makes it, under `secret`, and nowhere else: what is listed, logged
and written down is made of the parameters and of what is stored, and neither holds one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from edge_ws.errors import UsageError
from edge_ws.protocol.ids import is_team_name, is_worker_name
from edge_ws.server.parameters import Kind, Parameter, check_queues
from edge_ws.store.records import TokenRecord, TokenUse
from edge_ws.store.secret_form import hidden
from edge_ws.store.tokens import TokenStore

_TIME = re.compile(r"([0-9]{1,9})([dhm])")
_SECONDS: Mapping[str, float] = {"d": 86400.0, "h": 3600.0, "m": 60.0}
LONGEST_S = 3650 * 86400.0
OVERLAP = "24h"
"""How long a secret is good after a rotation, unless it is said."""
OLD = "old"
"""A worker came by the secret before the last rotation."""
_PATTERN = re.compile(r"[A-Za-z0-9._@:*?-]{1,250}")
"""A worker's name with `*` and `?`; 250 is the column's width."""
_LONGEST_NAME = 250

Row = dict[str, object]


# Parameters


def seconds(text: str) -> float:
    """Return the seconds of a time such as 90d, 12h or 30m.

    Raises:
        UsageError: it is no such time, or none between one minute and ten years.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:60]!r} is not a number of days, hours or minutes such as 90d, 12h or 30m")
    length_s = int(match[1]) * _SECONDS[match[2]]
    if not 0 < length_s <= LONGEST_S:
        raise UsageError(f"{text} is not between 1m and ten years (3650d)")
    return length_s


def check_expires(text: str) -> str:
    """Return it, if it is a time after which a token can expire."""
    return _check_time("expires", text)


def check_overlap(text: str) -> str:
    """Return it, if it is a time for which an old secret can be good."""
    return _check_time("overlap", text)


def _check_time(name: str, text: str) -> str:
    try:
        seconds(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    return text


def check_name(name: str) -> str:
    """Return it, if it can name a token."""
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"name: {name[:60]!r} cannot name a token: it takes 1-{_LONGEST_NAME} printable characters"
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return it, if workers' names can be like it."""
    if not _PATTERN.fullmatch(pattern):
        raise UsageError(
            f"worker_name_pattern: {pattern[:60]!r} is not made of a worker name's characters, * and ?"
        )
    return pattern


def check_team(team: str) -> str:
    """Return it, if it can name a team."""
    if not is_team_name(team):
        raise UsageError(f"team_name: {team[:60]!r} cannot name a team: it takes 1-64 characters")
    return team


def check_max_workers(number: int) -> int:
    """Return it, if that many workers can be admitted."""
    if number < 1:
        raise UsageError(f"max_workers: {number} is less than 1")
    return number


def check_token(id_or_name: str) -> str:
    """Return it, if it can be the id or the name of a token."""
    if hidden(id_or_name) != id_or_name:
        raise UsageError("token: give the token's id or name, not its secret, which nobody is to read here")
    if not id_or_name.isprintable():
        raise _unknown(id_or_name)
    return id_or_name


def _unknown(id_or_name: str) -> UsageError:
    return UsageError(f"there is no token {id_or_name[:_LONGEST_NAME]!r}; see: edge-ws token list")


_TOKEN = Parameter(kind=Kind.TEXT, required=True, check=check_token)
_LIMITS = {
    "queues": Parameter(kind=Kind.TEXTS, check=check_queues),
    "team_name": Parameter(kind=Kind.TEXT, check=check_team),
    "expires": Parameter(kind=Kind.TEXT, check=check_expires),
}
SHOW: Mapping[str, Parameter] = {"token": _TOKEN}
CREATE: Mapping[str, Parameter] = {
    "name": Parameter(kind=Kind.TEXT, required=True, check=check_name),
    "worker_name_pattern": Parameter(kind=Kind.TEXT, check=check_pattern),
    **_LIMITS,
    "max_workers": Parameter(kind=Kind.NUMBER, check=check_max_workers),
}
ROTATE: Mapping[str, Parameter] = {
    "token": _TOKEN,
    "overlap": Parameter(kind=Kind.TEXT, check=check_overlap),
}
NARROW: Mapping[str, Parameter] = {"token": _TOKEN, **_LIMITS}


# What is done


def create(
    tokens: TokenStore,
    *,
    name: str,
    worker_name_pattern: str | None = None,
    queues: Sequence[str] | None = None,
    team_name: str | None = None,
    expires: str | None = None,
    max_workers: int | None = None,
) -> Row:
    """Make a token; return it with its secret. Without a pattern it admits the worker of its own name.

    Raises:
        UsageError: without a pattern, and no worker can have that name.
    """
    if worker_name_pattern is None and not is_worker_name(name):
        raise UsageError(
            f"{name!r} cannot name a worker (1-64 letters, digits and ._@:-, a letter or digit first);"
            " give another name, or say by a pattern of workers' names which ones the token admits"
        )
    secret = tokens.create_token(
        name,
        worker_pattern=name if worker_name_pattern is None else worker_name_pattern,
        queues=queues,
        team=team_name,
        expires_in_s=None if expires is None else seconds(expires),
        max_workers=max_workers,
    )
    token, now = _by_secret(tokens, secret)
    return {**_row(token, now), "told": _admits(token, and_workers=True), "secret": secret}


def rotate(tokens: TokenStore, *, token: str, overlap: str = OVERLAP) -> Row:
    """Give a token another secret and return it with that; the old one is good for the overlap.

    Raises:
        UsageError: there is no such token that is not revoked, or several have that name.
    """
    secret = tokens.rotate_token(token, seconds(overlap))
    one, now = _by_secret(tokens, secret)
    told = (
        f"the old secret of token {one.name!r} is taken until {_utc(one.old_expires_at)}; who still uses it:"
        f" edge-ws token show {one.id}"
    )
    return {**_row(one, now), "told": told, "secret": secret}


def narrow(
    tokens: TokenStore,
    *,
    token: str,
    queues: Sequence[str] | None = None,
    team_name: str | None = None,
    expires: str | None = None,
) -> Row:
    """Let a token admit less, and return it.

    Raises:
        UsageError: nothing is given, it would admit more, or as `rotate`.
    """
    if queues is None and team_name is None and expires is None:
        raise UsageError("say what is left to the token: at least one of queues, team_name and expires")
    left = tokens.narrow_token(
        token, queues=queues, team=team_name, expires_in_s=None if expires is None else seconds(expires)
    )
    _, now = tokens.tokens_by_id([])
    return {**_row(left, now), "told": _admits(left)}


def revoke(tokens: TokenStore, *, token: str) -> Row:
    """Revoke the token of that id, or all of that name; tell how many were not revoked before.

    Raises:
        UsageError: there is none, revoked or not.
    """
    count = tokens.revoke_token(token)
    if not count and not any(token in {one.id, one.name} for one in tokens.all_tokens()):
        raise _unknown(token)
    told = f"revoked {count} token{'' if count == 1 else 's'}" if count else "revoked already"
    return {"revoked": count, "told": told}


# What is seen


def listed(tokens: TokenStore) -> list[Row]:
    """Return all tokens."""
    _, now = tokens.tokens_by_id([])
    return [_row(token, now) for token in tokens.all_tokens()]


def shown(tokens: TokenStore, *, token: str) -> list[Row]:
    """Return all that is known of the token of that id, or of each of that name.

    Raises:
        UsageError: there is none.
    """
    found = [one for one in tokens.all_tokens() if token in {one.id, one.name}]
    if not found:
        raise _unknown(token)
    uses, (_, now) = tokens.token_uses(), tokens.tokens_by_id([])
    return [_whole_row(one, uses, now) for one in found]


def _by_secret(tokens: TokenStore, secret: str) -> tuple[TokenRecord, float]:
    found = tokens.find_token(secret)
    if found is None:
        raise UsageError("the token was given another secret, or removed, at the same moment; try it again")
    return found


def _row(token: TokenRecord, now: float) -> Row:
    """Return a token as a row; `now` is the database's time."""
    is_old_taken = token.old_expires_at is not None and token.old_expires_at > now
    return {
        "id": token.id,
        "name": token.name,
        "worker_name_pattern": token.worker_pattern,
        "queues": None if token.queues is None else list(token.queues),
        "team_name": token.team,
        "state": _state(token, now),
        "created": _utc(token.created_at),
        "expires": _utc(token.expires_at),
        "old_secret_until": _utc(token.old_expires_at) if is_old_taken and token.revoked_at is None else None,
    }


def _whole_row(token: TokenRecord, uses: Sequence[TokenUse], now: float) -> Row:
    """Return all that is known of a token; `uses` are everybody's, those seen last first."""
    used = [
        {
            "worker_name": use.worker,
            "last_seen": _utc(use.seen_at),
            "address": use.address,
            "secret": _which(token, use),
        }
        for use in uses
        if use.token_id == token.id
    ]
    last = used[0] if used else {"last_seen": None, "address": None}
    return {
        **_row(token, now),
        "max_workers": token.max_workers,
        "last_used": last["last_seen"],
        "address": last["address"],
        "workers_by_old_secret": [one["worker_name"] for one in used if one["secret"] == OLD],
        "workers": used,
    }


def _which(token: TokenRecord, use: TokenUse) -> str | None:
    """Return by which secret the worker came; None: that was not noted."""
    if use.secret_hash is None:
        return None
    return "current" if use.secret_hash == token.secret_hash else OLD


def _state(token: TokenRecord, now: float) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


def _admits(token: TokenRecord, *, and_workers: bool = False) -> str:
    """Return what a token admits, as a sentence."""
    workers = f"workers named {token.worker_pattern}, " if and_workers else ""
    queues = f"queues {', '.join(token.queues)}" if token.queues is not None else "every queue"
    team = f"team {token.team}" if token.team else "any team"
    until = "until it is revoked" if token.expires_at is None else f"until {_utc(token.expires_at)}"
    return f"token {token.name!r} admits {workers}{queues}, {team}, {until}"


def _utc(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
