"""Who a worker is, by the credential on its first request; and the route that tells a worker so.

Knows no connections: one of the same name is not disturbed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from edge_ws.errors import RefusedError, RemoteProtocolError, TokenRefusedError, UnreachableError
from edge_ws.protocol.frames import Hello, Refusal, Status, WorkerFrame
from edge_ws.protocol.http import WORKER_HEADER
from edge_ws.protocol.ids import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    GatewayId,
    WorkerName,
    is_team_name,
    is_worker_name,
)
from edge_ws.server.answers import answer_to, refuse_worker
from edge_ws.server.config import GatewaySettings
from edge_ws.server.ports import Identities
from edge_ws.store.records import Principal, TokenRecord
from edge_ws.store.secret_form import hash_secret
from edge_ws.store.tokens import TokenStore


def _refuse(sentence: str) -> RefusedError:
    return RefusedError(Refusal.TOKEN.value, sentence)


def judge(token: TokenRecord, worker: str, now: float, secret_hash: str | None) -> None:
    """Check that the token, shown by that secret, admits the worker at `now` (database time, epoch seconds).

    Raises:
        RefusedError: revoked, expired, or for other names; says which.
    """
    if token.revoked_at is not None:
        raise _refuse(f"revoked {_day(token.revoked_at)}")
    if token.expires_at is not None and token.expires_at <= now:
        raise _refuse(f"expired {_day(token.expires_at)}")
    expires_at = token.expires_for(secret_hash)
    if expires_at is not None and expires_at <= now:
        raise _refuse("it was replaced by a new one")
    if not token.admits_worker(worker):
        raise _refuse(f"it admits workers named {token.worker_pattern}, not {worker}")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def authenticate(
    store: TokenStore, secret: str | None, worker: str | None, identities: Identities | None = None
) -> Principal:
    """Return the principal of that secret and worker name (blocking).

    What `identities` takes is theirs to judge, and never looked for among our own tokens.

    Raises:
        TokenRefusedError: the token is revoked, expired, or not for that name.
        RefusedError: the name is none, or the secret no token's.
        UnreachableError: the database is away.
    """
    if not worker or not is_worker_name(worker):
        raise _refuse(f"the {WORKER_HEADER} header names no worker")
    if not secret:
        raise _refuse("none was sent")
    if identities is not None and identities.takes(secret):
        known = identities.identify(secret, worker)
        return Principal(
            worker=WorkerName(worker), queues=known.queues, team=known.team, expires_at=known.expires_at
        )
    found = store.find_token(secret)
    if found is None:
        raise _refuse("it is unknown here")
    token, now = found
    secret_hash = hash_secret(secret)
    try:
        judge(token, worker, now, secret_hash)
    except RefusedError as error:
        raise TokenRefusedError(error.code, str(error), token.name) from None
    return Principal(
        worker=WorkerName(worker),
        queues=frozenset(token.queues) if token.queues is not None else None,
        team=token.team,
        token_id=token.id,
        secret_hash=secret_hash,
        expires_at=token.expires_for(secret_hash),
    )


def admitted_now(principal: Principal, token: TokenRecord | None, now: float) -> Principal:
    """Return the principal as its credential admits it at `now`, which may be less than when it came.

    Args:
        principal: of a connection.
        token: its token as it is now; None: there is none.
        now: database time, seconds since the epoch.

    Raises:
        RefusedError: it admits this worker no more.
    """
    if principal.token_id is None:
        # Of a credential that is not stored here only the end is known.
        if principal.expires_at is not None and principal.expires_at <= now:
            raise _refuse(f"expired {_day(principal.expires_at)}")
        return principal
    if token is None:
        raise _refuse("it is deleted")
    judge(token, principal.worker, now, principal.secret_hash)
    if token.team is not None and principal.team not in {None, token.team}:
        raise RefusedError(Refusal.NOT_ADMITTED.value, f"it is for team {token.team} now")
    return replace(
        principal,
        queues=frozenset(token.queues) if token.queues is not None else None,
        team=token.team or principal.team,
        expires_at=token.expires_for(principal.secret_hash),
    )


def judge_again(store: TokenStore, principal: Principal) -> Principal:
    """Return the principal as its credential admits it now (blocking).

    Raises:
        RefusedError: as `admitted_now`.
        UnreachableError: the database is away.
    """
    asked = [] if principal.token_id is None else [principal.token_id]
    known, now = store.tokens_by_id(asked)
    return admitted_now(principal, known.get(principal.token_id or ""), now)


def check_name(principal: Principal, hello: Hello) -> None:
    """Check that `hello` names the worker whose credential it is.

    Raises:
        RefusedError: it names another.
    """
    if hello.worker != principal.worker:
        raise _refuse(f"hello names worker {hello.worker}, the request named {principal.worker}")


def admit(principal: Principal, hello: Hello) -> Principal:
    """Return the principal for what the worker asks in `hello`, its team and its site settled.

    Raises:
        RefusedError: the credential is for another name or team, the team's name is none, or the worker asks
            for queues that the credential does not admit.
    """
    check_name(principal, hello)
    if hello.team is not None and not is_team_name(hello.team):
        raise RefusedError(
            Refusal.NOT_ADMITTED.value,
            "the worker's team cannot name a team: that takes 1-64 printable characters; change --team-name",
        )
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
    return replace(principal, team=principal.team or hello.team, site=hello.inventory.site)


def admit_statement(principal: Principal, frame: WorkerFrame) -> None:
    """Check that the connection whose principal that is may say this.

    Of claims and hosts the store judges by the principal's site.

    Raises:
        RemoteProtocolError: it has not said hello, or speaks for another site than it did there.
    """
    if principal.site is None:
        raise RemoteProtocolError("hello must come before any other statement")
    if isinstance(frame, Status) and frame.inventory.site != principal.site:
        raise RemoteProtocolError("the inventory's site differs from the one in hello")


def renewed(before: Principal, now: Principal) -> Principal:
    """Return the principal of an open connection, `before`, that goes on by the credential of `now`.

    Raises:
        RefusedError: it is for another team.
    """
    if now.team not in {None, before.team}:
        team = "every team" if before.team is None else f"team {before.team}"
        raise RefusedError(
            Refusal.NOT_ADMITTED.value,
            f"it is for team {now.team}, the connection is for {team}; restart the worker to change that",
        )
    return replace(
        before,
        queues=now.queues,
        token_id=now.token_id,
        secret_hash=now.secret_hash,
        expires_at=now.expires_at,
    )


LONGEST_HOLD_S = 60.0
HELD_AT_ONCE = 100
"""Answers that are held back; further ones are given at once."""


class WhoAmI:
    """Answers `GET v1/whoami`, after `hold_s` seconds if the query says so: does something cut it?"""

    def __init__(
        self,
        authenticate: Callable[[HTTPConnection], Awaitable[Principal]],
        settings: GatewaySettings,
        gateway: GatewayId,
    ) -> None:
        self._authenticate = authenticate
        self._settings = settings
        self._gateway = gateway
        self._held = 0

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        try:
            hold_s = _hold_s(request.query_params.get("hold_s", "0"))
        except ValueError as error:
            return refuse_worker(Refusal.PROTOCOL, str(error))
        try:
            principal = await self._authenticate(request)
        except (RefusedError, UnreachableError) as error:
            return answer_to(error)
        held_s = await self._hold(request, hold_s) if hold_s > 0.0 else 0.0
        return JSONResponse(
            {
                "worker": principal.worker,
                "queues": None if principal.queues is None else sorted(principal.queues),
                "team": principal.team,
                "gateway": self._gateway,
                "protocol": PROTOCOL,
                "oldest_protocol": OLDEST_PROTOCOL,
                "versions": self._settings.versions,
                "execution_api_url": self._settings.execution_api_url,
                "held_s": held_s,
                "time": time.time(),
            },
            headers={"cache-control": "no-store"},
        )

    async def _hold(self, request: Request, hold_s: float) -> float:
        """Wait; return for how long, seconds. Shorter when the asker leaves."""
        if self._held >= HELD_AT_ONCE:
            return 0.0
        self._held += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(hold_s):
                while (await request.receive())["type"] != "http.disconnect":
                    continue
        except TimeoutError:
            return hold_s
        finally:
            self._held -= 1
        return time.monotonic() - began


def _hold_s(text: str) -> float:
    try:
        hold_s = float(text)
    except ValueError:
        hold_s = math.nan
    if not 0.0 <= hold_s <= LONGEST_HOLD_S:
        raise ValueError(f"hold_s must be a number of seconds from 0 to {LONGEST_HOLD_S:.0f}")
    return hold_s
