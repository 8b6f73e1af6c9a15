"""Who a worker is, by the credential it shows on its first request, before anything is accepted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from edge_ws.errors import RefusedError, TokenRefusedError
from edge_ws.protocol.frames import Hello, Refusal
from edge_ws.protocol.http import WORKER_HEADER
from edge_ws.protocol.ids import WorkerName, is_worker_name
from edge_ws.store.records import Principal, TokenRecord
from edge_ws.store.store import Store


def _refuse(sentence: str) -> RefusedError:
    return RefusedError(Refusal.TOKEN.value, sentence)


def judge(token: TokenRecord, worker: str, now: float) -> None:
    """Check that the token admits the worker at `now` (database time, seconds since the epoch).

    Raises:
        RefusedError: revoked, expired, or for other names; says which.
    """
    if token.revoked_at is not None:
        raise _refuse(f"revoked {_day(token.revoked_at)}")
    if token.expires_at is not None and token.expires_at <= now:
        raise _refuse(f"expired {_day(token.expires_at)}")
    if not token.admits_worker(worker):
        raise _refuse(f"it admits workers named {token.worker_pattern}, not {worker}")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def authenticate(store: Store, secret: str | None, worker: str | None) -> Principal:
    """Return the principal of that secret and worker name (blocking).

    Raises:
        TokenRefusedError: the token is revoked, expired, or not for that name.
        RefusedError: the name is none, or the secret no token's.
        UnreachableError: the database is away.
    """
    if not worker or not is_worker_name(worker):
        raise _refuse(f"the {WORKER_HEADER} header names no worker")
    if not secret:
        raise _refuse("none was sent")
    found = store.find_token(secret)
    if found is None:
        raise _refuse("it is unknown here")
    token, now = found
    try:
        judge(token, worker, now)
    except RefusedError as error:
        raise TokenRefusedError(error.code, str(error), token.name) from None
    return Principal(
        worker=WorkerName(worker),
        queues=frozenset(token.queues) if token.queues is not None else None,
        team=token.team,
        token_id=token.id,
    )


def admit(principal: Principal, hello: Hello) -> Principal:
    """Return the principal for what the worker asks in `hello`, its team settled.

    Raises:
        RefusedError: the credential is for another name or team, or the worker asks for queues that it does
            not admit.
    """
    if hello.worker != principal.worker:
        raise _refuse(f"hello names worker {hello.worker}, the request named {principal.worker}")
    if principal.team is not None and hello.team not in {None, principal.team}:
        raise RefusedError(
            Refusal.NOT_ADMITTED.value,
            f"the token is for team {principal.team}, the worker asks for team {hello.team}; "
            "change --team-name or use that team's token",
        )
    if principal.queues is not None and hello.queues is not None:
        foreign = sorted(set(hello.queues) - principal.queues)
        if foreign:
            raise RefusedError(
                Refusal.NOT_ADMITTED.value,
                f"the token admits queues {', '.join(sorted(principal.queues))}, the worker asks for "
                f"{', '.join(foreign)}; change --queues or make a token with them",
            )
    return replace(principal, team=principal.team or hello.team)
