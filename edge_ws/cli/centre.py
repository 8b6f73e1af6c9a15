"""What the centre's verbs do: tokens and tables, in the database of the Airflow installed here.

Parses no arguments (see `edge_ws.cli.verbs`). Results go to stdout; all that is said about them, and
whatever Airflow logs meanwhile, goes to stderr.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy.engine import Engine

from edge_ws.cli.output import Row, render_one, show, tell
from edge_ws.errors import UsageError
from edge_ws.protocol.ids import is_queue_name, is_team_name, is_worker_name
from edge_ws.provider.airflow_setup import (
    airflow_engine,
    edge3_heartbeat_s,
    load_engine,
    log_folder,
    tables_engine,
)
from edge_ws.provider.airflow_tables import Named
from edge_ws.provider.audit import AirflowAudit, operating_user
from edge_ws.provider.tasks import AirflowTasks
from edge_ws.server.admin import LARGEST, perform
from edge_ws.server.diagnosis import Unmet
from edge_ws.server.ports import AuditEntry
from edge_ws.store import schema
from edge_ws.store.database import shown_url
from edge_ws.store.records import TokenRecord, TokenUse
from edge_ws.store.store import Store

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


def parse_expires(text: str, flag: str = "--expires") -> float:
    """Return the seconds that a time such as 90d, 12h or 30m has.

    Raises:
        UsageError: it is no such time, or none between one minute and ten years.
    """
    match = _EXPIRES.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{flag}: {text!r} is not a number of days, hours or minutes such as 90d, 12h or 30m"
        )
    seconds = int(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= LONGEST_EXPIRES_S:
        raise UsageError(f"{flag}: {text} is not between 1m and ten years (3650d)")
    return seconds


def _queue_names(text: str | None) -> tuple[str, ...] | None:
    """Return the queues of a flag.

    Raises:
        UsageError: one of them can name no queue.
    """
    names = None if text is None else tuple(dict.fromkeys(entry.strip() for entry in text.split(",")))
    for entry in names or ():
        if not is_queue_name(entry):
            raise UsageError(f"--queues: {entry!r} cannot name a queue")
    return names


def _team(text: str | None) -> str | None:
    if text is not None and not is_team_name(text):
        raise UsageError(f"--team-name: {text!r} cannot name a team: it takes 1-64 characters")
    return text


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
    return TokenRequest(
        name=name,
        worker_pattern=name if pattern is None else pattern,
        queues=_queue_names(queues),
        team=_team(team),
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
            "old_secret_until": _old_secret_until(token, now),
        }
        for token in tokens
    ]


def _old_secret_until(token: TokenRecord, now: float) -> str | None:
    """Return until when the secret before the last rotation is taken, None if none is."""
    is_taken = token.old_expires_at is not None and token.old_expires_at > now and token.revoked_at is None
    return _utc(token.old_expires_at) if is_taken else None


def token_row(token: TokenRecord, uses: Sequence[TokenUse], now: float) -> Row:
    """Return all that is known of a token; `uses` are everybody's, those seen last first."""
    (row,) = token_rows([token], now)
    mine = [use for use in uses if use.token_id == token.id]
    used = [
        {
            "worker_name": use.worker,
            "last_seen": _utc(use.seen_at),
            "address": use.address,
            "secret": _which(token, use),
        }
        for use in mine
    ]
    old = [use.worker for use in mine if _which(token, use) == OLD]
    last = {
        "last_used": used[0]["last_seen"] if used else None,
        "address": used[0]["address"] if used else None,
    }
    return {**row, "max_workers": token.max_workers, **last, "workers_by_old_secret": old, "workers": used}


OLD = "old"
"""A worker came by the secret before the last rotation."""


def _which(token: TokenRecord, use: TokenUse) -> str | None:
    """Return by which secret the worker came; None: that was not noted."""
    if use.secret_hash is None:
        return None
    return "current" if use.secret_hash == token.secret_hash else OLD


def _token_state(token: TokenRecord, now: float) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "valid"


@contextmanager
def _engine() -> Iterator[Engine]:
    """Yield the engine of Airflow's database, our tables checked."""
    with tables_engine() as engine:
        schema.check(engine)
        yield engine


@contextmanager
def _store() -> Iterator[Store]:
    """Yield the store on Airflow's database, its tables checked."""
    with _engine() as engine:
        yield Store(engine, edge3_beat_s=edge3_heartbeat_s())


@contextmanager
def _changing(event: str, **asked: object) -> Iterator[Store]:
    """Yield the store for a change, which is in the audit log before it is made; `asked` holds no secret."""
    with _engine() as engine:
        audit = AirflowAudit(engine, by_command_line=True)
        audit.record([AuditEntry(event=event, user=None, extra=asked)])
        try:
            yield Store(engine, edge3_beat_s=edge3_heartbeat_s())
        except UsageError as error:
            audit.record([AuditEntry(event=event, user=None, extra={**asked, "refused": str(error)})])
            raise


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


# Tables


def db_migrate(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Create the tables, or bring them up to date."""
    with airflow_engine() as engine:
        schema.migrate(engine)
    tell(f"edge-ws's tables in {shown_url(engine)} are up to date")
    return 0


def db_check(arguments: Namespace) -> int:  # noqa: ARG001 - the shape of every verb
    """Tell whether the tables are as this release needs them."""
    with airflow_engine() as engine:
        schema.check(engine)
    tell(f"edge-ws's tables in {shown_url(engine)} are as this release needs them")
    return 0


def check(arguments: Namespace) -> int:
    """Tell whether all that edge-ws needs at the centre is there."""
    with airflow_engine() as engine:
        # Takes a second: Airflow's executors, models and tokens.
        from edge_ws.provider import check as checks
        from edge_ws.provider import compat

        # It tells of each request.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        findings = list(checks.look(engine, compat.conf))
    tell(checks.render(findings, arguments.output))
    return checks.exit_code(findings)


# Tokens


def token_create(arguments: Namespace) -> int:
    """Make a token; its secret alone goes to stdout."""
    request = token_request(
        arguments.name,
        pattern=arguments.worker_name_pattern,
        queues=arguments.queues,
        team=arguments.team_name,
        expires=arguments.expires,
    )
    if arguments.max_workers is not None and not 1 <= arguments.max_workers <= LARGEST:
        raise UsageError(f"--max-workers: {arguments.max_workers} is not between 1 and {LARGEST}")
    with _changing("token-create", **asdict(request), max_workers=arguments.max_workers) as store:
        secret = store.tokens.create_token(
            request.name,
            worker_pattern=request.worker_pattern,
            queues=request.queues,
            team=request.team,
            expires_in_s=request.expires_in_s,
            max_workers=arguments.max_workers,
        )
    _say(f"{request.told()}; it is shown only this once: put it into the worker's --token-file")
    tell(secret)
    return 0


def token_list(arguments: Namespace) -> int:
    """List the tokens."""
    with _store() as store:
        rows = token_rows(store.tokens.all_tokens(), time.time())
    absent = {"queues": "all", "team_name": "any", "expires": "never"}
    show(rows, arguments.output, absent, "there are no tokens yet")
    return 0


def token_show(arguments: Namespace) -> int:
    """Show all that is known of the token of that id, or of each of that name."""
    with _store() as store:
        known, uses, now = store.tokens.all_tokens(), store.tokens.token_uses(), store.views.clock()
    found = [token for token in known if arguments.token in {token.id, token.name}]
    if not found:
        raise UsageError(f"there is no token {arguments.token!r}; see: edge-ws token list")
    tell("\n\n".join(render_one(token_row(token, uses, now), arguments.output) for token in found))
    return 0


def token_rotate(arguments: Namespace) -> int:
    """Give a token another secret, which alone goes to stdout."""
    overlap_s = parse_expires(arguments.overlap, "--overlap")
    _must_be_text(arguments.token)
    with _changing("token-rotate", token=arguments.token, overlap=arguments.overlap) as store:
        secret = store.tokens.rotate_token(arguments.token, overlap_s)
    _say(
        f"the old secret is taken until {_utc(time.time() + overlap_s)}; who still uses it: edge-ws token "
        f"show {arguments.token}; this one is shown only once: put it into the worker's --token-file"
    )
    tell(secret)
    return 0


def token_narrow(arguments: Namespace) -> int:
    """Let a token admit less; connected workers get no more of the rest."""
    if arguments.queues is None and arguments.team_name is None and arguments.expires is None:
        raise UsageError("give at least one of --queues, --team-name and --expires")
    _must_be_text(arguments.token)
    asked = {"queues": arguments.queues, "team": arguments.team_name, "expires": arguments.expires}
    with _changing("token-narrow", token=arguments.token, **asked) as store:
        left = store.tokens.narrow_token(
            arguments.token,
            queues=_queue_names(arguments.queues),
            team=_team(arguments.team_name),
            expires_in_s=None if arguments.expires is None else parse_expires(arguments.expires),
        )
    until = _utc(left.expires_at)
    queues = f"queues {', '.join(left.queues)}" if left.queues is not None else "every queue"
    team = f"team {left.team}" if left.team else "any team"
    tell(
        f"token {left.name!r} admits {queues}, {team}, {'until ' + until if until else 'until it is revoked'}"
    )
    return 0


def _must_be_text(token: str) -> None:
    if not token.isprintable():
        # No name is like that, and the database might not even take it.
        raise UsageError(f"there is no token {token!r}; see: edge-ws token list")


def token_revoke(arguments: Namespace) -> int:
    """Revoke the token of that id, or all of that name."""
    _must_be_text(arguments.token)
    with _changing("token-revoke", token=arguments.token) as store:
        count = store.tokens.revoke_token(arguments.token)
        if not any(arguments.token in {token.id, token.name} for token in store.tokens.all_tokens()):
            raise UsageError(f"there is no token {arguments.token}; see: edge-ws token list")
    tell(f"revoked {count} token{'' if count == 1 else 's'}" if count else "revoked already")
    return 0


# Operators' verbs


class OnDatabase:
    """The operations of `edge_ws.server.admin`, done here: the operator may write into the database."""

    def __init__(self, engine: Engine) -> None:
        self._store = Store(engine, edge3_beat_s=edge3_heartbeat_s())
        self._tasks = AirflowTasks(engine, log_folder, _unmet)
        self._audit = AirflowAudit(engine, by_command_line=True)

    def __call__(self, operation: str, given: dict[str, object], *, changes: bool) -> object:  # noqa: ARG002
        """Return the operation's result."""
        return perform(
            self._store, operation, given, operator=operating_user(), tasks=self._tasks, audit=self._audit
        )

    def has_gateway(self) -> bool:
        """Tell whether a gateway is alive."""
        return any(one.is_alive for one in self._store.views.gateways())


def _unmet(task: Named) -> tuple[Unmet, ...]:
    # Takes seconds: Airflow itself, its models and the DAG. Only what it has yet to queue is asked about.
    load_engine()
    from edge_ws.provider.dependencies import unmet

    return unmet(task)


@contextmanager
def database() -> Iterator[OnDatabase]:
    """Yield the centre that is this database."""
    with _engine() as engine:
        yield OnDatabase(engine)
